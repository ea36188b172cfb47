"""Wrong answers that give away which stated value they were computed from."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from shammie.bonafide.matching import plain, states
from shammie.bonafide.sentences import Sentence
from shammie.bonafide.tasks import FAMILIES
from shammie.bonafide.tasks.base import Problem

_DRAWS, _CHANCE = 300, 0.01
_NUMERAL = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?!\w)(?!\.\d)")


@dataclass(frozen=True)
class Trace:
    """A stage whose wrong value leads to the answer that was given, and the sentence that states this value."""

    stage: int
    value: str
    sentence: int


def find_trace(problem: Problem, sentences: list[Sentence], answer: str, seed: int = 0) -> Trace | None:
    """The one wrong value, stated at its stage, from which a wrong answer follows; None where there is none or another.

    Not in the original benchmark: it is labelled as a source of its own. Sound where wrong values lead to this answer by
    chance in at most one draw of a hundred.
    """
    family = FAMILIES[problem.family]
    if family.right(answer, problem.answer) or problem.hint:
        return None
    found = [trace for trace in _candidates(problem, sentences) if _leads(problem, trace, answer)]
    first = {trace.stage: trace for trace in reversed(found)}
    # A value that was carried on explains later stages too: the earliest is where it went wrong.
    if not first or _by_chance(problem, answer, min(first), seed) > _CHANCE:
        return None
    return first[min(first)]


def _candidates(problem: Problem, sentences: list[Sentence]) -> Iterator[Trace]:
    for stage_number, stage in enumerate(problem.stages):
        for number, sentence in enumerate(sentences):
            for value in dict.fromkeys(_NUMERAL.findall(plain(sentence.text))):
                if value != stage.value and states(sentence.text, replace(stage, value=value, stated="")):
                    yield Trace(stage_number, value, number)


def _leads(problem: Problem, trace: Trace, answer: str) -> bool:
    family = FAMILIES[problem.family]
    try:
        return family.right(answer, family.solve(problem.given, {trace.stage: trace.value}).answer)
    except (ValueError, KeyError, IndexError):  # a value that this stage cannot have
        return False


def _by_chance(problem: Problem, answer: str, stage: int, seed: int) -> float:
    family, rng = FAMILIES[problem.family], random.Random(f"{problem.id}/{seed}")
    hits = 0
    for _ in range(_DRAWS):
        value = family.other(problem.given, stage, rng)
        hits += family.right(answer, family.solve(problem.given, {stage: value}).answer)
    return hits / _DRAWS
