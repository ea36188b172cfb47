"""Paired tests, pass@k and multiple testing against scipy, exhaustive enumeration and properties."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shammie.core import stats
from shammie.core.errors import DataError, NonFiniteError, ShammieError
from shammie.core.stats import Estimate

finite = st.integers(-50, 50).map(lambda value: value / 4)
quick = settings(max_examples=60, deadline=None, derandomize=True)


def contains(estimate: Estimate) -> bool:
    return estimate.low <= estimate.value <= estimate.high


@given(st.lists(finite, min_size=1, max_size=8))
@quick
def test_exact_sign_flip_by_enumeration(differences):
    observed = abs(sum(differences))
    signs = list(itertools.product((1, -1), repeat=len(differences)))
    far = sum(abs(sum(s * d for s, d in zip(row, differences, strict=True))) >= observed for row in signs)
    found = stats.paired_difference(differences, [0] * len(differences), seed=0)
    assert found.p_value == far / len(signs)
    assert found.method == "exact sign flip"


def test_sign_flip_equals_scipy_and_monte_carlo_nears_it():
    generator = np.random.default_rng(7)
    a, b = generator.normal(0.5, size=11), generator.normal(size=11)

    def mean(first, second, axis):
        return np.mean(first - second, axis=axis)

    exact = scipy.stats.permutation_test((a, b), mean, permutation_type="samples", n_resamples=math.inf).pvalue
    assert stats.paired_difference(a, b, seed=0).p_value == pytest.approx(exact)
    repeated = stats.paired_difference(np.repeat(a, 3), np.repeat(b, 3), np.repeat(np.arange(11), 3), seed=0)
    assert repeated.p_value == pytest.approx(exact)
    c, d = generator.normal(0.3, size=60), generator.normal(size=60)
    sampled = stats.paired_difference(c, d, seed=0)
    assert sampled.p_value == pytest.approx(scipy.stats.ttest_rel(c, d).pvalue, abs=0.02)


def test_paired_difference_is_antisymmetric_and_never_gives_zero():
    a, b = np.arange(40.0) + 5, np.arange(40.0)
    forth, back = stats.paired_difference(a, b, seed=1), stats.paired_difference(b, a, seed=1)
    assert forth.p_value == back.p_value == 1 / 10_001
    assert forth.difference.low == -back.difference.high
    assert forth.difference.value == 5
    assert stats.paired_difference(a, a, seed=0).p_value == 1


@given(st.lists(finite, min_size=1, max_size=5), st.lists(finite, min_size=1, max_size=5))
@quick
def test_exact_permutation_by_enumeration(a, b):
    pooled, size = a + b, len(a)
    gaps = []
    for chosen in itertools.combinations(range(len(pooled)), size):
        rest = [value for place, value in enumerate(pooled) if place not in chosen]
        gaps.append(abs(np.mean([pooled[place] for place in chosen]) - np.mean(rest)))
    observed = abs(np.mean(a) - np.mean(b))
    found = stats.permutation_test(a, b, seed=0)
    assert found.p_value == pytest.approx(np.mean([gap >= observed - 1e-9 for gap in gaps]))
    assert found.method == "exact permutation"
    assert contains(found.difference)


def test_sampled_permutation_nears_the_t_test_and_large_samples_work():
    generator = np.random.default_rng(8)
    a, b = generator.normal(0.4, size=70), generator.normal(size=50)
    found = stats.permutation_test(a, b, seed=2)
    assert found.method == "permutation"
    assert found.p_value == pytest.approx(scipy.stats.ttest_ind(a, b).pvalue, abs=0.02)
    assert stats.permutation_test(b, a, seed=2).difference.value == -found.difference.value
    large = stats.permutation_test(generator.normal(size=3000), generator.normal(size=3000), seed=0, draws=100)
    assert 0 < large.p_value <= 1


def test_two_sample_intervals_draw_each_side_on_its_own():
    a = np.random.default_rng(0).normal(size=80)
    estimate = stats.permutation_test(a, a, seed=0).difference
    expected = 2 * 1.99 * a.std(ddof=1) * math.sqrt(2 / 80)
    assert estimate.high - estimate.low == pytest.approx(expected, rel=0.1)


def test_permutation_p_values_are_uniform_under_the_null():
    values = [
        stats.permutation_test(*np.random.default_rng(seed).normal(size=(2, 15)), seed=seed, draws=300).p_value
        for seed in range(200)
    ]
    assert scipy.stats.kstest(values, "uniform").pvalue > 0.01


@given(st.integers(0, 60), st.integers(0, 60))
@quick
def test_mcnemar_is_the_exact_binomial_test(b01, b10):
    assume(b01 + b10 > 0)
    assert stats.mcnemar(b01, b10) == pytest.approx(scipy.stats.binomtest(b01, b01 + b10).pvalue, rel=1e-9)
    assert stats.mcnemar(b01, b10) == stats.mcnemar(b10, b01)


def test_mcnemar_at_the_ends():
    assert stats.mcnemar(0, 0) == 1
    assert stats.mcnemar(50_000, 50_500) == pytest.approx(scipy.stats.binomtest(50_000, 100_500).pvalue, rel=1e-6)
    with pytest.raises(DataError, match="negative"):
        stats.mcnemar(-1, 3)


def test_pass_at_k_by_enumeration():
    for n in range(1, 9):
        for c in range(n + 1):
            for k in range(1, n + 1):
                groups = list(itertools.combinations([True] * c + [False] * (n - c), k))
                expected = sum(map(any, groups)) / len(groups)
                assert float(stats.pass_at_k(n, c, k)) == pytest.approx(expected, abs=1e-15)


@given(st.lists(st.tuples(st.integers(1, 2000), st.floats(0, 1)), min_size=1, max_size=10), st.integers(1, 2000))
@quick
def test_pass_at_k_identities(problems, k):
    n = np.array([samples for samples, _ in problems])
    c = np.array([round(samples * share) for samples, share in problems])
    k = min(k, int(n.min()))
    chance = stats.pass_at_k(n, c, k)
    assert chance.dtype == np.float64
    assert ((chance >= 0) & (chance <= 1)).all()
    np.testing.assert_allclose(stats.pass_at_k(n, c, 1), c / n, atol=1e-12)
    np.testing.assert_array_equal(stats.pass_at_k(n, c, int(n.min()))[n == n.min()], (c > 0)[n == n.min()])
    if k > 1:
        assert (chance >= stats.pass_at_k(n, c, k - 1) - 1e-12).all()
    if (c < n).all():
        assert (stats.pass_at_k(n, c + 1, k) >= chance - 1e-12).all()


def test_pass_at_k_is_stable_for_many_samples():
    exact = 1 - math.comb(100_000 - 7, 500) / math.comb(100_000, 500)
    assert float(stats.pass_at_k(100_000, 7, 500)) == pytest.approx(exact, rel=1e-10)


def test_pass_at_k_curve_rises_and_carries_intervals():
    c = np.random.default_rng(0).integers(0, 20, 50)
    curve = stats.pass_at_k_curve(20, c, (1, 5, 20), seed=3)
    assert [round(point.value, 12) for point in curve.values()] == sorted(round(p.value, 12) for p in curve.values())
    assert curve[1].value == pytest.approx(c.mean() / 20)
    assert all(map(contains, curve.values()))
    assert stats.pass_at_k_curve(20, c, [5], clusters=np.arange(50) // 5)[5].n == 10


@pytest.mark.parametrize(
    ("n", "c", "k", "words"),
    [(4, 1, 5, "pass@5 needs at least 5"), (4, 5, 1, "0 <= c <= n"), (4, 1, 0, "k of at least 1"), ([], [], 1, "one")],
)
def test_pass_at_k_refuses(n, c, k, words):
    with pytest.raises(ShammieError, match=words):
        stats.pass_at_k(np.array(n, dtype=int), np.array(c, dtype=int), k)
    with pytest.raises(DataError, match="whole numbers"):
        stats.pass_at_k([2.5], [1], 1)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.sampled_from([0.01, 0.05, 0.2]))
@quick
def test_benjamini_hochberg_equals_scipy(p_values, level):
    adjusted = scipy.stats.false_discovery_control(p_values)
    clear = np.abs(adjusted - level) > 1e-12
    np.testing.assert_array_equal(stats.benjamini_hochberg(p_values, level)[clear], (adjusted <= level)[clear])


def test_holm_never_falls():
    np.testing.assert_allclose(stats.holm([0.021, 0.5, 0.02]), [0.06, 0.5, 0.06])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@quick
def test_holm_by_stepping_down(p_values):
    adjusted = stats.holm(p_values)
    assert (adjusted >= np.array(p_values)).all()
    assert (adjusted <= 1).all()
    for level in (0.01, 0.05, 0.3):
        rejected = set()
        for step, place in enumerate(np.argsort(p_values, kind="stable")):
            if p_values[place] * (len(p_values) - step) > level:
                break
            rejected.add(int(place))
        assert set(np.flatnonzero(adjusted <= level)) == rejected
        assert set(np.flatnonzero(stats.benjamini_hochberg(p_values, level + 1e-12))) >= rejected


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: stats.mean_interval([]), DataError, "at least one number"),
        (lambda: stats.mean_interval([1.0, math.nan]), NonFiniteError, "nan at row 1"),
        (lambda: stats.mean_interval([math.inf]), NonFiniteError, "inf at row 0"),
        (lambda: stats.mean_interval([[1.0]]), DataError, "one axis"),
        (lambda: stats.mean_interval(["a"]), DataError, "only numbers"),
        (lambda: stats.mean_interval([1.0, 2.0], clusters=[1]), DataError, "one label for each"),
        (lambda: stats.mean_interval([1.0, 2.0], level=1.0), ShammieError, "confidence level"),
        (lambda: stats.proportion(3, 2), DataError, "3 of 2"),
        (lambda: stats.proportion(0, 0), DataError, "0 of 0"),
        (lambda: stats.bootstrap(np.mean, seed=0), DataError, "at least one column"),
        (lambda: stats.bootstrap(np.mean, [1.0], [1.0, 2.0], seed=0), DataError, "same number of rows"),
        (lambda: stats.paired_difference([1.0], [1.0, 2.0], seed=0), DataError, "a has 1 rows, b has 2 rows"),
        (lambda: stats.permutation_test([], [1.0], seed=0), DataError, "at least one number"),
        (lambda: stats.auroc([0.1, 0.2], [1, 1]), DataError, "both classes, but every label is 1"),
        (lambda: stats.auroc([0.1, 0.2], [1, 2]), DataError, "0 or 1"),
        (lambda: stats.auroc([0.1, math.nan], [1, 0]), NonFiniteError, "scores"),
        (lambda: stats.auroc([0.1, 0.2], [1, 0, 1]), DataError, "same number of rows"),
        (lambda: stats.delong_test([1, 2, 3], [1, 2, 3], [0, 0, 1]), DataError, "at least two independent"),
        (lambda: stats.spearman([1.0, 1.0], [1.0, 2.0]), DataError, "different values"),
        (lambda: stats.holm([0.5, 1.5]), DataError, "p-values must lie"),
        (lambda: stats.benjamini_hochberg([0.5], 0), ShammieError, "false-discovery"),
        (lambda: stats.quantile_threshold([1.0], 1.0), ShammieError, "false-positive"),
    ],
)
def test_bad_input_is_one_sentence(call, kind, words):
    with pytest.raises(kind, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
