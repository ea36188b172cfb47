"""Statistics of order: AUROC with DeLong's variance, Spearman's correlation, thresholds from a null sample."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shammie.core.errors import DataError, ShammieError
from shammie.core.intervals import (
    NORMAL,
    Comparison,
    Estimate,
    Vector,
    codes,
    critical,
    same_length,
    vector,
)

Mask = NDArray[np.bool_]


def ranks(values: Vector) -> Vector:
    """Ranks from 1 [N]; ties share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def _two_classes(scores: ArrayLike, labels: ArrayLike) -> tuple[Vector, Mask]:
    """Check scores [N] with labels 0/1 [N]; both classes must occur."""
    values, marks = vector(scores, "scores"), vector(labels, "labels")
    same_length(scores=values, labels=marks)
    if not np.isin(marks, (0, 1)).all():
        raise DataError("labels must be 0 or 1 (False or True), but hold another value")
    if marks.min() == marks.max():
        raise DataError(f"AUROC needs both classes, but every label is {int(marks[0])}")
    return values, marks == 1


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Probability that a positive outscores a negative, ties counting half (Mann-Whitney).

    Errors: DataError when one class is missing or the lengths differ.
    """
    values, positive = _two_classes(scores, labels)
    count = int(positive.sum())
    wins = ranks(values)[positive].sum() - count * (count + 1) / 2
    return float(wins / (count * (len(values) - count)))


def _placements(values: Vector, positive: Mask) -> Vector:
    """Share of the other class that each row is rightly ordered against [N]; each class's mean is the AUROC."""
    overall, within = ranks(values), np.empty(len(values))
    for members in (positive, ~positive):
        within[members] = ranks(values[members])
    beaten = (overall - within) / np.where(positive, (~positive).sum(), positive.sum())
    return np.where(positive, beaten, 1 - beaten)


def _auroc_covariance(scores: list[Vector], positive: Mask, clusters: ArrayLike | None) -> tuple[Vector, Vector]:
    """AUROCs [S] of S scores on the same rows and their covariance [S, S].

    DeLong et al. 1988; with clusters Obuchowski 1997, which equals it when every row is its own cluster.
    """
    numbers, units = codes(clusters, len(positive))
    shares = np.stack([_placements(values, positive) for values in scores])
    areas = shares[:, positive].mean(1)
    sums, sizes = [], []
    for members in (positive, ~positive):
        held = np.unique(numbers[members])
        if len(held) < 2:
            raise DataError(
                "DeLong's variance needs at least two independent rows or clusters of each class; give more data"
            )
        residuals = np.where(members, shares - areas[:, None], 0) / members.sum()
        sums.append(np.stack([np.bincount(numbers, row, units) for row in residuals]))
        sizes.append(len(held))
    up, down = sums
    cross = up @ down.T * units / (units - 1)
    own = [part @ part.T * size / (size - 1) for part, size in zip(sums, sizes, strict=True)]
    return areas, own[0] + own[1] + cross + cross.T


def _newcombe(area: float, positives: int, negatives: int, level: float) -> tuple[float, float]:
    """Score interval of an AUROC from its value and the class sizes (Newcombe 2006, method 5).

    It keeps a width at 0 and 1, where DeLong's variance vanishes: |area - x| = z sqrt(V(x)), solved by bisection.
    """
    z, size = critical(level), (positives + negatives) / 2

    def outside(x: float) -> bool:
        spread = 2 * size - 1 - 3 * (size - 1) / ((2 - x) * (1 + x))
        return (area - x) ** 2 > z * z * x * (1 - x) / (positives * negatives) * spread

    def end(inner: float, outer: float) -> float:
        for _ in range(60):
            middle = (inner + outer) / 2
            inner, outer = (inner, middle) if outside(middle) else (middle, outer)
        return outer

    return end(area, 0.0), end(area, 1.0)


def auroc_interval(
    scores: ArrayLike,
    labels: ArrayLike,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
) -> Estimate:
    """AUROC with DeLong's interval (Obuchowski's form with clusters); `bootstrap(auroc, ...)` gives another.

    Where it has no width to give (perfect separation, one unit of a class) Newcombe's score interval stands in and
    `method` says so.
    """
    values, positive = _two_classes(scores, labels)
    numbers, units = codes(clusters, len(values))
    area = auroc(values, positive)
    up, down = (len(np.unique(numbers[members])) for members in (positive, ~positive))
    if area in (0.0, 1.0) or min(up, down) < 2:
        return Estimate(area, *_newcombe(area, up, down, level), units, level, "newcombe")
    _, covariance = _auroc_covariance([values], positive, clusters)
    half = critical(level) * math.sqrt(max(covariance[0, 0], 0.0))
    name = "delong" if clusters is None else "delong by cluster"
    return Estimate(area, max(area - half, 0.0), min(area + half, 1.0), units, level, name)


def delong_test(
    scores_a: ArrayLike, scores_b: ArrayLike, labels: ArrayLike, clusters: ArrayLike | None = None, level: float = 0.95
) -> Comparison:
    """Difference AUROC(a) - AUROC(b) of two scores on the same rows, with DeLong's paired z test.

    The variance vanishes for a perfect score beside a constant one. Then the p-value is that of rearranging the
    labels, 2 / C(units, positives), and the interval joins Newcombe's two (square-and-add).
    """
    (a, positive), (b, _) = _two_classes(scores_a, labels), _two_classes(scores_b, labels)
    numbers, units = codes(clusters, len(a))
    areas, covariance = _auroc_covariance([a, b], positive, clusters)
    gap = float(areas[0] - areas[1])
    error = math.sqrt(max(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1], 0.0))
    if error > 1e-12 or abs(gap) < 1e-12:
        half = critical(level) * error
        p_value = 2 * NORMAL.cdf(-abs(gap) / error) if error > 1e-12 else 1.0
        ends = (max(gap - half, -1.0), min(gap + half, 1.0))
    else:
        up, down = (len(np.unique(numbers[members])) for members in (positive, ~positive))
        p_value = min(1.0, 2 / math.comb(up + down, up))
        (low_a, high_a), (low_b, high_b) = (_newcombe(float(area), up, down, level) for area in areas)
        below = math.hypot(areas[0] - low_a, high_b - areas[1])
        above = math.hypot(high_a - areas[0], areas[1] - low_b)
        ends = (max(gap - below, -1.0), min(gap + above, 1.0))
    return Comparison(Estimate(gap, *ends, units, level, "delong"), p_value, "delong")


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation with tied ranks averaged; `bootstrap(spearman, x, y, seed=...)` gives an interval.

    Errors: DataError for unequal lengths or a constant column.
    """
    first, second = vector(x, "x"), vector(y, "y")
    same_length(x=first, y=second)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        raise DataError("a rank correlation needs at least two different values in each column")
    a, b = (ranks(column) - (len(column) + 1) / 2 for column in (first, second))
    return float(np.clip(a @ b / math.sqrt((a @ a) * (b @ b)), -1.0, 1.0))


def quantile_threshold(null_scores: ArrayLike, false_positive_rate: float) -> float:
    """Smallest threshold t such that at most this share of null scores lies strictly above it (`score > t` detects)."""
    scores = vector(null_scores, "null_scores")
    if not 0 <= false_positive_rate < 1:
        raise ShammieError(f"the false-positive rate must lie in [0, 1), but is {false_positive_rate}")
    allowed = math.floor(false_positive_rate * len(scores) + 1e-9)
    return float(np.sort(scores)[::-1][allowed])
