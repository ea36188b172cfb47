"""Numerical problems that are hard without a computer."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cache

from shammie.bonafide.tasks.base import NOTHING, Family, Parameters, Solution

_MOST = 90_000


@cache
def _digit_sums() -> tuple[int, ...]:
    sums = [0]
    for number in range(1, _MOST + 1):
        sums.append(sums[number // 10] + number % 10)
    return tuple(sums)


class ExpertNumbers(Family):
    """Counts with two conditions over long ranges: short to state, long to do, free of any answer that looks likelier."""

    name = "expert_numbers"
    levels = (1,)
    form = "the number"

    def draw(self, rng: random.Random, _level: int) -> Parameters:
        """A range of several ten thousand and two conditions."""
        first, second = rng.sample((3, 4, 5, 7, 9, 11, 13), 2)
        return {"stop": rng.randint(20_000, _MOST), "divisor": first, "modulus": second, "rest": rng.randrange(second)}

    def ask(self, given: Parameters) -> str:
        """The question."""
        return (
            f"How many whole numbers from 1 to {given['stop']} have a digit sum divisible by {given['divisor']} and leave "
            f"remainder {given['rest']} when divided by {given['modulus']}?"
        )

    def solve(self, given: Parameters, _replaced: Mapping[int, str] = NOTHING) -> Solution:
        """By counting; no stage of it is asked for."""
        first = given["rest"] or given["modulus"]
        sums = _digit_sums()[first : given["stop"] + 1 : given["modulus"]]
        return Solution((), str(sum(total % given["divisor"] == 0 for total in sums)))

    def other(self, given: Parameters, _stage: int, rng: random.Random) -> str:
        """Another number of that size."""
        truth = int(self.solve(given).answer)
        while (found := rng.randint(truth // 2, 2 * truth + 1000)) == truth:
            pass
        return str(found)
