"""Estimates and bootstrap intervals against scipy, properties and coverage."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from shammie.core import stats
from shammie.core.errors import DataError
from shammie.core.intervals import widened_tail
from shammie.core.stats import Estimate

finite = st.integers(-50, 50).map(lambda value: value / 4)
columns = st.lists(finite, min_size=2, max_size=30)
quick = settings(max_examples=60, deadline=None, derandomize=True)


def contains(estimate: Estimate) -> bool:
    return estimate.low <= estimate.value <= estimate.high


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(0.48, 0.41, 0.55, 200), "0.48 [0.41, 0.55] (n=200)"),
        (Estimate(0.0031, 0.0028, 0.0035, 9000), "0.00310 [0.00280, 0.00350] (n=9000)"),
        (Estimate(345.2, 330.1, 360.9, 12), "345 [330, 361] (n=12)"),
        (Estimate(1.0, 1.0, 1.0, 5), "1.00 [1.00, 1.00] (n=5)"),
    ],
)
def test_an_estimate_prints_the_digits_its_interval_supports(estimate, text):
    assert str(estimate) == text


def test_records_are_plain_json_and_an_unbounded_end_is_null():
    record = json.loads(json.dumps(stats.mean_interval(np.float32([2, 4, 9]), seed=1).as_dict(), allow_nan=False))
    assert record["value"] == 5
    assert record["n"] == 3
    assert record["method"] == "bootstrap"
    lone = stats.mean_interval([3.0])
    assert (lone.value, lone.low, lone.high) == (3, -math.inf, math.inf)
    assert lone.as_dict()["low"] is None
    assert lone.as_dict()["high"] is None
    compared = stats.paired_difference([1.0, 2.0], [1.0, 1.0], seed=0).as_dict()
    assert compared["test"] == "exact sign flip"
    assert json.dumps(compared, allow_nan=False)


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 20), (20, 20), (7, 30), (499, 1000)])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_wilson_equals_scipy(successes, n, level):
    ours = stats.proportion(successes, n, level)
    theirs = scipy.stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    np.testing.assert_allclose([ours.low, ours.high], [theirs.low, theirs.high], atol=1e-12)
    assert contains(ours)
    assert 0 <= ours.low <= ours.high <= 1


@given(st.integers(1, 500), st.data())
@quick
def test_wilson_is_symmetric_and_narrows_with_n(n, data):
    successes = data.draw(st.integers(0, n))
    ours, mirror = stats.proportion(successes, n), stats.proportion(n - successes, n)
    np.testing.assert_allclose([ours.low, ours.high], [1 - mirror.high, 1 - mirror.low], atol=1e-12)
    larger = stats.proportion(4 * successes, 4 * n)
    assert larger.high - larger.low < ours.high - ours.low


@pytest.mark.parametrize("units", [5, 8, 20, 100, 5000])
def test_the_widened_tail_follows_students_quantile(units):
    student = scipy.stats.t.ppf(0.975, units - 1)
    expected = scipy.stats.norm.cdf(-math.sqrt(units / (units - 1)) * student)
    assert widened_tail(0.95, units) == pytest.approx(expected, rel=0.03)


@given(columns, st.integers(0, 5))
@quick
def test_mean_interval_bounds_and_repeats(values, seed):
    first, again = (stats.mean_interval(values, seed=seed, draws=200) for _ in range(2))
    assert first == again
    assert contains(first)
    assert first.value == pytest.approx(np.mean(values), abs=1e-12)
    assert min(values) - 1e-9 <= first.low
    assert first.high <= max(values) + 1e-9


@given(columns, st.permutations(range(6)))
@quick
def test_cluster_intervals_do_not_depend_on_row_order_or_names(values, order):
    clusters = np.arange(len(values)) % 6
    shuffle = np.random.default_rng(0).permutation(len(values))
    first = stats.mean_interval(values, clusters, draws=200)
    second = stats.mean_interval(np.array(values)[shuffle], clusters[shuffle], draws=200)
    np.testing.assert_allclose([first.low, first.high], [second.low, second.high], atol=1e-9)
    named = stats.mean_interval(values, [f"question {name}" for name in clusters], draws=200)
    assert named == first
    assert first.n == min(6, len(values))
    assert stats.mean_interval(values, np.array(order)[clusters], draws=200).value == first.value


def test_the_general_bootstrap_agrees_with_the_weighted_one_on_all_paths():
    generator = np.random.default_rng(3)
    values, even = generator.normal(size=60), np.arange(60) // 3
    ragged = np.minimum(np.arange(60) // 4, 9)
    for clusters in (None, even, ragged):
        expected = stats.mean_interval(values, clusters, seed=4)
        for statistic in (np.mean, lambda column: float(column.mean())):
            found = stats.bootstrap(statistic, values, clusters=clusters, seed=4)
            np.testing.assert_allclose([found.low, found.high], [expected.low, expected.high], atol=1e-12)


def test_bootstrap_is_near_scipys_percentile_interval():
    values = np.random.default_rng(5).exponential(size=400)
    ours = stats.bootstrap(np.median, values, seed=1, draws=4000)
    theirs = scipy.stats.bootstrap((values,), np.median, method="percentile", n_resamples=4000, rng=2)
    np.testing.assert_allclose([ours.low, ours.high], theirs.confidence_interval, atol=0.02)


def test_bootstrap_leaves_out_resamples_without_a_value_and_takes_builtins():
    def spread_share(column):
        if np.ptp(column) == 0:
            raise DataError("a resample without spread")
        return 1.0

    assert stats.bootstrap(spread_share, [0, 0, 0, 1], seed=0).value == 1
    assert stats.bootstrap(max, [1.0, 5.0, 2.0], seed=0, draws=50).value == 5
    with pytest.raises(DataError, match="without spread"):
        stats.bootstrap(spread_share, [0, 0], seed=0)
    with pytest.raises(DataError, match="most resamples"):
        stats.bootstrap(lambda column: 1.0 if len(set(column)) == 8 else math.nan, np.arange(8), seed=0)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_interval_of_a_biased_statistic_still_holds_the_estimate(sign):
    estimate = stats.bootstrap(lambda column: sign * len(set(column)), np.arange(20), seed=0, draws=100)
    assert contains(estimate)


def test_intervals_widen_when_rows_of_a_cluster_repeat():
    base = np.random.default_rng(0).normal(size=40)
    alone, repeated = stats.mean_interval(base, seed=1), stats.mean_interval(np.repeat(base, 5), seed=1)
    clustered = stats.mean_interval(np.repeat(base, 5), np.repeat(np.arange(40), 5), seed=1)
    assert clustered.low == pytest.approx(alone.low)
    assert clustered.high == pytest.approx(alone.high)
    assert repeated.high - repeated.low < 0.6 * (alone.high - alone.low)


def coverage(interval, truth: float, trials: int) -> float:
    found = [interval(np.random.default_rng(1000 + trial), trial) for trial in range(trials)]
    return float(np.mean([estimate.low <= truth <= estimate.high for estimate in found]))


@pytest.mark.parametrize("n", [8, 25])
def test_coverage_of_the_mean(n):
    share = coverage(lambda rng, seed: stats.mean_interval(rng.normal(size=n), seed=seed, draws=600), 0, 500)
    assert 0.92 <= share <= 0.98


def test_coverage_of_a_clustered_mean():
    def interval(rng, seed):
        values = np.repeat(rng.normal(size=30), 4) + rng.normal(size=120)
        return stats.mean_interval(values, np.repeat(np.arange(30), 4), seed=seed, draws=600)

    assert 0.92 <= coverage(interval, 0, 500) <= 0.98


def test_median_ratio_of_paired_times():
    generator = np.random.default_rng(1)
    load = generator.uniform(1, 2, 41)
    estimate = stats.median_ratio(2 * load, load, seed=0)
    assert (estimate.value, estimate.low, estimate.high) == (2, 2, 2)
    noisy = stats.median_ratio(generator.uniform(1, 2, 41), generator.uniform(2, 4, 41), seed=0)
    assert contains(noisy)
    assert 0.4 < noisy.low < noisy.high < 0.65
    with pytest.raises(DataError, match="positive"):
        stats.median_ratio([1.0, 0.0], [1.0, 1.0], seed=0)
