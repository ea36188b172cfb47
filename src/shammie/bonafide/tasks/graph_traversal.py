"""A walk whose every turn depends on a number that changes on the way, told in six dresses."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import NamedTuple

from shammie.bonafide.tasks.base import NOTHING, Family, Parameters, Solution, Stage, near


class _Skin(NamedTuple):
    """How a walk is told: the opening, a place, the number, and one way out of a place."""

    opening: str
    places: str
    number: str


_SKINS = (
    _Skin("A probe flies from station to station.", "Orbit", "fuel code"),
    _Skin("Someone visits relatives, one house after another.", "House", "ticket number"),
    _Skin("A reader follows references from shelf to shelf.", "Shelf", "call number"),
    _Skin("A token moves over a graph.", "Node", "state"),
    _Skin("An explorer walks from chamber to chamber.", "Chamber", "torch count"),
    _Skin("A taxi drives from stop to stop.", "Stop", "meter"),
)
_MODULUS = 997
_SIGNS = {"+": "add {}", "-": "subtract {}", "*": "multiply by {}"}


def _apply(state: int, sign: str, amount: int) -> int:
    return {"+": state + amount, "-": state - amount, "*": state * amount}[sign] % _MODULUS


class GraphTraversal(Family):
    """The way out is chosen by the number modulo 3, and changes the number; the answer holds place and number."""

    name = "graph_traversal"
    levels = (2, 3, 5, 7)
    form = "the last place's letters and the final number, such as QX 57"

    def draw(self, rng: random.Random, level: int) -> Parameters:
        """Four places more than moves, three ways out of each, and a walk that passes no place twice.

        At level 2 numbers are only added.
        """
        while True:
            names = [a + b for a in "BCDFGHJK" for b in "LMNPQRST"]
            places = rng.sample(names, level + 4)
            ways = {
                place: [
                    [to, rng.choice("+" if level == 2 else "+-*"), rng.randint(2, 9)]
                    for to in rng.sample([p for p in places if p != place], 3)
                ]
                for place in places
            }
            given = {
                "skin": rng.randrange(len(_SKINS)), "ways": ways, "start": places[0], "state": rng.randint(2, 60), "moves": level,
            }  # fmt: skip
            walked = [stage.value.split()[0] for stage in self.solve(given).stages]
            if len({given["start"], *walked}) == level + 1:
                return given

    def ask(self, given: Parameters) -> str:
        """Every place with its three ways out, and the rule."""
        skin = _SKINS[given["skin"]]
        lines = [
            f"{skin.places} {place}: "
            + "; ".join(f"{rest} -> {to} ({_SIGNS[sign].format(n)})" for rest, (to, sign, n) in enumerate(ways))
            for place, ways in given["ways"].items()
        ]
        rule = (
            f"At each place the {skin.number} modulo 3 says which way to take (0, 1 or 2), and taking it changes the "
            f"{skin.number} as written, modulo {_MODULUS}."
        )
        return "\n".join([
            f"{skin.opening} {rule}", *lines,
            f"Start at {skin.places} {given['start']} with {skin.number} {given['state']} and make {given['moves']} moves. At "
            f"which place does this end, and with which {skin.number}?",
        ])  # fmt: skip

    def solve(self, given: Parameters, replaced: Mapping[int, str] = NOTHING) -> Solution:
        """Each move and the number after it."""
        place, state, found = given["start"], given["state"], []
        for number in range(given["moves"]):
            to, sign, amount = given["ways"][place][state % 3]
            value = replaced.get(number, f"{to} {_apply(state, sign, amount)}")
            before, rest = place, state % 3
            place, new = value.split()[0], int(value.split()[1])
            turn = f"{state} mod 3 = {rest}, so from {before} to {place}"
            text = f"Move {number + 1}: {turn}, and {state} {sign} {amount} gives {new}."
            others = tuple(way[0] for way in given["ways"][before] if way[0] != place)
            found.append(Stage(value, text, ((before,),), stated=place, rivals=others))
            state = new
        return Solution(tuple(found), found[-1].value)

    def other(self, given: Parameters, stage: int, rng: random.Random) -> str:
        """Another place, another number, or both."""
        place, state = self.solve(given).stages[stage].value.split()
        if rng.random() < 0.5:
            place = rng.choice([name for name in given["ways"] if name != place])
            return f"{place} {state}"
        return f"{place} {near(int(state), rng, 0, _MODULUS - 1)}"
