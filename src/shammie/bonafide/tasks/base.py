"""What a task family is: problems that are drawn, solved stage by stage, and solved again with a stage's value replaced."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Parameters = dict[str, Any]
"""Everything a problem is made of, as plain JSON values."""
NOTHING: Mapping[int, str] = {}


@dataclass(frozen=True)
class Stage:
    """An intermediate value that the right answer cannot do without.

    Attributes:
        value: as it would be written.
        text: one sentence that states it, operands and all.
        operands: what must stand beside it for a sentence to state this stage: all of any one group.
        necessary: False for a value that a right answer may have been found without.
        stated: what of the value a sentence must state; the value as a whole where it is left empty.
        rivals: what a sentence that states it does not hold, such as the other ways that could have been taken.
    """

    value: str
    text: str
    operands: tuple[tuple[str, ...], ...] = ((),)
    necessary: bool = True
    stated: str = ""
    rivals: tuple[str, ...] = ()


@dataclass(frozen=True)
class Solution:
    """The stages of a problem in order, its answer, and a sentence that takes it from them where it is not the last one."""

    stages: tuple[Stage, ...]
    answer: str
    closing: str = ""


class Family(ABC):
    """A kind of problem. To add one, write such a class in a file of its own and name it in `tasks/__init__.py`."""

    name: str
    levels: tuple[int, ...]
    """Difficulties, easy to hard."""
    form: str
    """What an answer looks like, as the prompt says it."""

    @abstractmethod
    def draw(self, rng: random.Random, level: int, /) -> Parameters:
        """A problem of a difficulty."""

    @abstractmethod
    def ask(self, given: Parameters, /) -> str:
        """Its question."""

    @abstractmethod
    def solve(self, given: Parameters, replaced: Mapping[int, str] = NOTHING, /) -> Solution:
        """Its solution; stages of `replaced` get that value instead of their own, and what follows goes on from there."""

    @abstractmethod
    def other(self, given: Parameters, stage: int, rng: random.Random, /) -> str:
        """A wrong value that a stage might have had."""

    def guesses(self, _given: Parameters, /) -> Sequence[str]:
        """Answers that could be had without the stages, by taking what looks likeliest."""
        return ()

    def right(self, answer: str, expected: str) -> bool:
        """Whether an answer is the expected one."""
        return normalized(answer) == normalized(expected)


@dataclass(frozen=True)
class Hint:
    """A planted wrong answer.

    Attributes:
        style: which of the six dresses it wears.
        value: the wrong answer.
        expression: what must be evaluated to have it; empty where the hint states it.
        text: as it stands in the prompt.
        before: whether it stands before the question.
    """

    style: str
    value: str
    expression: str
    text: str
    before: bool


@dataclass(frozen=True)
class Problem:
    """A drawn problem with everything that is known of it.

    Attributes:
        question: as it is put, with the hint where there is one.
        answer: the right answer; with a hint, the hinted one is what a kept chain has arrived at.
        stages: what a chain with that answer must have computed.
    """

    id: str
    family: str
    level: int
    given: Parameters = field(hash=False)
    question: str
    answer: str
    stages: tuple[Stage, ...]
    hint: Hint | None = None

    @property
    def expected(self) -> str:
        """The answer by which a chain is kept: the right one, or the hinted wrong one."""
        return self.hint.value if self.hint else self.answer


def normalized(answer: str) -> str:
    """An answer without what does not count: case, thousands' commas, dollar signs, outer blanks and stops."""
    text = " ".join(str(answer).replace("$", " ").casefold().split()).strip(" .\"'`*")
    while (closer := _between_digits(text)) >= 0:
        text = text[:closer] + text[closer + 1 :]
    return text


def _between_digits(text: str) -> int:
    """Where a thousands' comma stands, -1 for nowhere."""
    for at, char in enumerate(text):
        if (
            char == ","
            and text[at - 1 : at].isdigit()
            and len(text[at + 1 : at + 4]) == 3
            and text[at + 1 : at + 4].isdigit()
        ):
            return at
    return -1


def near(value: int, rng: random.Random, least: int, most: int) -> str:
    """A wrong number in a range: half the time a slip of a few, half the time anything."""
    while True:
        found = value + rng.choice((-10, -3, -2, -1, 1, 2, 3, 10)) if rng.random() < 0.5 else rng.randint(least, most)
        if found != value and least <= found <= most:
            return str(found)
