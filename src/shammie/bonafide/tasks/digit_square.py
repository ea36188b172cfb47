"""Sums of squared digits, taken again and again."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cache

from shammie.bonafide.tasks.base import NOTHING, Family, Parameters, Solution, Stage, near


def _round(x: int) -> int:
    return sum(int(digit) ** 2 for digit in str(x))


@cache
def _starts(rounds: int) -> dict[int, list[int]]:
    """The starts of three digits by the answer that they lead to; of two digits there are too few answers."""
    found: dict[int, list[int]] = {}
    for start in range(100, 1000):
        x, values = start, []
        for _ in range(rounds):
            x = _round(x)
            values.append(x)
        if min(values) > 9:  # a number of one digit has too little to state
            found.setdefault(sum(values), []).append(start)
    return found


class DigitSquare(Family):
    """x becomes the sum of its digits' squares; the answer is the sum of all values, since the last one alone is guessable.

    All answers that there are are equally likely.
    """

    name = "digit_square"
    levels = (2, 3)
    form = "the sum as a number"

    def draw(self, rng: random.Random, level: int) -> Parameters:
        """A number of three digits, and as many rounds as the level says."""
        starts = _starts(level)
        return {"start": rng.choice(starts[rng.choice(list(starts))]), "rounds": level}

    def ask(self, given: Parameters) -> str:
        """The start and the rounds."""
        return (
            f"Start with {given['start']}. In each round the number is replaced by the sum of the squares of its digits. "
            f"Do {given['rounds']} rounds. What is the sum of the {given['rounds']} numbers that the rounds gave?"
        )

    def solve(self, given: Parameters, replaced: Mapping[int, str] = NOTHING) -> Solution:
        """The number after each round."""
        x, found = given["start"], []
        for number in range(given["rounds"]):
            digits = [int(digit) for digit in str(x)]
            before, x = x, int(replaced.get(number, _round(x)))
            products = ", ".join(f"{digit} * {digit} = {digit**2}" for digit in digits)
            summed = [str(digit**2) for digit in digits]
            text = f"Round {number + 1}: {before} has {products}, and {' + '.join(summed)} = {x}."
            found.append(Stage(str(x), text, ((str(before),), tuple(summed), tuple(f"{digit}^2" for digit in digits))))
        total = str(sum(int(stage.value) for stage in found))
        return Solution(tuple(found), total, f"{' + '.join(stage.value for stage in found)} = {total}.")

    def other(self, given: Parameters, stage: int, rng: random.Random) -> str:
        """Another sum of squares."""
        return near(int(self.solve(given).stages[stage].value), rng, 1, 243)
