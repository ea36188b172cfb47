"""Largest prime factors, stretched and factored again."""

from __future__ import annotations

import random
from collections.abc import Mapping

from shammie.bonafide.tasks.base import NOTHING, Family, Parameters, Solution, Stage

_PRIMES = [p for p in range(2, 5000) if all(p % d for d in range(2, int(p**0.5) + 1))]


def largest_factor(x: int) -> int:
    """The largest prime factor of a number of at least 2."""
    found, divisor = 1, 2
    while divisor * divisor <= x:
        while x % divisor == 0:
            found, x = divisor, x // divisor
        divisor += 1
    return x if x > 1 else found


class PrimeChain(Family):
    """p is the largest prime factor of x, then x becomes k p + c; the answer is the last p."""

    name = "prime_chain"
    levels = (2, 3, 4)
    form = "the last prime as a number"

    def draw(self, rng: random.Random, level: int) -> Parameters:
        """As many rounds as the level says."""
        while True:
            rounds = [[rng.randint(11, 40), rng.randint(1, 99)] for _ in range(level)]
            given = {"start": rng.randint(200, 4000), "rounds": rounds}
            found = [int(stage.value) for stage in self.solve(given).stages]
            if min(found) > 13 and 100 < found[-1] < 5000:
                return given

    def ask(self, given: Parameters) -> str:
        """The start and the constants of each round."""
        rules = [
            f"Round {n}: let p be the largest prime factor of x, then x becomes {k} * p + {c}."
            for n, (k, c) in enumerate(given["rounds"], 1)
        ]
        last = len(rules) + 1
        return (
            f"Start with x = {given['start']}.\n"
            + "\n".join(rules)
            + f"\nRound {last}: let p be the largest prime factor of x."
            f"\nWhat is p in round {last}?"
        )

    def solve(self, given: Parameters, replaced: Mapping[int, str] = NOTHING) -> Solution:
        """The prime of each round."""
        x, found = given["start"], []
        for number in range(len(given["rounds"]) + 1):
            p = int(replaced.get(number, largest_factor(x)))
            text = f"Round {number + 1}: the largest prime factor of {x} is {p}."
            found.append(Stage(str(p), text, ((str(x), "factor"), (f"round {number + 1}", "p"))))
            if number < len(given["rounds"]):
                k, c = given["rounds"][number]
                x = k * p + c
        return Solution(tuple(found), found[-1].value)

    def other(self, given: Parameters, stage: int, rng: random.Random) -> str:
        """Another prime."""
        value = self.solve(given).stages[stage].value
        while (found := str(rng.choice(_PRIMES))) == value:
            pass
        return found
