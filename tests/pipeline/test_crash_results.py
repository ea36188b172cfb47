"""A run killed at random moments and resumed gives the bytes of a run that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time

from shammie.core.run import read_run

KILLS, LIFE, ITEMS = (
    14,
    14,
    200,
)  # a worker of one life stops after LIFE items, so that all of them finish fewer than ITEMS

WORKER = """if True:
    import random, sys, time
    from dataclasses import dataclass
    from shammie.core.run import Run

    @dataclass(frozen=True)
    class Config:
        seed: int = 7

    print("start", flush=True)
    keys = [f"item-{i:03}" for i in range(int(sys.argv[2]))]
    with Run.open("crash", Config(), sys.argv[1], resume=True) as run:
        for done, key in enumerate(run.items(keys, "items"), 1):
            draw = random.Random(key)
            batch = range(draw.randint(0, 4))
            run.record(key, [{"key": key, "part": part, "text": "ñ" * draw.randint(0, 400)} for part in batch])
            print(key, flush=True)
            if done == int(sys.argv[3]):
                time.sleep(60)
"""


def worker(directory, life=ITEMS + 1):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    line = [sys.executable, "-c", WORKER, directory, str(ITEMS), str(life)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, env=environment)


def test_killed_runs_lose_and_double_nothing(tmp_path):
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    process = worker(alone)
    process.communicate(timeout=60)
    assert process.returncode == 0
    draw = random.Random(0)
    for _ in range(KILLS):
        process = worker(killed, LIFE)
        for _ in range(draw.randint(1, LIFE)):  # the first line comes before the directory is touched
            process.stdout.readline()
        time.sleep(draw.uniform(0, 0.006))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert read_run(killed).status == "running"
    process = worker(killed)
    process.communicate(timeout=60)
    assert process.returncode == 0
    for name in ("results.jsonl", "progress.jsonl"):
        assert (killed / name).read_bytes() == (alone / name).read_bytes()
    assert read_run(killed).completed == ITEMS
    assert not list(killed.glob(".*.tmp"))
