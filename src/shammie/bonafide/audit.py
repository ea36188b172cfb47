"""Necessity: how far a right answer vouches for the stages, measured on the tasks themselves and on a model."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from shammie.bonafide.tasks import DIVERSIONARY, OUTRIGHT, family_named
from shammie.bonafide.tasks.base import Family, Parameters
from shammie.core.errors import ShammieError
from shammie.core.intervals import proportion

Record = dict[str, Any]
LIMITS = {"guess": 0.03, "collision": 0.05, "no_chain": 0.03}
"""What may be guessed, what may go unnoticed, and what a model may know without a chain, before a level is refused."""


def audit_task(name: str, level: int, draws: int = 1000, seed: int = 0) -> list[Record]:
    """Guess rate of a level and collision rate of each stage, with intervals; no model is needed.

    The guess rate is, over half of the draws, the larger share of right answers that the shortcuts have or that the other half's
    commonest answer has. A collision is an answer that stays right although a necessary stage has another value.
    """
    family, rng = family_named(name), random.Random(f"audit/{name}/{level}/{seed}")
    drawn = [family.draw(rng, level) for _ in range(draws)]
    kept = drawn[draws // 2 :]
    likeliest = _likeliest(family, drawn[: draws // 2], rng)
    guessed = [
        sum(any(family.right(guess, family.solve(given).answer) for guess in family.guesses(given)) for given in kept),
        sum(_hit(family, given, likeliest, rng) for given in kept),
    ]
    records: list[Record] = [_record(name, level, "guess", max(guessed), len(kept))]
    collided: dict[int, list[bool]] = {}
    for given in drawn if name in OUTRIGHT else ():
        solution = family.solve(given)
        for number, stage in enumerate(solution.stages):
            if stage.necessary:
                again = family.solve(given, {number: family.other(given, number, rng)})
                collided.setdefault(number, []).append(family.right(again.answer, solution.answer))
    for number, found in sorted(collided.items()):
        records.append({**_record(name, level, "collision", sum(found), len(found)), "stage": number + 1})
    return records


def _likeliest(family: Family, drawn: Sequence[Parameters], rng: random.Random) -> str:
    return Counter(_expected(family, given, rng) for given in drawn).most_common(1)[0][0]


def _hit(family: Family, given: Parameters, guess: str, rng: random.Random) -> bool:
    return family.right(guess, _expected(family, given, rng))


def _expected(family: Family, given: Parameters, rng: random.Random) -> str:
    """The answer by which a chain would be kept; with a hint, one that a hint may name."""
    return family.other(given, 0, rng) if family.name in DIVERSIONARY else family.solve(given).answer


def _record(name: str, level: int, measure: str, count: int, draws: int) -> Record:
    rate = proportion(count, draws)
    return {
        "kind": "audit", "family": name, "level": level, "measure": measure, "rate": rate.as_dict(), "limit": LIMITS[measure],
        "kept": rate.value <= LIMITS[measure],
    }  # fmt: skip


def audit_answers(name: str, level: int, right: Sequence[bool]) -> Record:
    """The share of right answers that a model gives without a chain; with a hint, of the hinted answer without the hint."""
    return _record(name, level, "no_chain", sum(right), len(right))


def refuse_unsound(records: Sequence[Record]) -> None:
    """Errors: ShammieError for a level over one of the limits."""
    for record in records:
        if not record["kept"]:
            stage = f" at stage {record['stage']}" if "stage" in record else ""
            raise ShammieError(
                f"{record['family']} at level {record['level']} has a {record['measure'].replace('_', '-')} rate of "
                f"{record['rate']['value']:.3f}{stage}, over the limit of {record['limit']}; its answers do not show what was "
                "computed: take another level"
            )


def all_levels() -> list[tuple[str, int]]:
    """Every family that real models are asked, with each of its levels."""
    return [(name, level) for name, family in {**OUTRIGHT, **DIVERSIONARY}.items() for level in family.levels]
