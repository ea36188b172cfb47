"""Planted truth: how often a method finds what was put there, at a false-positive rate that is held.

The threshold comes from null draws (nothing planted), its realised false-positive rate from as many further null draws,
and power from draws at every difficulty. Scores are all recorded, so that a stopped measurement goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shammie.core.errors import NonFiniteError, ShammieError
from shammie.core.intervals import Estimate, proportion
from shammie.core.ranking import quantile_threshold

FALSE_POSITIVE_RATE = 0.05
ENOUGH, SURELY = 0.90, 0.80  # power at the middle difficulty, and its lower 95 % bound
LEAST_NULL_DRAWS = 200
_BLOCK = 10  # draws behind one key
_NULL, _CHECK = "null", "held-out null"

Score = Callable[[float | None, int], float]


@dataclass(frozen=True)
class PowerTest:
    """A planted problem.

    `score(difficulty, seed)` draws one and says how surely the method detects it (higher: surer); a difficulty of None
    draws one with nothing planted.
    """

    score: Score
    difficulties: tuple[float, ...]
    """From easy to where the method fails."""
    middle: float
    """The difficulty at which the room promises to work; the card gives the reason."""
    null_draws: int = LEAST_NULL_DRAWS
    """Null draws behind the threshold; as many again check it."""
    draws: int = 100
    """Draws at each difficulty."""

    def __post_init__(self) -> None:
        if self.middle not in self.difficulties or len(set(self.difficulties)) < len(self.difficulties):
            raise ShammieError("a planted test needs different difficulties, and its middle must be one of them")
        if self.null_draws < LEAST_NULL_DRAWS or self.draws < 1:
            raise ShammieError(f"a planted test needs at least {LEAST_NULL_DRAWS} null draws and 1 draw a difficulty")

    def describe(self) -> dict[str, Any]:
        """Everything but the method, as plain values."""
        return {
            "difficulties": list(self.difficulties),
            "middle": self.middle,
            "null_draws": self.null_draws,
            "draws": self.draws,
        }

    def arms(self) -> dict[str, tuple[float | None, int]]:
        """Name, difficulty and number of draws of each group of draws."""
        planted = {f"difficulty {level!r}": (level, self.draws) for level in self.difficulties}
        return {_NULL: (None, self.null_draws), _CHECK: (None, self.null_draws), **planted}


@dataclass(frozen=True)
class PowerSummary:
    """What a planted test found: the threshold, its realised false-positive rate, and power by difficulty."""

    threshold: float
    false_positive_rate: Estimate
    power: dict[float, Estimate]
    middle: float

    @property
    def passed(self) -> bool:
        """Whether power at the middle difficulty is at least 0.90 and surely at least 0.80."""
        found = self.power[self.middle]
        return found.value >= ENOUGH and found.low >= SURELY

    def records(self) -> list[dict[str, Any]]:
        """One record for the null and one a difficulty."""
        null = {"difficulty": None, "detected": self.false_positive_rate.as_dict(), "threshold": self.threshold}
        rows = [
            {"difficulty": level, "detected": found.as_dict(), "middle": level == self.middle}
            for level, found in self.power.items()
        ]
        verdict = {"kind": "verdict", "passed": self.passed, "needed": ENOUGH, "surely": SURELY}
        return [{"kind": "false_positives", **null}, *({"kind": "power", **row} for row in rows), verdict]


def measure_power(
    test: PowerTest, seed: int = 0, pending: Callable[[Sequence[str]], Iterable[str]] = iter
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Score the draws block by block: a key and its records, for those of all keys that `pending` picks.

    A draw's seed depends on `seed`, its group and its number alone. Errors: NonFiniteError for a score that is NaN.
    """
    blocks = {
        f"{name}/{start:04d}": (index, name, level, range(start, min(start + _BLOCK, count)))
        for index, (name, (level, count)) in enumerate(test.arms().items())
        for start in range(0, count, _BLOCK)
    }
    for key in pending(list(blocks)):
        index, name, level, draws = blocks[key]
        yield key, [_draw(test, name, level, draw, _seed(seed, index, draw)) for draw in draws]


def _draw(test: PowerTest, name: str, level: float | None, draw: int, seed: int) -> dict[str, Any]:
    score = float(test.score(level, seed))
    if not math.isfinite(score):
        raise NonFiniteError(f"the score of {name}, draw {draw} is {score}; a score must be a finite number")
    return {"kind": "draw", "group": name, "draw": draw, "score": score}


def _seed(seed: int, arm: int, draw: int) -> int:
    return int(np.random.SeedSequence([seed, arm, draw]).generate_state(1)[0])


def summarize(test: PowerTest, records: Iterable[Mapping[str, Any]]) -> PowerSummary:
    """Threshold, false-positive rate and power from the recorded draws; others among the records are passed over."""
    scores: dict[str, list[float]] = {name: [] for name in test.arms()}
    for record in records:
        if record.get("kind") == "draw":
            scores[record["group"]].append(record["score"])
    for name, (_, count) in test.arms().items():
        if len(scores[name]) != count:
            raise ShammieError(f"{name} has {len(scores[name])} of {count} draws; measure the rest with --resume")
    threshold = quantile_threshold(scores[_NULL], FALSE_POSITIVE_RATE)

    def detected(name: str) -> Estimate:
        return proportion(sum(score > threshold for score in scores[name]), len(scores[name]))

    levels = {level: detected(name) for name, (level, _) in test.arms().items() if level is not None}
    return PowerSummary(threshold, detected(_CHECK), levels, test.middle)
