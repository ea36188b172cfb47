"""A training killed at random moments and resumed ends in the bytes of one that was left alone."""

import random
import signal

from forked import Worker

WORK = """
    import pico, torch, tqdm, accelerate
    from torch.nn.functional import cross_entropy
    from shammie.core.schedule import TrainSettings
    from shammie.core.train import Training

    torch.set_num_threads(1)
    model = pico.build("llama", attention_dropout=0.2).module
    texts = torch.randint(260, (23, 12), generator=torch.Generator().manual_seed(0))
    settings = TrainSettings(steps=80, batch_size=4, accumulation=2, learning_rate=0.01, weight_decay=0.1, warmup=0.1,
                             schedule="cosine", checkpoint_every=3, keep_checkpoints=2)

    def work(directory):
        with Training(directory, model, settings, len(texts), resume=True) as training:
            for step in training:
                say("unit", step.number)
                for piece in step.pieces:
                    kept = texts[piece][:, : 5 + step.number % 7]
                    logits = model(input_ids=kept[:, :-1]).logits.flatten(0, 1)
                    targets = kept[:, 1:].flatten()
                    training.backward(cross_entropy(logits, targets, reduction="sum"), len(targets))
                training.log({"draw": torch.rand(())})
"""


def test_killed_trainings_end_in_the_same_bytes(tmp_path):
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    draw = random.Random(0)
    kills = torn = 0
    with Worker(WORK) as worker:
        assert worker.run(alone) == 0
        while kills < 16:
            aimed = kills % 2 > 0
            pause = draw.uniform(0, 0.002 if aimed else 0.03)
            status = worker.run(
                killed, kill_after=draw.randint(1, 6), pause=pause,
                until=lambda aimed=aimed: not aimed or list(killed.glob(".*.tmp")),
            )  # fmt: skip
            kills += status == signal.SIGKILL
            torn += bool(list(killed.glob(".*.tmp")))
            assert status in (0, signal.SIGKILL)
            if status == 0:
                break
        assert kills >= 10
        assert torn >= 1
        assert worker.run(killed) == 0
    last = "checkpoint-00000080"
    parts = ("model.safetensors", "optimizer.safetensors", "state.json")
    for name in ("metrics.jsonl", *(f"{last}/{part}" for part in parts)):
        assert (killed / name).read_bytes() == (alone / name).read_bytes(), name
    assert len((killed / "metrics.jsonl").read_bytes().splitlines()) == 80
    assert sorted(path.name for path in killed.glob("checkpoint-*")) == ["checkpoint-00000078", last]
    assert not list(killed.glob(".*.tmp"))
