"""`shammie generate` and `shammie capture` killed at random moments and resumed give the bytes of a run left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pico import build

KILLS = 9  # of each command
# A parent that has imported and warmed everything, so that a killed command costs its own work and no imports.
PARENT = """if True:
    import json, os, sys
    import torch
    from shammie.cli.main import main

    torch.set_num_threads(1)
    answers, sys.stdout = sys.stdout, open(os.devnull, "w")
    for line in json.loads(sys.argv[1]):
        main([*line, "--dry-run"])
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            os._exit(main(json.loads(line)))
        print(child, file=answers, flush=True)
        sys.stdin.readline()  # until then the child keeps its number, so that no other process can be hit
        print(os.waitpid(child, 0)[1], file=answers, flush=True)
"""


class Commands:
    """Starts commands in processes of their own."""

    def __init__(self, warm):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        line = [sys.executable, "-c", PARENT, json.dumps(warm)]
        self.parent = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)
        assert self.parent.stdout.readline() == "ready\n"

    def start(self, line):
        self.parent.stdin.write(json.dumps(line) + "\n")
        self.parent.stdin.flush()
        return int(self.parent.stdout.readline())

    def wait(self):
        self.parent.stdin.write("\n")
        self.parent.stdin.flush()
        return int(self.parent.stdout.readline())

    def close(self):
        self.parent.stdin.close()
        self.parent.stdout.close()
        self.parent.wait(timeout=30)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("crash")
    model = build("llama")
    model.module.save_pretrained(place / "llama")
    model.tokenizer.save_pretrained(place / "llama")
    texts = [f"Text {number} says {'much ' * (number % 7)}about itself." for number in range(150)]
    (place / "texts.txt").write_text("\n".join(texts))
    (place / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return place


def lines_of(place):
    model = str(place / "llama")
    sampling = ["--rows", "1", "--max-new-tokens", "8", "--temperature", "1", "--seed", "3"]
    shards = ["--sites", "residual:* neurons:1", "--texts-per-shard", "1"]
    return {
        "generate": ["generate", model, "--prompts", str(place / "prompts.jsonl"), *sampling],
        "capture": ["capture", model, "--texts", str(place / "texts.txt"), *shards],
    }


@pytest.fixture(scope="module")
def commands(place):
    started = Commands([[*line, "--output-dir", "unused"] for line in lines_of(place).values()])
    yield started
    started.close()


def size_of(path):
    return path.stat().st_size if path.exists() else 0


def contents(run):
    """Every file that a resumed run must share with one left alone."""
    kept = [path for path in run.rglob("*") if path.is_file() and path.name not in ("run.json", "report.html", ".lock")]
    return {str(path.relative_to(run)): path.read_bytes() for path in kept}


@pytest.mark.parametrize("name", ["generate", "capture"])
def test_killed_and_resumed(name, place, commands, tmp_path):
    line = lines_of(place)[name]
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    commands.start([*line, "--output-dir", str(alone)])
    assert commands.wait() == 0
    draw = random.Random(name)
    progress, kills = killed / "progress.jsonl", 0
    for attempt in range(3 * KILLS):
        before = size_of(progress)
        child = commands.start([*line, "--output-dir", str(killed), "--resume"])
        if attempt % 3:  # amid the work; every third time at any moment, loading included
            wanted, deadline = before + draw.randint(1, 150), time.monotonic() + 20
            while size_of(progress) < wanted and time.monotonic() < deadline:
                time.sleep(0.0005)
            time.sleep(draw.uniform(0, 0.02))
        else:
            time.sleep(draw.uniform(0, 0.25))
        os.kill(child, signal.SIGKILL)
        status = commands.wait()
        kills += os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if kills >= KILLS:
            break
    assert kills >= KILLS
    assert 0 < size_of(progress) < size_of(alone / "progress.jsonl")
    commands.start([*line, "--output-dir", str(killed), "--resume"])
    assert commands.wait() == 0
    assert contents(killed) == contents(alone)
    assert "progress.jsonl" in contents(alone)
    assert json.loads((killed / "run.json").read_text())["status"] == "finished"
    assert Path(killed / "report.html").exists()
