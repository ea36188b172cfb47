"""AUROC, DeLong, Spearman and thresholds against scikit-learn, scipy, definitions and coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from shammie.core import stats
from shammie.core.stats import Estimate

finite = st.integers(-50, 50).map(lambda value: value / 4)
marked = st.lists(st.tuples(finite, st.booleans()), min_size=4, max_size=40).filter(
    lambda rows: len({label for _, label in rows}) == 2
)
quick = settings(max_examples=60, deadline=None, derandomize=True)


def split(rows):
    scores, labels = zip(*rows, strict=True)
    return np.array(scores), np.array(labels)


def contains(estimate: Estimate) -> bool:
    return estimate.low <= estimate.value <= estimate.high


def coverage(interval, truth: float, trials: int) -> float:
    found = [interval(np.random.default_rng(1000 + trial), trial) for trial in range(trials)]
    return float(np.mean([estimate.low <= truth <= estimate.high for estimate in found]))


@pytest.mark.parametrize("clustered", [False, True])
def test_coverage_of_auroc(clustered):
    truth = scipy.stats.norm.cdf(1 / math.sqrt(2))

    def interval(rng, seed):
        labels = np.tile([0, 1], 40)
        groups = np.arange(80) // 4
        shared = rng.normal(size=20)[groups] if clustered else rng.normal(size=80)
        own = rng.normal(size=80)
        scores = math.sqrt(0.5) * shared + math.sqrt(0.5) * own + labels
        return stats.auroc_interval(scores, labels, groups if clustered else None)

    assert 0.92 <= coverage(interval, truth, 400) <= 0.98


@given(marked)
@quick
def test_auroc_equals_scikit_learn_and_its_symmetries(rows):
    scores, labels = split(rows)
    area = stats.auroc(scores, labels)
    assert area == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert stats.auroc(-scores, labels) == pytest.approx(1 - area, abs=1e-12)
    assert stats.auroc(scores, ~labels) == pytest.approx(1 - area, abs=1e-12)
    assert stats.auroc(np.exp(scores / 10), labels) == area
    assert stats.auroc(scores[::-1], labels[::-1]) == area


@given(marked)
@quick
def test_auroc_intervals_stay_in_bounds(rows):
    scores, labels = split(rows)
    for clusters in (None, np.arange(len(scores)) // 2):
        estimate = stats.auroc_interval(scores, labels, clusters)
        assert contains(estimate)
        assert 0 <= estimate.low <= estimate.high <= 1
        assert estimate.value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_the_cluster_bootstrap_of_auroc_nears_delong():
    generator = np.random.default_rng(9)
    labels, groups = np.tile([0, 1], 100), np.arange(200) // 4
    scores = generator.normal(size=50)[groups] + generator.normal(size=200) + labels
    delong = stats.auroc_interval(scores, labels, groups)
    bootstrap = stats.bootstrap(stats.auroc, scores, labels, clusters=groups, seed=0)
    np.testing.assert_allclose([bootstrap.low, bootstrap.high], [delong.low, delong.high], atol=0.02)
    assert (bootstrap.value, bootstrap.n) == (delong.value, 50)


def structural(scores, labels):
    """DeLong's components by the definition, one pair at a time."""
    wins = np.array([[(p > q) + (p == q) / 2 for q in scores[~labels]] for p in scores[labels]])
    return wins.mean(1), wins.mean(0)


def test_delong_equals_its_definition():
    generator = np.random.default_rng(2)
    labels = generator.random(60) < 0.4
    a = np.round(generator.normal(size=60) + labels, 1)
    b = np.round(a + generator.normal(size=60), 1)
    (up_a, down_a), (up_b, down_b) = structural(a, labels), structural(b, labels)
    covariance = np.cov([up_a, up_b]) / len(up_a) + np.cov([down_a, down_b]) / len(down_a)
    alone = stats.auroc_interval(a, labels)
    assert (alone.high - alone.low) / 2 == pytest.approx(1.959963984540054 * math.sqrt(covariance[0, 0]))
    gap = up_a.mean() - up_b.mean()
    z = gap / math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    found = stats.delong_test(a, b, labels)
    assert found.difference.value == pytest.approx(gap)
    assert found.p_value == pytest.approx(2 * scipy.stats.norm.sf(abs(z)))
    assert stats.delong_test(b, a, labels).p_value == pytest.approx(found.p_value)
    clustered = stats.delong_test(a, b, labels, clusters=np.arange(60))
    assert clustered.p_value == pytest.approx(found.p_value)


def test_clustered_delong_sees_through_repeated_rows():
    generator = np.random.default_rng(4)
    labels = np.tile([True, False], 30)
    a, b = generator.normal(size=60) + labels, generator.normal(size=60)
    alone = stats.delong_test(a, b, labels)
    copies = [np.repeat(column, 4) for column in (a, b, labels)]
    clustered = stats.delong_test(*copies, clusters=np.repeat(np.arange(60), 4))
    assert clustered.difference.value == pytest.approx(alone.difference.value)
    assert clustered.p_value == pytest.approx(alone.p_value, rel=0.2)
    assert stats.delong_test(*copies).p_value < alone.p_value / 10


def test_clustered_delong_equals_obuchowskis_definition():
    generator = np.random.default_rng(6)
    labels, groups = generator.random(50) < 0.5, np.arange(50) // 5
    a = generator.normal(size=50) + labels
    b = a + generator.normal(size=50) + groups / 5
    pairs = [structural(scores, labels) for scores in (a, b)]
    totals = np.zeros((2, 2, 10))  # score, class, cluster
    for score, parts in enumerate(pairs):
        for side, (members, part) in enumerate(zip((labels, ~labels), parts, strict=True)):
            for group, share in zip(groups[members], part, strict=True):
                totals[score, side, group] += (share - part.mean()) / members.sum()
    up, down = totals[0] - totals[1]
    variance = 10 / 9 * ((up**2).sum() + (down**2).sum() + 2 * (up * down).sum())
    found = stats.delong_test(a, b, labels, groups).difference
    assert (found.high - found.low) / 2 == pytest.approx(1.959963984540054 * math.sqrt(variance))


def test_delong_p_values_are_uniform_under_the_null():
    labels, values = np.tile([True, False], 60), []
    for seed in range(300):
        noise = np.random.default_rng(seed).normal(size=(3, 120))
        values.append(stats.delong_test(noise[0] + noise[1] + labels, noise[0] + noise[2] + labels, labels).p_value)
    assert scipy.stats.kstest(values, "uniform").pvalue > 0.01


def test_perfect_separation_keeps_a_width():
    labels = np.repeat([0, 1], 30)
    perfect = stats.auroc_interval(labels, labels)
    assert perfect.method == "newcombe"
    assert perfect.high == 1
    assert 0.85 < perfect.low < 0.97
    mirrored = stats.auroc_interval(-labels, labels)
    assert mirrored.low == 0
    assert mirrored.high == pytest.approx(1 - perfect.low, abs=1e-9)
    assert stats.auroc_interval(labels, labels, np.arange(60) // 5).low < perfect.low
    beside_constant = stats.delong_test(labels, np.zeros(60), labels)
    assert beside_constant.p_value == pytest.approx(2 / math.comb(60, 30))
    assert beside_constant.difference.low < 0.5 < beside_constant.difference.high
    assert stats.delong_test([0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1]).p_value == pytest.approx(1 / 3)
    assert stats.delong_test(labels, labels * 2, labels).p_value == 1


@given(st.lists(st.tuples(finite, finite), min_size=3, max_size=30))
@quick
def test_spearman_equals_scipy(rows):
    x, y = map(np.array, zip(*rows, strict=True))
    assume(np.ptp(x) > 0 and np.ptp(y) > 0)
    rho = stats.spearman(x, y)
    assert rho == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)
    assert -1 <= rho <= 1
    assert stats.spearman(y, x) == pytest.approx(rho)
    assert stats.spearman(-x, y) == pytest.approx(-rho)


def test_spearman_has_a_bootstrap_interval():
    x = np.random.default_rng(0).normal(size=40)
    estimate = stats.bootstrap(stats.spearman, x, x + 1, seed=0, draws=200)
    assert estimate.value == 1
    assert estimate.low == pytest.approx(1)


@given(st.lists(finite, min_size=1, max_size=60), st.floats(0, 0.99))
@quick
def test_the_threshold_is_the_smallest_that_holds_the_rate(scores, rate):
    array = np.array(scores)
    threshold = stats.quantile_threshold(scores, rate)
    assert (array > threshold).mean() <= rate + 1e-9
    lower = [candidate for candidate in np.nextafter(np.unique(array), -np.inf) if candidate < threshold]
    assert all((array > candidate).mean() > rate for candidate in lower)


def test_the_threshold_counts_exactly():
    scores = np.arange(200)
    assert (scores > stats.quantile_threshold(scores, 0.05)).sum() == 10
    assert (np.arange(100) > stats.quantile_threshold(np.arange(100), 0.29)).sum() == 29
    assert stats.quantile_threshold(scores, 0) == 199
