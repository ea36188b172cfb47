"""`shammie generate`, `capture` and `rotate fit` killed at random moments and resumed give the bytes of a run left alone."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from forked import Commands
from pico import build

KILLS = 9  # of each command


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
    noise = ["--layers", "all", "--part", "in,out", "--channels", "2", "--null-draws", "20", "--shard", "2"]
    shards = ["--sites", "residual:* neurons:1", "--texts-per-shard", "1"]
    return {
        "generate": ["generate", model, "--prompts", str(place / "prompts.jsonl"), *sampling],
        "rotate fit": ["rotate", "fit", model, *noise],
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


@pytest.mark.parametrize("name", ["generate", "capture", "rotate fit"])
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
