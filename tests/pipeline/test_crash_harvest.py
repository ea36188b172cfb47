"""A harvest killed at random moments and resumed ends in the bytes of one that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress

from shammie.core.harvest import Activations

SERVER = """if True:
    import os, random, sys, warnings
    warnings.simplefilter("error")
    import pico
    from shammie.core.harvest import Harvest
    from shammie.core.site import Site

    model = pico.build("qwen3_moe")
    draw = random.Random(1)
    texts = ["".join(draw.choices("abcdef é", k=draw.randint(1, 60))) for _ in range(40)]
    sites = [Site.parse(name) for name in ("residual:2", "router:0", "neurons:1", "embedding")]

    def run(directory):
        work = Harvest(model, texts, sites, directory, texts_per_shard=1, skip_first=1)
        for key in work.shards:
            if not (work.directory / f"{key}.safetensors").exists():
                print("shard", key, flush=True)
                work.write(key)
        work.finish()

    for line in sys.stdin:  # importing once and forking spares a dozen imports of torch
        if not (child := os.fork()):
            print("pid", os.getpid(), flush=True)
            run(line.strip())
            os._exit(0)
        print("ended", os.waitpid(child, 0)[1], flush=True)
"""


class Server:
    def __init__(self):
        tests = os.path.dirname(os.path.dirname(__file__))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([tests, *sys.path]), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.communicate(timeout=30)

    def harvest(self, directory, *, kill_after=None, pause=0.0):
        """Harvest in a fresh process, killed a moment after it began so many shards; its exit status."""
        self.process.stdin.write(f"{directory}\n")
        self.process.stdin.flush()
        shards = 0
        while line := self.process.stdout.readline().split():
            if line[0] == "ended":
                return int(line[1])
            pid = int(line[1]) if line[0] == "pid" else pid
            shards += line[0] == "shard"
            if line[0] == "shard" and shards == kill_after:
                time.sleep(pause)
                with suppress(ProcessLookupError):  # it may have ended within the pause
                    os.kill(pid, signal.SIGKILL)
        raise AssertionError("the server died")


def contents(directory):
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_killed_harvests_end_in_the_same_bytes(tmp_path):
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    draw = random.Random(0)
    kills = torn = 0
    with Server() as server:
        assert server.harvest(alone) == 0
        while kills < 16:
            status = server.harvest(killed, kill_after=draw.randint(1, 3), pause=draw.uniform(0, 0.02))
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
        assert server.harvest(killed) == 0
    assert contents(killed) == contents(alone)
    assert not list(killed.glob(".*"))
    assert len(Activations(killed)) == 40
