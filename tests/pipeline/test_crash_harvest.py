"""A harvest killed at random moments and resumed ends in the bytes of one that was left alone."""

import random
import signal

from forked import Worker
from shammie.core.harvest import Activations

WORK = """
    import random
    import pico
    from shammie.core.harvest import Harvest
    from shammie.core.site import Site

    model = pico.build("qwen3_moe")
    draw = random.Random(1)
    texts = ["".join(draw.choices("abcdef é", k=draw.randint(1, 60))) for _ in range(40)]
    sites = [Site.parse(name) for name in ("residual:2", "router:0", "neurons:1", "embedding")]

    def work(directory):
        harvest = Harvest(model, texts, sites, directory, texts_per_shard=1, skip_first=1)
        for key in harvest.shards:
            if not (harvest.directory / f"{key}.safetensors").exists():
                say("unit", key)
                harvest.write(key)
        harvest.finish()
"""


def contents(directory):
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_killed_harvests_end_in_the_same_bytes(tmp_path):
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    draw = random.Random(0)
    kills = torn = 0
    with Worker(WORK) as worker:
        assert worker.run(alone) == 0
        while kills < 16:
            status = worker.run(killed, kill_after=draw.randint(1, 3), pause=draw.uniform(0, 0.02))
            kills += status == signal.SIGKILL
            torn += bool(list(killed.glob(".*.tmp")))
            assert status in (0, signal.SIGKILL)
            assert not (killed / "index.json").exists() or status == 0
            if status == 0:
                break
            whole = contents(alone)  # whatever is there under its own name is whole
            assert all(whole[name] == data for name, data in contents(killed).items() if not name.startswith("."))
        print(kills, "kills,", torn, "of them left a torn file")  # noqa: T201
        assert kills >= 10
        assert worker.run(killed) == 0
    assert contents(killed) == contents(alone)
    assert not list(killed.glob(".*"))
    assert len(Activations(killed)) == 40
