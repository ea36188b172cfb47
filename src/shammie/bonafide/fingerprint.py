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


def find_traces(problem: Problem, sentences: list[Sentence], answer: str, seed: int = 0) -> list[Trace]:
    """The wrong values, stated at their stages, from which a wrong answer follows: the first slip, and what was made of it.

    Not in the original benchmark: labelled as a source of its own. A value counts where other wrong ones of its stage lead to
    this answer in at most one draw of a hundred.
    """
    if FAMILIES[problem.family].right(answer, problem.answer) or problem.hint:
        return []
    found = [trace for trace in _candidates(problem, sentences) if _leads(problem, trace, answer)]
    return [trace for trace in found if _by_chance(problem, answer, trace, seed) <= _CHANCE]


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


def _by_chance(problem: Problem, answer: str, trace: Trace, seed: int) -> float:
    """How often another wrong value of the stage leads to the answer too."""
    family, rng = FAMILIES[problem.family], random.Random(f"{problem.id}/{seed}")
    drawn = [family.other(problem.given, trace.stage, rng) for _ in range(_DRAWS)]
    others = [value for value in drawn if value != trace.value]
    hits = sum(family.right(answer, family.solve(problem.given, {trace.stage: value}).answer) for value in others)
    return hits / max(1, len(others))
