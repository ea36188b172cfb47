"""The frame for planted truth, on problems whose power is known."""

import json
import math
import statistics

import numpy as np
import pytest

from shammie.cli import commands
from shammie.core.errors import NonFiniteError, ShammieError
from shammie.core.power import PowerTest, measure_power, summarize
from shammie.core.run import read_run

SHIFTS = (4.0, 3.3, 2.0, 1.0)


def shifted(difficulty, seed):
    return np.random.default_rng(seed).normal() + (difficulty or 0.0)


def nothing(_, seed):
    return np.random.default_rng(seed).normal()


TOY = PowerTest(shifted, SHIFTS, middle=3.3)
NULL = PowerTest(nothing, SHIFTS, middle=4.0)


def measured(test, seed=0):
    return summarize(test, [record for _, records in measure_power(test, seed) for record in records])


def test_power_is_that_of_the_planted_shift():
    test = PowerTest(shifted, SHIFTS, middle=3.3, null_draws=20_000, draws=20_000)
    found = measured(test)
    cut = statistics.NormalDist().inv_cdf(0.95)
    assert found.threshold == pytest.approx(cut, abs=0.05)
    assert found.false_positive_rate.value == pytest.approx(0.05, abs=0.006)
    for shift, power in found.power.items():
        exact = 1 - statistics.NormalDist(shift).cdf(cut)
        assert power.value == pytest.approx(exact, abs=0.02)
        assert power.low <= power.value <= power.high
    assert found.passed


def test_power_falls_with_difficulty_and_passes():
    found = measured(TOY)
    values = [power.value for power in found.power.values()]
    assert values == sorted(values, reverse=True)
    assert found.passed
    assert found.power[3.3].n == 100
    assert found.false_positive_rate.n == 200


@pytest.mark.parametrize("seed", range(20))
def test_a_null_problem_never_passes(seed):
    assert not measured(NULL, seed).passed


def test_false_positives_are_held_on_average():
    rates = [measured(NULL, seed).false_positive_rate.value for seed in range(40)]
    assert statistics.mean(rates) < 0.06


def test_a_constant_score_detects_nothing():
    test = PowerTest(lambda _, __: 1.0, (1.0,), 1.0)
    found = measured(test)
    assert (found.false_positive_rate.value, found.power[1.0].value, found.passed) == (0.0, 0.0, False)


def test_draws_are_independent_and_repeatable():
    records = [record for _, block in measure_power(TOY, 5) for record in block]
    assert len({record["score"] for record in records}) == len(records) == 2 * 200 + 4 * 100
    assert records == [record for _, block in measure_power(TOY, 5) for record in block]
    assert records != [record for _, block in measure_power(TOY, 6) for record in block]
    rest = dict(measure_power(TOY, 5, lambda keys: keys[17:19]))
    assert all(block == dict(measure_power(TOY, 5))[key] for key, block in rest.items())


def test_mistakes():
    for wrong in ({"middle": 7.0}, {"difficulties": (1.0, 1.0)}, {"null_draws": 199}, {"draws": 0}):
        with pytest.raises(ShammieError):
            PowerTest(**{"score": shifted, "difficulties": (1.0, 2.0), "middle": 1.0} | wrong)
    with pytest.raises(NonFiniteError, match="null, draw 0 is nan"):
        next(measure_power(PowerTest(lambda _, __: math.nan, (1.0,), 1.0)))
    with pytest.raises(ShammieError, match="difficulty 1\\.0 has 0 of 100 draws"):
        summarize(TOY, [record for _, block in measure_power(TOY, 0, lambda keys: keys[:-10]) for record in block])


@pytest.fixture
def rooms(monkeypatch):
    monkeypatch.setitem(commands.POWER, "toy", f"{__name__}:TOY")
    monkeypatch.setitem(commands.POWER, "null", f"{__name__}:NULL")


@pytest.mark.usefixtures("rooms")
def test_the_command(shammie, tmp_path):
    code, out, _ = shammie("power", "toy", "--output-dir", tmp_path / "toy")
    assert code == 0
    assert "false positives" in out
    assert "report.html" in out
    kinds = [result["kind"] for result in read_run(tmp_path / "toy").results]
    assert [kinds.count(kind) for kind in ("draw", "false_positives", "power", "verdict")] == [800, 1, 4, 1]
    assert shammie("power", "toy", "--output-dir", tmp_path / "toy", "--resume")[0] == 0
    code, out, _ = shammie("replay", tmp_path / "toy")
    assert (code, out.splitlines()[-1]) == (0, "identical: 806 records, byte for byte")


@pytest.mark.usefixtures("rooms")
def test_the_command_without_a_directory(shammie):
    code, out, _ = shammie("power", "null")
    assert code == 1
    assert "report.html" not in out
    code, out, _ = shammie("power", "toy", "--dry-run")
    assert code == 0
    assert "800" in out
    code, _, err = shammie("power", "nonsense")
    assert code == 2
    assert "'nonsense' has no planted test; rooms that have one: " in err
    assert "toy, null" in err


@pytest.mark.usefixtures("rooms")
def test_a_stopped_measurement_goes_on(shammie, tmp_path):
    assert shammie("power", "toy", "--output-dir", tmp_path / "whole")[0] == 0
    assert shammie("power", "toy", "--output-dir", tmp_path / "torn")[0] == 0
    lines = (tmp_path / "torn" / "progress.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "torn" / "progress.jsonl").write_bytes(b"".join(lines[:33]) + lines[33][:9])
    record = json.loads((tmp_path / "torn" / "run.json").read_text())
    (tmp_path / "torn" / "run.json").write_text(json.dumps(record | {"status": "running", "finished": None}))
    assert shammie("power", "toy", "--output-dir", tmp_path / "torn", "--resume")[0] == 0
    for name in ("results.jsonl", "progress.jsonl"):
        assert (tmp_path / "torn" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
