"""Erasers on the planted model: borrowed weights come back, runs resume, and EMBER holds what the others lose again."""

from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
from ember_planted import SETTINGS

from shammie.core.errors import NonFiniteError, ShammieError, SiteError
from shammie.core.schedule import TrainSettings
from shammie.core.train import Training
from shammie.ember.edit import random_directions
from shammie.ember.erasers import ERASERS, base, cells
from shammie.ember.erasers.snmf import semi_nmf
from shammie.ember.measure import Bench
from shammie.ember.pack import load_pack
from shammie.ember.prompts import DISGUISES, concept_words, disguised
from shammie.ember.relearn import relearn
from shammie.ember.settings import RelearnSettings

TRAIN = TrainSettings(steps=40, batch_size=16, learning_rate=3e-3)
SMALL = {
    "rmu": ERASERS["rmu"](strength=5.0, alpha=5.0, train=TRAIN),
    "graddiff": ERASERS["graddiff"](train=TRAIN),
    "npo": ERASERS["npo"](train=TRAIN),
    "elm": ERASERS["elm"](layers=(0.0, 1.0), train=TRAIN),
    "snmf": ERASERS["snmf"](depth=1.0, features=24, share=0.1, ratio=1.2),
}
ATTACK = RelearnSettings(epochs=6, batch_size=6, learning_rate=3e-4, points=1)


def digest(model):
    return {name: tensor.clone() for name, tensor in model.module.state_dict().items()}


def same(model, state):
    return all(torch.equal(tensor, state[name]) for name, tensor in model.module.state_dict().items())


def accuracy(bench):
    own = bench.ask("test", sets=("questions",))
    return sum(answer.hit for answer in own) / len(own)


def relearned(bench, place, kind="full", settings=ATTACK):
    seen = {}
    relearn(bench.model, bench.pack, kind, settings, place, 0, lambda step: seen.__setitem__(step, accuracy(bench)))
    return seen[max(seen)]


def test_every_grid_is_of_one_size():
    assert {len(eraser.grid()) for eraser in ERASERS.values()} == {6}
    assert len({repr(cell) for eraser in ERASERS.values() for cell in eraser.grid()}) == 30
    with pytest.raises(ShammieError, match="choose one of rmu"):
        cells("nonsense", 1)
    with pytest.raises(ShammieError, match="between 1 and 6"):
        cells("rmu", 7)


@pytest.mark.parametrize("name", list(ERASERS))
def test_ember_holds_what_each_eraser_loses_again(name, model, pack, bench, before, directions, tmp_path):
    state, flags = digest(model), [p.requires_grad for p in model.module.parameters()]
    eraser, edit = SMALL[name], directions.patch(model, 2.0)
    plain = eraser.erase(model, pack, tmp_path / "plain", 0, resume=False)
    assert same(model, state)
    assert [p.requires_grad for p in model.module.parameters()] == flags
    with plain.applied(model):
        alone = bench.outcome("test", before["test"], bench.ask("test"), "choice", soft=False)
        alone_relearned = relearned(bench, tmp_path / "relearn-plain")
    with ExitStack() as stack:
        stack.enter_context(edit.applied(model))
        over = eraser.erase(model, pack, tmp_path / "over", 0, resume=False)
        stack.enter_context(over.applied(model))
        both = bench.outcome("test", before["test"], bench.ask("test"), "choice", soft=False)
        both_relearned = relearned(bench, tmp_path / "relearn-over")
    assert same(model, state)
    assert both.specificity.value >= alone.specificity.value - 0.15
    assert alone_relearned >= 0.75
    assert both_relearned <= 0.4
    assert both.efficacy.value > alone.efficacy.value - 0.2


def test_ember_alone_holds_and_random_features_do_not(model, pack, bench, before, directions, tmp_path):
    for adaptation in ("full", "lora"):
        with directions.patch(model, 2.0).applied(model):
            found = bench.outcome("test", before["test"], bench.ask("test"), "choice", soft=False)
            held = relearned(bench, tmp_path / f"held-{adaptation}", adaptation)
        assert found.efficacy.value > 0.7
        assert found.specificity.value > 0.95
        assert found.coherence.value > 0.95
        assert held <= 0.5
    control = random_directions(model, pack, SETTINGS, directions, 0)
    with control.patch(model, 2.0).applied(model):
        assert accuracy(bench) > 0.7
        assert relearned(bench, tmp_path / "control") > 0.7


def test_modules_are_chosen_by_name(model):
    assert base.weight_names(model, ["down_proj"], [1]) == ["model.layers.1.mlp.down_proj.weight"]
    assert len(base.weight_names(model, ["mlp"])) == 6
    with pytest.raises(SiteError, match="no layer of planted-0 has a module 'c_fc'"):
        base.weight_names(model, ["c_fc"])
    with pytest.raises(SiteError, match="layer 9 does not exist"):
        base.weight_names(model, ["mlp"], [9])


def test_an_eraser_that_diverges_says_so_and_leaves_the_model(model, pack, tmp_path):
    state = digest(model)
    wild = replace(SMALL["graddiff"], train=replace(TRAIN, learning_rate=1e38, gradient_clip=0.0))
    with pytest.raises(NonFiniteError, match="lower the learning rate"):
        wild.erase(model, pack, tmp_path / "wild", 0, resume=False)
    assert same(model, state)


def test_a_stopped_eraser_resumes_to_the_same_patch(model, pack, tmp_path, monkeypatch):
    eraser = replace(SMALL["npo"], train=replace(TRAIN, steps=12, checkpoint_every=4))
    whole = eraser.erase(model, pack, tmp_path / "whole", 0, resume=False)
    steps = []
    backward = Training.backward

    def stopping(self, *args):
        steps.append(1)
        if len(steps) == 7:
            raise KeyboardInterrupt
        backward(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(Training, "backward", stopping)
        with pytest.raises(KeyboardInterrupt):
            eraser.erase(model, pack, tmp_path / "cut", 0, resume=False)
    assert eraser.erase(model, pack, tmp_path / "cut", 0, resume=True).hash == whole.hash


def test_adapters_are_taken_off_again(model, bench, tmp_path):
    state, names = digest(model), [name for name, _ in model.module.named_modules()]
    relearned(bench, tmp_path / "lora", "lora")
    assert [name for name, _ in model.module.named_modules()] == names
    assert same(model, state)


def test_semi_nmf_is_non_negative_sparse_and_fits():
    draw = torch.Generator().manual_seed(0)
    truth = torch.rand(80, 4, generator=draw) * (torch.rand(80, 4, generator=draw) < 0.4)
    patterns = torch.zeros(4, 50)
    for k in range(4):
        patterns[k, 10 * k : 10 * k + 5] = torch.randn(5, generator=draw)
    states = truth @ patterns
    features, g = semi_nmf(states, 4, 5, 200, 0)
    assert (g >= 0).all()
    assert ((features != 0).sum(1) <= 5).all()
    assert float((states - g @ features).square().sum() / states.square().sum()) < 0.5


def test_disguises_repeat_and_change_only_the_concepts_words():
    pack = load_pack("honeybees")
    for kind in DISGUISES:
        one, again = (disguised(pack, "test", kind, 3) for _ in range(2))
        assert one == again
        assert len(one) == len(pack.questions.test)
        assert all(text.rstrip().endswith(("Answer:", "answer:", "it is", "It is")) for text in one.values())
    assert any(disguised(pack, "test", "typos", 3)[k] != disguised(pack, "test", "typos", 4)[k] for k in one)


def test_concept_words_stand_on_one_side_only():
    assert concept_words(("Bees make honey",), ("They make bread",)) == {"bees", "honey"}


def test_a_bench_reads_while_nothing_is_in_force(model, pack, directions):
    fresh = Bench(model, pack, ("choice",), 0, limit=3)
    assert set(fresh.readings) == {"validation", "test", "concept"}
    assert fresh.readings is fresh.readings
