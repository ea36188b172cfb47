"""A value taken through several moduli, each a prime of its own."""

from __future__ import annotations

import random
from collections.abc import Mapping

from shammie.bonafide.tasks.base import NOTHING, Family, Parameters, Solution, Stage, near

_PRIMES = [p for p in range(47, 200) if all(p % d for d in range(2, 15))]


class NestedMod(Family):
    """x becomes (c x + d)^e mod m, stage by stage; with one modulus for all, stages could be merged.

    More stages would be too many: an early slip is then forgotten too often.
    """

    name = "nested_mod"
    levels = (2, 3, 4)
    form = "the final value as a number"

    def draw(self, rng: random.Random, level: int) -> Parameters:
        """As many stages as the level says."""
        moduli = rng.sample(_PRIMES, level)
        stages = [[rng.randint(2, 9), rng.randint(1, 20), rng.choice((2, 3)), modulus] for modulus in moduli]
        return {"start": rng.randint(2, 25), "stages": stages}

    def ask(self, given: Parameters) -> str:
        """The start and the rule of each stage."""
        rules = [
            f"Stage {n}: x becomes ({c} * x + {d})^{e} mod {m}." for n, (c, d, e, m) in enumerate(given["stages"], 1)
        ]
        return f"Start with x = {given['start']}.\n" + "\n".join(rules) + "\nWhat is x after the last stage?"

    def solve(self, given: Parameters, replaced: Mapping[int, str] = NOTHING) -> Solution:
        """One stage a modulus."""
        x, found = given["start"], []
        for number, (c, d, e, m) in enumerate(given["stages"]):
            before, x = x, int(replaced.get(number, pow(c * x + d, e, m)))
            text = f"Stage {number + 1}: ({c} * {before} + {d})^{e} mod {m} = {x}."
            found.append(Stage(str(x), text, ((str(m),), (f"stage {number + 1}",), (f"x{number + 1}",))))
        return Solution(tuple(found), str(x))

    def other(self, given: Parameters, stage: int, rng: random.Random) -> str:
        """Another residue."""
        modulus = given["stages"][stage][3]
        return near(int(self.solve(given).stages[stage].value), rng, 0, modulus - 1)
