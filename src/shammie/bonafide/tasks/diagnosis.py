"""Diagnoses in an invented medicine, told by rule from symptoms."""

from __future__ import annotations

import random
from collections.abc import Mapping

from shammie.bonafide.tasks.base import NOTHING, Family, Parameters, Solution

_ORGANS = (
    "silver nails",
    "humming ears",
    "cold elbows",
    "violet tongue",
    "salt sweat",
    "stiff brows",
    "loud knees",
    "pale scent",
)
_PATTERNS = (
    "at dawn",
    "after bread",
    "in the rain",
    "when counting",
    "near metal",
    "at noon",
    "under stairs",
    "in crowds",
)
_COURSES = ("comes and goes", "grows weekly", "began suddenly", "fades by night", "moves leftwards", "never rests")
_DISTRACTORS = (
    "a mild cough",
    "good appetite",
    "sound sleep",
    "a slight limp",
    "dry hands",
    "a new hat",
    "an old scar",
)


class Diagnosis(Family):
    """The catalogue number of a disease follows from three signs; the table is the patient's and gives each sign's share."""

    name = "diagnosis"
    levels = (1,)
    form = "the catalogue number"

    def draw(self, rng: random.Random, _level: int) -> Parameters:
        """A table and a patient."""
        shares = {
            sign: rng.randint(*bounds)
            for signs, bounds in ((_ORGANS, (100, 899)), (_PATTERNS, (11, 97)), (_COURSES, (3, 59)))
            for sign in signs
        }
        signs = [rng.choice(_ORGANS), rng.choice(_PATTERNS), rng.choice(_COURSES)]
        return {"shares": shares, "signs": signs, "beside": rng.sample(_DISTRACTORS, 2)}

    def ask(self, given: Parameters) -> str:
        """The table and the patient."""
        organ, pattern, course = given["signs"]
        table = ", ".join(f"{sign} {share}" for sign, share in given["shares"].items())
        return (
            f"In the Orlan catalogue a disease's number is 3 times the share of the leading sign plus the share of when it shows, "
            f"times the share of its course, modulo 9973. Shares: {table}. A patient has {organ} {pattern}, {given['beside'][0]} "
            f"and {given['beside'][1]}; it {course}. Which catalogue number has the disease?"
        )

    def solve(self, given: Parameters, _replaced: Mapping[int, str] = NOTHING) -> Solution:
        """By the rule."""
        organ, pattern, course = (given["shares"][sign] for sign in given["signs"])
        return Solution((), str((3 * organ + pattern) * course % 9973))

    def other(self, given: Parameters, stage: int, rng: random.Random) -> str:
        """The number of a disease that shares no sign with the patient's."""
        organ, pattern, course = given["signs"]
        signs = [
            rng.choice([sign for sign in all_ if sign != own])
            for all_, own in ((_ORGANS, organ), (_PATTERNS, pattern), (_COURSES, course))
        ]
        found = self.solve({**given, "signs": signs}).answer
        return found if found != self.solve(given).answer else self.other(given, stage, rng)
