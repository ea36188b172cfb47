"""Training: schedules in closed form, one gradient however a batch is cut, resume to the bit."""

import json
import math
import os
import random
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

import pico
from scripts import run_script
from shammie.core import files
from shammie.core.errors import BackendError, DataError, NonFiniteError, RunError, ShammieError
from shammie.core.plain import from_plain, to_plain
from shammie.core.schedule import TrainSettings, schedule_factor
from shammie.core.train import Training, batch_plan, optimizer_groups

SMALL = TrainSettings(steps=7, batch_size=4, learning_rate=0.05, weight_decay=0.1, warmup=2, schedule="cosine")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny tensors wait for a second thread longer than they compute
    yield
    torch.set_num_threads(threads)


class Toy(nn.Module):
    """A tied embedding, dropout, a norm, a buffer that the loop updates and a frozen layer."""

    def __init__(self, seed=0, dropout=0.3, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(11, 6)
        self.hidden = nn.Linear(6, 6)
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.norm = nn.LayerNorm(6)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.rare = nn.Parameter(torch.ones(6))
        self.register_buffer("seen", torch.zeros(11))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)
        self.to(dtype)

    def forward(self, tokens):
        state = self.frozen(self.dropout(torch.tanh(self.hidden(self.embedding(tokens)))))
        return self.head(self.norm(state))


TEXTS = [[(7 * i + j * j) % 11 for j in range(2 + i % 5)] for i in range(13)]  # of unequal lengths


def losses(model, indices):
    """The sum of the next-token losses of some texts, and how many there are."""
    total = count = 0
    for index in indices:
        tokens = torch.tensor(TEXTS[index])
        total = total + nn.functional.cross_entropy(model(tokens[:-1]), tokens[1:], reduction="sum")
        total = total + model.rare.square().sum() if index == 3 else total  # other steps and processes have no gradient
        count += len(tokens) - 1
    return total, count


class Killed(Exception):
    pass


def train(directory, settings, *, model=None, resume=False, kill=None, midway=False, optimizer=None):
    model = model or Toy()
    with Training(directory, model, settings, len(TEXTS), optimizer and optimizer(model), resume) as training:
        for step in training:
            if step.number == kill and not midway:
                raise Killed
            for piece in step.pieces:
                training.backward(*losses(model, piece))
                if step.number == kill:
                    raise Killed
            with torch.no_grad():
                model.seen = model.seen + training.sum(
                    torch.bincount(torch.tensor(step.pieces).flatten(), minlength=13)[:11]
                )
            training.log({"draws": [random.random(), float(np.random.rand())], "norm": model.hidden.weight.norm()})
    return model


def same(left, right):
    left, right = left.state_dict(), right.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def lines(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


# Settings and pure functions


@pytest.mark.parametrize(
    ("changes", "culprit"),
    [
        ({"steps": 0}, "steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"warmup": 1001.0}, "warmup"),
        ({"floor": 1.5}, "floor"),
        ({"weight_decay": math.inf}, "weight_decay"),
        ({"gradient_clip": -1.0}, "gradient_clip"),
        ({"accumulation": 0}, "accumulation"),
        ({"checkpoint_every": -1}, "checkpoint_every"),
        ({"keep_checkpoints": 0}, "keep_checkpoints"),
        ({"seed": -1}, "seed"),
        ({"schedule": "step"}, "schedule"),
        ({"precision": "int8"}, "precision"),
    ],
)
def test_settings_refuse_in_one_sentence(changes, culprit):
    with pytest.raises(ShammieError, match=f"^{culprit} must be ") as caught:
        TrainSettings(**changes)
    assert "\n" not in str(caught.value)


def test_settings_are_plain_and_back():
    assert from_plain(TrainSettings, json.loads(json.dumps(to_plain(SMALL)))) == SMALL


def test_schedules_in_closed_form():
    plain = TrainSettings(steps=100, warmup=10)
    assert [schedule_factor(step, plain) for step in range(12)] == [(s + 1) / 10 for s in range(10)] + [1, 1]
    assert schedule_factor(0, TrainSettings(steps=100)) == 1
    for warmup in (10, 0.1):
        linear = TrainSettings(steps=100, warmup=warmup, schedule="linear", floor=0.2)
        cosine = replace(linear, schedule="cosine")
        for step in range(10, 100):
            part = (step - 10) / 90
            assert schedule_factor(step, linear) == pytest.approx(1 - 0.8 * part)
            assert schedule_factor(step, cosine) == pytest.approx(0.2 + 0.8 * math.cos(math.pi * part / 2) ** 2)


@given(st.integers(1, 300), st.floats(0, 1), st.sampled_from(["constant", "linear", "cosine"]), st.floats(0, 1))
def test_schedule_rises_then_never_rises(steps, warmup, schedule, floor):
    settings = TrainSettings(steps=steps, warmup=warmup * steps, schedule=schedule, floor=floor)
    factors = [schedule_factor(step, settings) for step in range(steps)]
    peak = factors.index(max(factors))
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[:peak] == sorted(factors[:peak])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


def test_groups_hold_each_trainable_weight_once():
    model = Toy()
    decayed, spared = optimizer_groups(model, 0.1)[::-1]
    assert decayed["weight_decay"] == 0.1
    assert spared["weight_decay"] == 0
    assert {id(p) for p in decayed["params"]} == {id(model.hidden.weight)}
    expected = [model.rare, model.embedding.weight, model.hidden.bias, model.norm.weight, model.norm.bias]
    assert {id(p) for p in spared["params"]} == {id(p) for p in expected}
    assert len(spared["params"]) == 5


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "qwen3_moe"])
def test_groups_of_real_families(family):
    module = pico.shared(family).module
    names = {id(p): name for name, p in module.named_parameters()}
    for group in optimizer_groups(module, 0.1):
        for parameter in group["params"]:
            name = names.pop(id(parameter))
            spared = parameter.ndim < 2 or "embed" in name or "wte" in name or "wpe" in name
            assert group["weight_decay"] == (0 if spared and "unembed" not in name else 0.1), name
    assert not names


@given(st.integers(1, 40), st.integers(1, 6), st.sampled_from([1, 2, 4]), st.integers(0, 3))
@hypothesis_settings(deadline=None)
def test_plan_loses_and_doubles_nothing(items, parts, processes, seed):
    settings = TrainSettings(batch_size=parts * processes, seed=seed)
    plans = [batch_plan(items, settings, process, processes) for process in range(processes)]
    whole = batch_plan(items, settings)
    steps = -(-3 * items // settings.batch_size)
    stream = [index for step in range(steps) for plan in plans for index in plan(step)]
    assert stream == [index for step in range(steps) for index in whole(step)]
    epochs = [stream[start : start + items] for start in range(0, 3 * items, items)]
    assert all(sorted(epoch) == list(range(items)) for epoch in epochs)
    assert items < 9 or epochs[0] != epochs[1]
    assert batch_plan(items, settings)(steps - 1) == whole(steps - 1)  # without what came before


def test_plan_without_items_is_empty():
    assert batch_plan(0, SMALL)(3) == []


def test_uneven_cuts_are_refused():
    with pytest.raises(ShammieError, match="batch_size 4 cannot be cut evenly for accumulation 3 on 1 processes"):
        batch_plan(5, replace(SMALL, accumulation=3))


# The gradient


class Watched(torch.optim.SGD):
    def step(self, closure=None):
        self.seen = [p.grad.clone() for group in self.param_groups for p in group["params"] if p.grad is not None]
        return super().step(closure)


@pytest.mark.parametrize("accumulation", [1, 2, 4])
@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_gradient_is_of_the_weighted_mean_of_the_whole_batch(tmp_path, accumulation, clip):
    model = Toy(dropout=0, dtype=torch.float64)
    optimizer = Watched(model.parameters(), lr=0.0)
    settings = replace(SMALL, steps=1, warmup=0, accumulation=accumulation, gradient_clip=clip)
    train(tmp_path, settings, model=model, optimizer=lambda _: optimizer)
    oracle = Toy(dropout=0, dtype=torch.float64)
    total, count = losses(oracle, batch_plan(len(TEXTS), settings)(0))
    (total / count).backward()
    parameters = [p for p in oracle.parameters() if p.grad is not None]
    norm = math.sqrt(sum(p.grad.square().sum().item() for p in parameters))
    assert norm > 0.01
    for seen, parameter in zip(optimizer.seen, parameters, strict=True):
        torch.testing.assert_close(seen, parameter.grad * min(1, (clip or math.inf) / norm), rtol=1e-12, atol=1e-14)
    (line,) = lines(tmp_path)
    assert line["loss"] == pytest.approx(total.item() / count, rel=1e-12)
    assert line["gradient_norm"] == pytest.approx(norm, rel=1e-12)


def test_updates_are_those_of_adamw_written_out(tmp_path):
    model, oracle = Toy(dropout=0), Toy(dropout=0)
    settings = replace(SMALL, accumulation=2)
    train(tmp_path, settings, model=model)
    optimizer = torch.optim.AdamW(optimizer_groups(oracle, 0.1), 0.05)
    for step in range(settings.steps):
        total, count = losses(oracle, batch_plan(len(TEXTS), settings)(step))
        optimizer.zero_grad()
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_(oracle.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * schedule_factor(step, settings)
        optimizer.step()
    for (name, ours), theirs in zip(model.named_parameters(), oracle.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=name)


# Resume


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    directory = tmp_path_factory.mktemp("straight")
    return directory, train(directory, replace(SMALL, accumulation=2, checkpoint_every=2))


@pytest.mark.parametrize("midway", [False, True])
@pytest.mark.parametrize("kill", range(7))
def test_resume_after_a_kill_at_any_step_is_the_straight_run(tmp_path, straight, kill, midway):
    settings = replace(SMALL, accumulation=2, checkpoint_every=2)
    with pytest.raises(Killed):
        train(tmp_path, settings, kill=kill, midway=midway)
    torch.manual_seed(99)
    random.seed(99)
    with pytest.raises(Killed):  # a second time, later
        train(tmp_path, settings, model=Toy(), resume=True, kill=min(kill + 2, 6))
    model = train(tmp_path, settings, model=Toy(), resume=True)
    assert same(model, straight[1])
    assert (tmp_path / "metrics.jsonl").read_bytes() == (straight[0] / "metrics.jsonl").read_bytes()
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        last = f"checkpoint-00000007/{name}"
        assert (tmp_path / last).read_bytes() == (straight[0] / last).read_bytes()


def test_metrics_have_a_line_a_step(straight):
    found = lines(straight[0])
    assert [line["step"] for line in found] == list(range(7))
    assert list(found[0]) == ["step", "loss", "learning_rate", "gradient_norm", "draws", "norm"]
    assert len({tuple(line["draws"]) for line in found}) == 7
    assert [line["learning_rate"] for line in found] == [0.05 * schedule_factor(step, SMALL) for step in range(7)]


def test_on_disk_are_safetensors_and_json_alone(straight):
    found = sorted(path.relative_to(straight[0]).as_posix() for path in straight[0].rglob("*") if path.is_file())
    names = ["model.safetensors", "optimizer.safetensors", "state.json"]
    assert found == [".lock"] * (".lock" in found) + [f"checkpoint-00000007/{n}" for n in names] + ["metrics.jsonl"]
    stored = files.load_tensors(straight[0] / "checkpoint-00000007/model.safetensors")
    trainable = {"rare", "embedding.weight", "hidden.weight", "hidden.bias", "norm.weight", "norm.bias", "seen"}
    assert stored.keys() == trainable  # the tied head once; neither the frozen layer nor the scratch buffer
    assert stored["seen"].sum() > 0


def test_a_finished_training_yields_nothing_and_gives_its_weights(straight):
    model = Toy(seed=5)
    model.frozen.load_state_dict(straight[1].frozen.state_dict())
    with Training(straight[0], model, replace(SMALL, accumulation=2, checkpoint_every=2), 13, resume=True) as training:
        assert list(training) == []
    assert same(model, straight[1])


def test_an_optimizer_of_the_room_resumes_too(tmp_path):
    def momentum(model):
        return torch.optim.SGD([{"params": model.hidden.parameters()}, {"params": model.norm.parameters(), "lr": 0.3}],
                               lr=0.1, momentum=0.9)  # fmt: skip

    settings = replace(SMALL, checkpoint_every=1)
    model = train(tmp_path / "straight", settings, optimizer=momentum)
    with pytest.raises(Killed):
        train(tmp_path / "killed", settings, optimizer=momentum, kill=4)
    assert same(train(tmp_path / "killed", settings, optimizer=momentum, resume=True), model)
    assert torch.equal(model.embedding.weight, Toy().embedding.weight)


def test_keeps_the_newest_checkpoints(tmp_path):
    train(tmp_path, replace(SMALL, checkpoint_every=1, keep_checkpoints=3))
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [f"checkpoint-0000000{i}" for i in (5, 6, 7)]


def test_several_modules_by_name_and_modes_and_draws_given_back(tmp_path):
    modules = {"left": nn.Linear(2, 2).eval(), "right": nn.Sequential(nn.Linear(2, 2), nn.Dropout().eval())}
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    with Training(tmp_path, modules, replace(SMALL, steps=2)) as training:
        for step in training:
            assert step.pieces == [[]]
            assert modules["left"].training
            assert modules["right"][1].training
            draw = torch.randn(3, 2)
            assert torch.equal(draw, torch.randn(3, 2, generator=torch.Generator().manual_seed(step.seed)))
            training.backward(modules["right"](modules["left"](draw)).sum())
    assert not modules["left"].training
    assert modules["right"].training
    assert not modules["right"][1].training
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1], before[2]) == (random.getstate(), np.random.get_state()[1].tolist())
    assert modules["left"].weight.grad is None
    assert "left.weight" in files.load_tensors(tmp_path / "checkpoint-00000002/model.safetensors")


def test_stopped_stays_stopped(tmp_path):
    def run(resume):
        model = Toy()
        with Training(tmp_path, model, SMALL, len(TEXTS), resume=resume) as training:
            for step in training:
                training.backward(*losses(model, step.pieces[0]))
                training.stopped = step.number == 3
                taken.append(step.number)
        return model

    taken = []
    assert same(run(False), run(True))
    assert taken == [0, 1, 2, 3]
    assert len(lines(tmp_path)) == 4


def test_bfloat16_computes_in_bfloat16_and_keeps_float32(tmp_path):
    model = Toy(dropout=0)
    with Training(tmp_path, model, replace(SMALL, precision="bfloat16"), len(TEXTS)) as training:
        for step in training:
            with training.autocast():
                assert model.hidden(torch.ones(1, 6)).dtype == torch.bfloat16
                loss, count = losses(model, step.pieces[0])
            training.backward(loss, count)
    assert model.hidden.weight.dtype == torch.float32
    assert lines(tmp_path)[-1]["loss"] < lines(tmp_path)[0]["loss"]


def test_a_scaler_skips_what_overflows_and_resumes(tmp_path):
    def run(name, kill=None):
        model = Toy(dropout=0)
        training = Training(tmp_path / name, model, replace(SMALL, checkpoint_every=1), len(TEXTS), resume=True)
        training._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=2)  # CUDA's, elsewhere
        with training:
            for step in training:
                if step.number == kill:
                    raise Killed
                training.backward(*losses(model, step.pieces[0]))
        return model

    with pytest.raises(Killed):
        run("killed", 4)
    assert same(run("killed"), run("straight"))
    skipped = [line["gradient_norm"] is None for line in lines(tmp_path / "straight")]
    assert skipped[0]
    assert not all(skipped)
    assert lines(tmp_path / "straight") == lines(tmp_path / "killed")


def test_a_piece_without_anything_to_learn_is_no_harm(tmp_path):
    model, oracle = nn.Linear(2, 1), nn.Linear(2, 1)
    oracle.load_state_dict(model.state_dict())
    for module, empty in ((model, True), (oracle, False)):
        with Training(tmp_path / str(empty), module, replace(SMALL, steps=1, warmup=0)) as training:
            for _ in training:
                if empty:
                    training.backward(torch.zeros(()), 0)
                training.backward(module(torch.ones(3, 2)).sum(), torch.tensor(3))
    assert same(model, oracle)


# Errors


@pytest.mark.parametrize("what", ["loss", "gradient", "metric"])
def test_what_is_not_finite_stops_before_it_is_kept(tmp_path, what):
    model, before = Toy(), {}
    sentence = {
        "loss": "loss of step 3 is nan; ",
        "gradient": "gradient of hidden.bias in step 3 ",
        "metric": "step 3",
    }

    def run():
        with Training(tmp_path, model, SMALL, len(TEXTS)) as training:
            for step in training:
                loss, count = losses(model, step.pieces[0])
                bad = step.number == 3 and what
                before.update({name: tensor.clone() for name, tensor in model.state_dict().items()})
                if bad == "gradient":
                    loss = loss + torch.sqrt((model.hidden.bias * 0).sum())
                training.backward(loss * (math.nan if bad == "loss" else 1), count)
                training.log({"extra": math.inf if bad == "metric" else 1})

    with pytest.raises(NonFiniteError, match=sentence[what]):
        run()
    assert what == "metric" or all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert len(lines(tmp_path)) == 3
    assert not list(tmp_path.glob("checkpoint-*"))
    assert not list(tmp_path.glob(".*.tmp"))


def test_nothing_to_learn_in_a_step(tmp_path):
    match = r"losses of step 0 have the total weight 0\.0"
    with Training(tmp_path, Toy(), SMALL) as training, pytest.raises(DataError, match=match):
        list(training)


@pytest.mark.parametrize(
    ("change", "named"),
    [({"learning_rate": 0.1}, "learning_rate"), ({"seed": 1}, "seed"), ({"steps": 9}, "steps"),
     ({"schedule": "linear"}, "schedule"), ({"accumulation": 2}, "accumulation")],
)  # fmt: skip
def test_resume_with_changed_settings_is_refused(tmp_path, change, named):
    train(tmp_path, replace(SMALL, steps=2, warmup=0))
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(RunError, match=f"holds a training whose {named} is .*, not .*; repeat its settings"):
        train(tmp_path, replace(SMALL, **{"steps": 2, "warmup": 0} | change), resume=True)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_resume_with_other_items_or_weights_is_refused(tmp_path):
    train(tmp_path, replace(SMALL, steps=2))
    with (
        pytest.raises(RunError, match="whose items is 13, not 14"),
        Training(tmp_path, Toy(), replace(SMALL, steps=2), 14, resume=True),
    ):
        pass
    other = Toy()
    other.hidden = nn.Linear(6, 6, bias=False)
    with pytest.raises(RunError, match=r"whose weight\.hidden\.bias.* is .*, not nothing"):
        train(tmp_path, replace(SMALL, steps=2), model=other, resume=True)


def test_a_directory_in_use_or_begun_is_refused(tmp_path):
    train(tmp_path, SMALL)
    with pytest.raises(RunError, match="already holds a training; add --resume"):
        train(tmp_path, SMALL)
    with Training(tmp_path, Toy(), SMALL, 13, resume=True), pytest.raises(RunError, match="in use by another process"):
        Training(tmp_path, Toy(), SMALL, 13, resume=True).__enter__()


def test_a_damaged_checkpoint_is_named(tmp_path):
    train(tmp_path, SMALL)
    path = tmp_path / "checkpoint-00000007/optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"optimizer\.safetensors is corrupt"):
        train(tmp_path, SMALL, resume=True)


def test_models_that_cannot_be_trained(tmp_path):
    with pytest.raises(ShammieError, match="no trainable weight"):
        Training(tmp_path, Toy().requires_grad_(False), SMALL)
    with pytest.raises(ShammieError, match=r"rare is torch\.bfloat16, .* load the model in float32"):
        Training(tmp_path, Toy(dtype=torch.bfloat16), SMALL)
    with pytest.raises(ShammieError, match="float16 trains unsharded on CUDA, not on cpu"):
        Training(tmp_path, Toy(), replace(SMALL, precision="float16"))
    assert not list(tmp_path.iterdir())


def test_without_accelerate_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(BackendError, match=r"pip install 'shammie\[train\]'"):
        Training(tmp_path, Toy(), SMALL)


def test_deepspeed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(BackendError, match="DeepSpeed"):
        Training(tmp_path, Toy(), SMALL)


# Several processes


WORKER = """if True:
    import sys, warnings
    warnings.simplefilter("error")
    from dataclasses import replace
    from pathlib import Path
    import torch
    sys.path.insert(0, sys.argv[1])
    from core.test_train import SMALL, Killed, Toy, train
    settings = replace(SMALL, accumulation=int(sys.argv[3]), checkpoint_every=2)
    new = lambda: Toy(seed=int(__import__("os").environ["RANK"]), dropout=0, dtype=torch.float64)
    try:
        train(Path(sys.argv[2]), settings, model=new(), kill=5)
    except Killed:
        pass
    train(Path(sys.argv[2]), settings, model=new(), resume=True)
    torch.distributed.destroy_process_group()
"""


def test_two_processes_are_one(tmp_path):
    settings = replace(SMALL, checkpoint_every=2)
    alone = train(tmp_path / "alone", settings, model=Toy(dropout=0, dtype=torch.float64))
    (tmp_path / "worker.py").write_text(WORKER)
    tests = os.path.dirname(os.path.dirname(__file__))
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
               str(tmp_path / "worker.py"), tests, str(tmp_path / "pair"), "2"]  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    stored = files.load_tensors(tmp_path / "pair/checkpoint-00000007/model.safetensors")
    for name, tensor in stored.items():
        torch.testing.assert_close(tensor, alone.state_dict()[name], rtol=1e-9, atol=1e-11)
    for one, two in zip(lines(tmp_path / "alone"), lines(tmp_path / "pair"), strict=True):
        for key in ("step", "loss", "learning_rate", "gradient_norm", "norm"):
            assert two[key] == pytest.approx(one[key], rel=1e-9)


class Task(nn.Module):
    """A tiny language model that computes its loss itself, by its parts: what sharded weights ask for."""

    def __init__(self):
        super().__init__()
        self.model = pico.build("llama", tie_word_embeddings=True).module

    def forward(self, tokens):
        states = self.model.model(input_ids=tokens[:, :-1], use_cache=False).last_hidden_state
        logits = states @ self.model.lm_head.weight.T
        return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")


def train_task(directory, *, resume=False, kill=None):
    task, settings = (
        Task(),
        TrainSettings(steps=5, batch_size=4, learning_rate=0.01, accumulation=2, checkpoint_every=2),
    )
    texts = torch.randint(260, (9, 7), generator=torch.Generator().manual_seed(0))
    with Training(directory, task, settings, len(texts), resume=resume) as training:
        for step in training:
            if step.number == kill:
                raise Killed
            for piece in step.pieces:
                training.backward(task(texts[piece]), 6 * len(piece))
    return task


SHARDED = """if True:
    import sys
    from pathlib import Path
    import torch
    sys.path.insert(0, sys.argv[1])
    from core.test_train import Killed, train_task
    try:
        train_task(Path(sys.argv[2]), kill=3)
    except Killed:
        pass
    task = train_task(Path(sys.argv[2]), resume=True)
    assert type(task.model.lm_head.weight.data).__name__ == "DTensor"
    torch.distributed.destroy_process_group()
"""


def test_sharded_weights_train_to_the_same_model(tmp_path):
    alone = train_task(tmp_path / "alone").state_dict()
    (tmp_path / "worker.py").write_text(SHARDED)
    line = [tmp_path / "worker.py", os.path.dirname(os.path.dirname(__file__)), tmp_path / "pair"]
    run_script(tmp_path, *line, processes=2, CUDA_VISIBLE_DEVICES="", ACCELERATE_USE_FSDP="true")
    stored = files.load_tensors(tmp_path / "pair/checkpoint-00000005/model.safetensors")
    for name, tensor in stored.items():
        torch.testing.assert_close(tensor, alone[name], rtol=1e-4, atol=1e-5, msg=name)
    for one, two in zip(lines(tmp_path / "alone"), lines(tmp_path / "pair"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert two["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-3)
