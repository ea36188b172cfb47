"""The pipeline tells a world in which facts help from one in which only steps do."""

import pytest

from shammie.core.backends import LocalBackend
from shammie.recall.evaluate import contrasts
from shammie.recall.planted import POWER, knowledge, planted_model, prompter, questions
from shammie.recall.sample import Sampler
from shammie.recall.samples import Samples
from shammie.recall.settings import RecallSettings

NAMES = ("off", "on", "single", "dummy", "dummy-16", "on-facts", "off-facts", "on-dummy-facts", "on-corrupted-facts")


def ask(world: str) -> Samples:
    model = planted_model(world)
    settings = RecallSettings(NAMES, samples=4, trace_tokens=24, more=0, answer_tokens=3)
    own = Sampler(LocalBackend(model, rows=96), prompter(model), questions(), settings, knowledge())
    found = Samples(world, 4, 0)
    for question in questions():
        found.add({"kind": "question", **vars(question)})
    for record in own.everything(range(24)):
        found.add(record)
    return found


@pytest.mark.parametrize("world", ["facts", "steps"])
def test_mechanisms_are_told_apart(world: str) -> None:
    samples = ask(world)
    rate = {name: samples.accuracy(name).mean() for name in NAMES}
    found = {r["name"]: r["difference"] for r in contrasts(samples)}
    facts, steps = found["facts in reasoning, beyond their length"], found["tokens to compute in"]
    assert rate["off"] < 0.35
    assert rate["single"] < 0.35
    assert rate["on"] > 0.8
    if world == "facts":
        assert rate["dummy"] < 0.35
        assert rate["dummy-16"] < 0.35
        assert min(rate["on-facts"], rate["off-facts"]) > 0.8
        assert min(facts["low"], found["true facts, beyond one that is false"]["low"]) > 0.5
        assert steps["p_value"] > 0.01
    else:
        assert rate["dummy"] > 0.8
        assert rate["dummy-16"] > 0.8
        assert steps["low"] > 0.5
        assert facts["p_value"] > 0.01


def test_scores_grow_with_what_is_planted() -> None:
    easy, nothing = ([POWER.score(level, seed) for seed in range(4)] for level in (POWER.difficulties[0], None))
    assert min(easy) > max(nothing)
    assert POWER.score(0.2, 3) == POWER.score(0.2, 3)
