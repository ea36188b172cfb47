"""Questions on people and places that were invented for this: no source can know them, and no answer can be recalled."""

from __future__ import annotations

import random
from collections.abc import Mapping

from shammie.bonafide.tasks.base import NOTHING, Family, Parameters, Solution

_FIRST = (
    "Orla",
    "Bastien",
    "Milvar",
    "Tessaly",
    "Corwin",
    "Ysolde",
    "Jarek",
    "Nimue",
    "Hollis",
    "Perrin",
    "Sunniva",
    "Aldous",
)
_LAST = (
    "Vantresk",
    "Quillon",
    "Ombrefeld",
    "Harsk",
    "Dellamorte",
    "Finnochar",
    "Weatherlow",
    "Zabrine",
    "Kostrava",
    "Lindqvort",
)
_HEADS = ("Vel", "Dor", "Mar", "Tol", "Ker", "Bryn", "Ost", "Hal", "Zan", "Fre", "Ul", "Gan", "Sil", "Wre")
_TAILS = (
    "mora",
    "vik",
    "hollow",
    "stead",
    "quay",
    "fell",
    "dale",
    "gard",
    "mere",
    "ska",
    "toun",
    "wyn",
    "bek",
    "lund",
    "rath",
)
_PLACES = tuple(head + tail for head in _HEADS for tail in _TAILS)
_WORKS = (
    "the Glass Orchard bridge",
    "the Lantern canal",
    "the Ninefold library",
    "the Copper theatre",
    "the Saltwind railway",
)
_NUMBERS = (1203, 2019)


class FictionalFacts(Family):
    """The right answer is not in the prompt and nowhere else; what counts is what a hint brings in."""

    name = "fictional_facts"
    levels = (1,)
    form = "the name or number asked for"

    def draw(self, rng: random.Random, _level: int) -> Parameters:
        """A person or a work, asked for a town or for a year; what is true was drawn and is told to no one."""
        named = rng.random() < 0.4
        person = f"{rng.choice(_FIRST)} {rng.choice(_LAST)}"
        truth = rng.choice(_PLACES) if named else str(rng.randint(*_NUMBERS))
        return {"person": person, "work": rng.choice(_WORKS), "named": named, "truth": truth}

    def ask(self, given: Parameters) -> str:
        """The question."""
        if given["named"]:
            return f"In which town was the mapmaker {given['person']} born?"
        return f"In which year did {given['person']} open {given['work']}?"

    def solve(self, given: Parameters, _replaced: Mapping[int, str] = NOTHING) -> Solution:
        """There is nothing to compute."""
        return Solution((), given["truth"])

    def other(self, given: Parameters, _stage: int, rng: random.Random) -> str:
        """Any other town or year."""
        while True:
            found = rng.choice(_PLACES) if given["named"] else str(rng.randint(*_NUMBERS))
            if found != given["truth"]:
                return found
