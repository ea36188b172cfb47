"""Statistics every room reports with: intervals, AUROC (both from siblings), paired tests, pass@k, multiple testing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shammie.core.errors import DataError, ShammieError
from shammie.core.intervals import Comparison as Comparison
from shammie.core.intervals import Estimate as Estimate
from shammie.core.intervals import Vector, blocks, codes, percentile_estimate, resampling_weights, same_length, vector
from shammie.core.intervals import bootstrap as bootstrap
from shammie.core.intervals import mean_interval as mean_interval
from shammie.core.intervals import median_ratio as median_ratio
from shammie.core.intervals import proportion as proportion
from shammie.core.ranking import auroc as auroc
from shammie.core.ranking import auroc_interval as auroc_interval
from shammie.core.ranking import delong_test as delong_test
from shammie.core.ranking import quantile_threshold as quantile_threshold
from shammie.core.ranking import spearman as spearman

EXACT_UNITS = 12  # sign flips are enumerated up to here: 4,096 of them
EXACT_SPLITS = 5_000  # two-sample splits are enumerated up to here


def _extreme_share(replicates: Iterator[Vector], observed: float, scale: float, sampled: bool) -> float:
    """Two-sided p-value: share of replicates at least as far from 0; sampled ones count the data as one of them.

    `scale` is the sum of absolute values behind a replicate: rounding of that size makes a tie.
    """
    far, total = int(sampled), int(sampled)
    for block in replicates:
        far += int((np.abs(block) >= abs(observed) - 1e-12 * scale).sum())
        total += len(block)
    return far / total


def _flipped_sums(sums: Vector, seed: int, draws: int) -> Iterator[Vector]:
    """Sums of units under sign flips: all 2^C of them up to EXACT_UNITS units, else random ones."""
    if len(sums) <= EXACT_UNITS:
        yield np.array(list(itertools.product((1.0, -1.0), repeat=len(sums)))) @ sums
        return
    generator = np.random.default_rng(seed)
    for block in blocks(draws, len(sums)):
        yield generator.choice((1.0, -1.0), (block, len(sums))) @ sums


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    seed: int,
    draws: int = 10_000,
    level: float = 0.95,
) -> Comparison:
    """Mean of a - b over the same rows [N], a bootstrap interval and a sign-flip p-value, by cluster where given.

    Under no difference the sign of each unit's total is arbitrary: exact for at most 12 units, else Monte Carlo.
    Errors: DataError for unequal lengths, NonFiniteError for NaN or infinity.
    """
    first, second = vector(a, "a"), vector(b, "b")
    same_length(a=first, b=second)
    difference = first - second
    numbers, units = codes(clusters, len(difference))
    sums = np.bincount(numbers, difference, units).astype(np.float64)
    sampled = units > EXACT_UNITS
    flips = _flipped_sums(sums, seed, draws)
    p_value = _extreme_share(flips, float(sums.sum()), float(np.abs(difference).sum()), sampled)
    estimate = mean_interval(difference, clusters, seed, level=level)
    return Comparison(estimate, p_value, "sign flip" if sampled else "exact sign flip")


def _group_sums(pooled: Vector, size: int, seed: int, draws: int) -> Iterator[Vector]:
    """Sums of a random group of `size` pooled values: every group up to EXACT_SPLITS of them, else random ones."""
    if math.comb(len(pooled), size) <= EXACT_SPLITS:
        yield pooled[np.array(list(itertools.combinations(range(len(pooled)), size)))].sum(1)
        return
    generator = np.random.default_rng(seed)
    for block in blocks(draws, len(pooled)):
        yield generator.permuted(np.tile(pooled, (block, 1)), axis=1)[:, :size].sum(1)


def permutation_test(a: ArrayLike, b: ArrayLike, seed: int, draws: int = 10_000, level: float = 0.95) -> Comparison:
    """Difference of means of two independent samples, a bootstrap interval and a permutation p-value.

    Exact where there are at most 5,000 splits, else Monte Carlo.
    """
    first, second = vector(a, "a"), vector(b, "b")
    gap = float(first.mean() - second.mean())
    pooled = np.concatenate([first, second])
    centred = pooled - pooled.mean()
    sampled = math.comb(len(pooled), len(first)) > EXACT_SPLITS
    groups = _group_sums(centred, len(first), seed, draws)
    observed = float(centred[: len(first)].sum())
    p_value = _extreme_share(groups, observed, float(np.abs(pooled).sum()), sampled)
    replicates = [
        np.concatenate([w @ side / len(side) for w in resampling_weights(len(side), 2000, seed + offset, len(side))])
        for offset, side in enumerate((first, second))
    ]
    estimate = percentile_estimate(
        gap, replicates[0] - replicates[1], min(len(first), len(second)), level, "two-sample bootstrap"
    )
    return Comparison(estimate, p_value, "permutation" if sampled else "exact permutation")


def mcnemar(b01: int, b10: int) -> float:
    """Exact two-sided p-value of McNemar's test from the two counts of disagreeing pairs."""
    if min(b01, b10) < 0:
        raise DataError(f"counts of disagreeing pairs must not be negative, but are {b01} and {b10}")
    total, fewer = b01 + b10, min(b01, b10)
    index = np.arange(1, fewer + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log((total - index + 1) / index))]) - total * math.log(2)
    return min(1.0, 2 * float(np.exp(logs).sum()))


def _whole(values: ArrayLike, name: str) -> NDArray[np.int64]:
    """Check whole numbers of any shape."""
    array = np.asarray(values)
    if array.dtype.kind not in "iub":
        raise DataError(f"{name} must be whole numbers, but is of type {array.dtype}")
    return array.astype(np.int64)


def pass_at_k(n: ArrayLike, c: ArrayLike, k: int) -> Vector:
    """Unbiased chance that one of k of the n samples is correct when c are, for each problem [N].

    1 - C(n-c, k) / C(n, k) as a product of k factors in [0, 1] (Chen et al. 2021). Scalars give shape [].
    Errors: DataError for n < k, or c outside 0..n.
    """
    samples, correct = np.broadcast_arrays(_whole(n, "n"), _whole(c, "c"))
    if k < 1:
        raise ShammieError(f"pass@k needs k of at least 1, but k is {k}")
    if not samples.size or (correct < 0).any() or (correct > samples).any():
        raise DataError("pass@k needs at least one problem, and 0 <= c <= n for each")
    if (samples < k).any():
        raise DataError(f"pass@{k} needs at least {k} samples a problem, but one has {samples.min()}; lower k")
    failure = np.ones(samples.shape)
    for drawn in range(k):
        failure = failure * np.maximum(samples - correct - drawn, 0) / (samples - drawn)
    return np.asarray(1 - failure)


def pass_at_k_curve(
    n: ArrayLike,
    c: ArrayLike,
    ks: Sequence[int],
    clusters: ArrayLike | None = None,
    seed: int = 0,
    level: float = 0.95,
) -> dict[int, Estimate]:
    """Mean pass@k over problems for every k, with intervals over problems (or clusters) from shared resamples."""
    per_problem = {k: np.atleast_1d(pass_at_k(n, c, k)) for k in ks}
    return {k: mean_interval(values, clusters, seed, level=level) for k, values in per_problem.items()}


def _probabilities(p_values: ArrayLike) -> Vector:
    """Check p-values [M] in [0, 1]."""
    values = vector(p_values, "p_values")
    if values.min() < 0 or values.max() > 1:
        raise DataError(f"p-values must lie in [0, 1], but they span {values.min()} to {values.max()}")
    return values


def benjamini_hochberg(p_values: ArrayLike, level: float = 0.05) -> NDArray[np.bool_]:
    """Which hypotheses [M] are rejected at false-discovery rate `level` (Benjamini & Hochberg 1995)."""
    values = _probabilities(p_values)
    if not 0 < level < 1:
        raise ShammieError(f"the false-discovery rate must lie strictly between 0 and 1, but is {level}")
    ordered = np.sort(values)
    below = np.flatnonzero(ordered * len(values) <= level * np.arange(1, len(values) + 1))
    return values <= ordered[below[-1]] if below.size else np.zeros(len(values), dtype=bool)


def holm(p_values: ArrayLike) -> Vector:
    """Holm's adjusted p-values [M]: rejecting those at most `level` holds the family-wise error there."""
    values = _probabilities(p_values)
    order = np.argsort(values, kind="stable")
    stepped = np.minimum(values[order] * np.arange(len(values), 0, -1), 1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.maximum.accumulate(stepped)
    return adjusted
