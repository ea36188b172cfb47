"""The report's numbers where the truth is known: a simulated model with given rates, and records made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from shammie.core.errors import ShammieError
from shammie.core.run import Run, read_run
from shammie.core.stats import pass_at_k
from shammie.recall import equations as eq
from shammie.recall.evaluate import contrasts, guessed, lengths, omega_record, reach, shown_ks, summary
from shammie.recall.hallucinations import POLICIES, audit, hallucinations, selection
from shammie.recall.planted import Rates, Simulated, knowledge, prompter, questions
from shammie.recall.reporting import vote
from shammie.recall.running import Plan
from shammie.recall.sample import Sampler
from shammie.recall.samples import Samples
from shammie.recall.settings import RecallSettings

CONDITIONS = ("off", "on", "single", "dummy", "on-facts", "on-dummy-facts", "on-corrupted-facts", "on-irrelevant-facts")


def simulate(place, model, rates: Rates, **changes) -> Samples:
    settings = RecallSettings(**{"conditions": CONDITIONS, "samples": 32, "more": 0, **changes})
    sampler = Sampler(Simulated(rates), prompter(model), questions(), settings, knowledge())
    config = {"model": "simulated", "settings": {"samples": settings.samples, "more": settings.more}}
    with Run.open("recall run", config, place) as run:
        Plan(run, sampler, 8).carry_out()
    return Samples.of(read_run(place))


@pytest.fixture(scope="module")
def priming(facts_world, tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("a") / "run", facts_world, Rates(base=0.2, fact=0.4))


@pytest.fixture(scope="module")
def nothing(facts_world, tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("b") / "run", facts_world, Rates(base=0.2))


def differences(samples: Samples) -> dict:
    return {r["name"]: r["difference"] for r in contrasts(samples)}


def test_known_rates_are_recovered(priming: Samples) -> None:
    rates = {"off": 0.2, "single": 0.2, "dummy": 0.2, "on-dummy-facts": 0.2, "on": 0.2 + 0.8 * 0.4, "on-facts": 0.52}
    for condition, rate in rates.items():
        assert priming.accuracy(condition).mean() == pytest.approx(rate, abs=0.05)
    omega = omega_record(priming, "on", "all", np.ones(24, dtype=bool), 0)["omega"]
    ks = np.arange(1, 33)
    on, off = (1 - (1 - rate) ** ks for rate in (0.52, 0.2))
    expected = float(eq.omega(torch.tensor(on), torch.tensor(off)))
    assert omega["low"] <= expected <= omega["high"] or omega["value"] == pytest.approx(expected, abs=0.08)


def test_facts_are_told_from_length(priming: Samples) -> None:
    found = differences(priming)
    assert found["facts in reasoning, beyond their length"]["low"] > 0.2
    assert found["true facts, beyond one that is false"]["value"] == pytest.approx(0.4, abs=0.08)
    assert found["these facts, beyond another question's"]["low"] > 0.2
    assert abs(found["tokens to compute in"]["value"]) < 0.08


def test_nothing_is_found_where_nothing_is(nothing: Samples) -> None:
    for name, found in differences(nothing).items():
        assert found["p_value"] > 0.01, name
    omega = omega_record(nothing, "on", "all", np.ones(24, dtype=bool), 0)["omega"]
    assert omega["low"] < 0.05
    assert omega["high"] > -0.05


def test_false_facts_are_seen_to_hurt(priming: Samples, nothing: Samples) -> None:
    kinds = {r["kind"]: r for r in hallucinations(priming)}
    pooled = {r["traces"]: r["accuracy"] for r in hallucinations(priming) if r["kind"] == "pooled"}
    assert pooled["clean"]["value"] == pytest.approx(0.6, abs=0.06)
    assert pooled["false"]["value"] == pytest.approx(0.2, abs=0.06)
    assert kinds["within"]["difference"]["low"] > 0.2
    assert kinds["within"]["slope"]["high"] < 1
    (null,) = (r for r in hallucinations(nothing) if r["kind"] == "within")
    assert null["difference"]["p_value"] > 0.01
    (counted,) = audit(priming)
    assert counted["natures"]["clean"] + counted["natures"]["false"] == counted["traces"] == 24 * 32
    assert counted["natures"]["false"] / counted["traces"] == pytest.approx(0.2, abs=0.05)


def test_selection_gains_what_it_should(priming: Samples) -> None:
    found = {r["policy"]: r for r in selection(priming)}
    assert set(found) == set(POLICIES)
    assert found["regular"]["gain"]["value"] == 0
    assert found["only correct facts"]["accuracy"]["value"] == pytest.approx(0.6, abs=0.06)
    assert found["only correct facts"]["gain"]["low"] > 0


def test_pass_at_k_is_of_the_first_samples(priming: Samples) -> None:
    hits = priming.correct("off").sum(1).astype(int)
    assert np.array_equal(priming.passes("off", 8)[:, 7], pass_at_k(32, hits, 8))
    assert np.allclose(priming.passes("off", 8)[:, 0], priming.accuracy("off"))


def test_further_samples_are_compared_on_equal_terms(facts_world, tmp_path) -> None:
    own = simulate(
        tmp_path / "run", facts_world, Rates(base=0.04, fact=0.3), samples=4, more=20, conditions=("off", "on")
    )
    (found,) = reach(own)
    assert found["samples"] == 16
    assert 12 <= found["questions"] <= 24
    assert found["off"]["value"] == pytest.approx(1 - 0.96**16, abs=0.25)
    assert found["on"]["value"] > found["off"]["value"]
    assert list(reach(simulate(tmp_path / "b", facts_world, Rates(), samples=4, conditions=("off", "on")))) == []


def test_omega_without_a_hit_is_undefined_and_says_so(facts_world, tmp_path) -> None:
    own = simulate(tmp_path / "run", facts_world, Rates(base=0.0, fact=0.5), samples=4, conditions=("off", "on"))
    found = omega_record(own, "on", "all", np.ones(24, dtype=bool), 0)
    assert found["omega"] is None
    assert "no sample without reasoning" in found["undefined"]
    assert found["ks_dropped"] == 4
    summary(own)  # nothing else breaks on it


def test_k_above_n_is_refused(priming: Samples) -> None:
    assert shown_ks(priming) == [1, 2, 4, 8, 16, 32]
    with pytest.raises(ShammieError, match="pass@33 needs at least 33 samples"):
        shown_ks(priming, (1, 33))


def test_length_sweep(facts_world, tmp_path) -> None:
    sweep = ("off", "on", "dummy-2", "dummy-4", "dummy-32", "dummy-32:dots")
    own = simulate(tmp_path / "run", facts_world, Rates(base=0.1, length=0.5), samples=16, conditions=sweep)
    found = {(r["filler"], r["tokens"]): r["accuracy"]["value"] for r in lengths(own)}
    assert found["sentence", 2] < 0.2
    assert found["sentence", 32] == pytest.approx(0.6, abs=0.1)
    assert found["dots", 32] == pytest.approx(0.6, abs=0.1)


def test_guessing_by_the_relations_answers(priming: Samples) -> None:
    shares = guessed(priming)
    values = [q.answers[0] for q in questions()]
    assert shares == [(values.count(v) - 1) / 23 for v in values]


@pytest.mark.parametrize(
    ("answers", "winner"),
    [
        (["Lima", "lima.", "Quito"], "Lima"),
        (["Quito", "Lima", "the Lima"], "Lima"),
        (["", "Quito", ""], "Quito"),
        (["", ""], ""),
        (["A", "B"], "A"),
    ],
)
def test_votes(answers: list[str], winner: str) -> None:
    assert vote(answers) == winner
