"""Estimates with intervals: Wilson, and a bootstrap over independent units (rows, or clusters of rows)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shammie.core.errors import DataError, NonFiniteError, ShammieError

Vector = NDArray[np.float64]
CHUNK_CELLS = 2_000_000  # cells of one block of resampling weights: 16 MB
NORMAL = NormalDist()


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; `n` counts the independent units behind it (rows, or clusters where given).

    One unit alone says nothing about spread: its interval is the whole line, written as null in a record.
    """

    value: float
    low: float
    high: float
    n: int
    level: float = 0.95
    method: str = ""

    def as_dict(self) -> dict[str, float | int | str | None]:
        """Give plain JSON values for `results.jsonl`; an unbounded end is None."""
        low, high = (end if math.isfinite(end) else None for end in (self.low, self.high))
        return {"value": self.value, "low": low, "high": high, "n": self.n, "level": self.level, "method": self.method}

    def __str__(self) -> str:
        width = self.high - self.low
        known = math.isfinite(width) and width > 0
        places = min(max(1 - math.floor(math.log10(width)), 0), 6) if known else 2
        return f"{self.value:.{places}f} [{self.low:.{places}f}, {self.high:.{places}f}] (n={self.n})"


@dataclass(frozen=True)
class Comparison:
    """A difference with its interval and the two-sided p-value of no difference."""

    difference: Estimate
    p_value: float
    method: str

    def as_dict(self) -> dict[str, float | int | str | None]:
        """Give plain JSON values: the estimate's fields, `p_value` and `test`."""
        return {**self.difference.as_dict(), "p_value": self.p_value, "test": self.method}


def vector(values: ArrayLike, name: str) -> Vector:
    """Check one series of numbers: one axis, not empty, finite; returned as float64 [N].

    Raises:
        DataError: empty, not numbers, or more than one axis.
        NonFiniteError: NaN or infinity, with its place.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} must hold only numbers ({error})") from error
    if array.ndim != 1 or array.size == 0:
        raise DataError(f"{name} must be one axis of at least one number, but has shape {array.shape}")
    broken = np.flatnonzero(~np.isfinite(array))
    if broken.size:
        raise NonFiniteError(f"{name} holds {array[broken[0]]} at row {broken[0]}; drop or mend that row")
    return array


def same_length(**columns: NDArray[Any]) -> None:
    """Raise DataError unless all named columns have the same number of rows."""
    if len({len(column) for column in columns.values()}) > 1:
        counts = ", ".join(f"{name} has {len(column)} rows" for name, column in columns.items())
        raise DataError(f"{counts}; give each the same number of rows")


def critical(level: float) -> float:
    """Two-sided normal quantile of a confidence level strictly between 0 and 1."""
    if not 0 < level < 1:
        raise ShammieError(f"the confidence level must lie strictly between 0 and 1, but is {level}")
    return -NORMAL.inv_cdf((1 - level) / 2)


def codes(clusters: ArrayLike | None, count: int) -> tuple[NDArray[np.int64], int]:
    """Number the clusters 0..C-1; every row is its own when none are given. Returns codes [N] and C."""
    if clusters is None:
        return np.arange(count), count
    labels = np.asarray(clusters)
    if labels.shape != (count,):
        raise DataError(f"clusters need one label for each of the {count} rows, but have shape {labels.shape}")
    names, numbers = np.unique(labels, return_inverse=True)
    return numbers, len(names)


def proportion(successes: int, n: int, level: float = 0.95) -> Estimate:
    """Share of successes among n independent trials, with Wilson's score interval (1927)."""
    if n < 1 or not 0 <= successes <= n:
        raise DataError(f"a proportion needs 0 <= successes <= n and n >= 1, but is {successes} of {n}")
    z, share = critical(level), successes / n
    shrink = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Estimate(share, low, high, n, level, "wilson")


def blocks(draws: int, width: int) -> Iterator[int]:
    """Split draws into blocks of bounded memory; `width` is the cells one draw takes."""
    size = max(1, CHUNK_CELLS // max(width, 1))
    for start in range(0, draws, size):
        yield min(size, draws - start)


def resampling_weights(units: int, draws: int, seed: int, width: int) -> Iterator[NDArray[np.int64]]:
    """How often each unit is drawn, in blocks [draws, units] of bounded memory."""
    generator = np.random.default_rng(seed)
    for block in blocks(draws, width):
        drawn = generator.integers(0, units, (block, units)) + units * np.arange(block)[:, None]
        yield np.bincount(drawn.ravel(), minlength=block * units).reshape(block, units)


def widened_tail(level: float, units: int) -> float:
    """Tail mass of the percentile interval, widened for few units (Hesterberg 2015, expanded percentile).

    The plain percentile interval is too narrow by the factor sqrt((n-1)/n) and by the normal quantile in place of
    Student's; the latter is the Cornish-Fisher series in 1/(n-1).
    """
    z, freedom = critical(level), units - 1
    terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    student = z + sum(term / freedom ** (order + 1) for order, term in enumerate(terms))
    return NORMAL.cdf(-student * math.sqrt(units / freedom))


def percentile_estimate(value: float, replicates: Vector, units: int, level: float, method: str) -> Estimate:
    """Turn bootstrap replicates [draws] into an estimate; resamples without a value (NaN) are left out."""
    critical(level)
    if units < 2:
        return Estimate(value, -math.inf, math.inf, units, level, method)
    defined = replicates[~np.isnan(replicates)]
    if 2 * len(defined) < len(replicates) or not len(defined):
        raise DataError(f"the statistic has no value on most resamples of {units} units; give it more data")
    tail = widened_tail(level, units)
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Estimate(value, min(float(low), value), max(float(high), value), units, level, method)


def weighted_bootstrap(
    statistic: Callable[[NDArray[np.int64]], Vector],
    count: int,
    clusters: ArrayLike | None,
    seed: int,
    draws: int = 2000,
    level: float = 0.95,
) -> Estimate:
    """Bootstrap a statistic that takes row weights [draws, N] and gives [draws]; whole clusters are drawn."""
    numbers, units = codes(clusters, count)
    value = float(statistic(np.ones((1, count), dtype=np.int64))[0])
    weights = resampling_weights(units, draws, seed, max(units, count))
    replicates = [statistic(block if clusters is None else block[:, numbers]) for block in weights]
    method = "bootstrap" if clusters is None else "cluster bootstrap"
    return percentile_estimate(value, np.concatenate(replicates), units, level, method)


def bootstrap(
    statistic: Callable[..., Any],
    *arrays: ArrayLike,
    clusters: ArrayLike | None = None,
    seed: int,
    draws: int = 2000,
    level: float = 0.95,
) -> Estimate:
    """Bootstrap any statistic of columns that share their rows: `statistic(*columns) -> float`.

    A resample on which it raises DataError is left out. The interval is the expanded percentile one: it keeps a
    statistic's range and its invariance under monotone maps, needs no jackknife (BCa does, and fails on the ties of
    discrete scores), and holds its level for few units.

    Errors: DataError for empty or unequal columns, NonFiniteError for NaN or infinity.
    """
    if not arrays:
        raise DataError("the bootstrap needs at least one column of values")
    columns = [vector(array, f"column {index}") for index, array in enumerate(arrays)]
    same_length(**{f"column {index}": column for index, column in enumerate(columns)})
    rows = np.arange(len(columns[0]))

    def replicate(times: NDArray[np.int64]) -> float:
        index = np.repeat(rows, times)
        try:
            return float(statistic(*(column[index] for column in columns)))
        except DataError:
            return math.nan

    statistic(*columns)  # an error on the data themselves is the caller's to see
    return weighted_bootstrap(
        lambda weights: np.array([replicate(row) for row in weights]), len(rows), clusters, seed, draws, level
    )


def mean_interval(
    values: ArrayLike,
    clusters: ArrayLike | None = None,
    seed: int = 0,
    draws: int = 2000,
    level: float = 0.95,
) -> Estimate:
    """Mean over rows [N] with an expanded percentile bootstrap interval over rows, or over clusters of rows.

    Use `proportion` for independent yes/no outcomes: a bootstrap of all-equal values has no width.
    """
    numbers = vector(values, "values")
    return weighted_bootstrap(lambda w: w @ numbers / w.sum(1), len(numbers), clusters, seed, draws, level)


def median_ratio(a_times: ArrayLike, b_times: ArrayLike, seed: int, draws: int = 2000, level: float = 0.95) -> Estimate:
    """Ratio median(a) / median(b) of interleaved timings in seconds; rounds are drawn in pairs.

    Errors: DataError when the rounds differ in number or a time is not positive.
    """
    a, b = vector(a_times, "a_times"), vector(b_times, "b_times")
    if min(a.min(), b.min()) <= 0:
        raise DataError("times must be positive to have a ratio, but one is zero or negative")
    return bootstrap(lambda x, y: np.median(x) / np.median(y), a, b, seed=seed, draws=draws, level=level)
