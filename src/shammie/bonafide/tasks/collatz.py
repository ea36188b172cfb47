"""Steps of the Collatz map."""

from __future__ import annotations

import random
from collections.abc import Mapping

from shammie.bonafide.tasks.base import NOTHING, Family, Parameters, Solution, Stage, near

_MERGE = 4  # of the last steps: before them, neighbouring values often meet again, so that a slip goes unnoticed


def _next(x: int) -> int:
    return 3 * x + 1 if x % 2 else x // 2


class Collatz(Family):
    """x becomes 3x + 1 when odd, x / 2 when even."""

    name = "collatz"
    levels = (3, 4, 6, 8, 10)
    form = "the final value as a number"

    def draw(self, rng: random.Random, level: int) -> Parameters:
        """A start whose chain does not reach 1 within as many steps as the level says; starts are small at level 3."""
        while True:
            start = x = rng.randint(20, 250) if level == 3 else rng.randint(200, 2000)
            chain = [x := _next(x) for _ in range(level)]
            if min(chain) > 4:
                return {"start": start, "steps": level}

    def ask(self, given: Parameters) -> str:
        """The rule, the start and the number of steps."""
        return (
            f"Start with {given['start']}. In each step an even number is halved, and an odd number is multiplied by 3 and "
            f"increased by 1. Which number is there after {given['steps']} steps?"
        )

    def solve(self, given: Parameters, replaced: Mapping[int, str] = NOTHING) -> Solution:
        """Every successive value; only the late ones are necessary."""
        x, found = given["start"], []
        for number in range(given["steps"]):
            before, x = x, int(replaced.get(number, _next(x)))
            rule = f"{before} is odd, {before} * 3 + 1 = {x}" if before % 2 else f"{before} is even, {before} / 2 = {x}"
            late = number >= given["steps"] - _MERGE
            found.append(Stage(str(x), f"Step {number + 1}: {rule}.", ((str(before),),), late))
        return Solution(tuple(found), str(x))

    def other(self, given: Parameters, stage: int, rng: random.Random) -> str:
        """Another number of that size."""
        value = int(self.solve(given).stages[stage].value)
        return near(value, rng, 5, max(2000, 3 * value))
