"""A training killed at random moments and resumed ends in the bytes of one that was left alone."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

SERVER = """if True:
    import os, sys, warnings
    warnings.simplefilter("error")
    import pico, torch, tqdm, accelerate
    from torch.nn.functional import cross_entropy
    from shammie.core.train import Training, TrainSettings

    torch.set_num_threads(1)
    model = pico.build("llama", attention_dropout=0.2).module
    texts = torch.randint(260, (23, 12), generator=torch.Generator().manual_seed(0))
    settings = TrainSettings(steps=80, batch_size=4, accumulation=2, learning_rate=0.01, weight_decay=0.1, warmup=0.1,
                             schedule="cosine", checkpoint_every=3, keep_checkpoints=2)

    def say(*words):  # in one write, which a kill cannot tear
        os.write(1, (" ".join(map(str, words)) + "\\n").encode())

    def train(directory):
        with Training(directory, model, settings, len(texts), resume=True) as training:
            for step in training:
                say("step", step.number)
                for piece in step.pieces:
                    kept = texts[piece][:, : 5 + step.number % 7]
                    logits = model(input_ids=kept[:, :-1]).logits.flatten(0, 1)
                    targets = kept[:, 1:].flatten()
                    training.backward(cross_entropy(logits, targets, reduction="sum"), len(targets))
                training.log({"draw": torch.rand(())})

    for line in sys.stdin:  # importing once and forking spares a dozen imports of torch
        if not (child := os.fork()):
            say("pid", os.getpid())
            train(line.strip())
            os._exit(0)
        say("ended", os.waitpid(child, 0)[1])
"""


class Server:
    def __init__(self):
        tests = os.path.dirname(os.path.dirname(__file__))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([tests, *sys.path]), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

        self.watchdog = threading.Timer(120, self.process.kill)

    def __enter__(self):
        self.watchdog.start()
        return self

    def __exit__(self, *_):
        self.process.communicate(timeout=30)
        self.watchdog.cancel()

    def train(self, directory, *, kill_after=None, pause=0.0, in_checkpoint=False):
        """Train in a fresh process, killed a moment after it began so many steps (or a checkpoint); its exit status."""
        self.process.stdin.write(f"{directory}\n")
        self.process.stdin.flush()
        steps = 0
        while line := self.process.stdout.readline().split():
            if line[0] == "ended":
                return int(line[1])
            pid = int(line[1]) if line[0] == "pid" else pid
            steps += line[0] == "step"
            if line[0] == "step" and steps == kill_after:
                deadline = time.monotonic() + 1
                while in_checkpoint and not list(directory.glob(".*.tmp")) and time.monotonic() < deadline:
                    pass
                time.sleep(pause)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        raise AssertionError("the server died")


def test_killed_trainings_end_in_the_same_bytes(tmp_path):
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    draw = random.Random(0)
    kills = torn = 0
    with Server() as server:
        assert server.train(alone) == 0
        while kills < 16:
            aimed = kills % 2 > 0
            pause = draw.uniform(0, 0.002 if aimed else 0.03)
            status = server.train(killed, kill_after=draw.randint(1, 6), pause=pause, in_checkpoint=aimed)
            kills += status == signal.SIGKILL
            torn += bool(list(killed.glob(".*.tmp")))
            assert status in (0, signal.SIGKILL)
            if status == 0:
                break
        assert kills >= 10
        assert torn >= 1
        assert server.train(killed) == 0
    last = "checkpoint-00000080"
    parts = ("model.safetensors", "optimizer.safetensors", "state.json")
    for name in ("metrics.jsonl", *(f"{last}/{part}" for part in parts)):
        assert (killed / name).read_bytes() == (alone / name).read_bytes(), name
    assert len((killed / "metrics.jsonl").read_bytes().splitlines()) == 80
    assert sorted(path.name for path in killed.glob("checkpoint-*")) == ["checkpoint-00000078", last]
    assert not list(killed.glob(".*.tmp"))
