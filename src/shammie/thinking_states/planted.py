"""Planted truth: a model that is known to answer from its states, of which some questions get none and some get another's.

The check that must find the latter is `evaluate.causal`'s: how often an answer is that of the question whose states were put in. A
question without states is guessed, so that half of those follow the other question by chance.
"""

from __future__ import annotations

import random
from functools import cache
from typing import cast

import torch

from shammie.core.power import PowerTest
from shammie.thinking_states.config import SHIPPED
from shammie.thinking_states.evaluate import answers
from shammie.thinking_states.methods import Thinking
from shammie.thinking_states.problems import Example
from shammie.thinking_states.running import open_reasoner
from shammie.thinking_states.tasks import TASKS

QUESTIONS, OPERATIONS, WITHOUT = 40, 4, 0.5


@cache
def reasoner() -> Thinking:
    """The small model that comes with the package; that its answers follow its states is held by a test."""
    return cast(Thinking, open_reasoner(SHIPPED))


def pair(seed: int, number: int) -> tuple[Example, Example]:
    """Two coins that end on different sides after as many chunks."""
    draw, encode = random.Random(f"planted/{seed}/{number}"), reasoner().layout.encode
    one = encode(TASKS["parity"].draw(draw, OPERATIONS, True))
    while True:
        other = encode(TASKS["parity"].draw(draw, OPERATIONS, True))
        if other.problem.answer != one.problem.answer and len(other.thoughts) == len(one.thoughts):
            return one, other


def followed(share: float, seed: int) -> float:
    """Share of answers that are the other question's, where a question that keeps its states gets the other's by that chance."""
    model, draw = reasoner(), random.Random(f"share/{seed}")
    pairs = [pair(seed, number) for number in range(QUESTIONS)]
    given = [other if draw.random() < share else one for one, other in pairs]
    kept = torch.tensor([draw.random() >= WITHOUT for _ in pairs])
    with torch.no_grad():
        states = model.gold_states(given) * kept[:, None, None, None]
    made = answers(model, [one for one, _ in pairs], states=states)
    return sum(one.right(other) for one, (_, other) in zip(made, pairs, strict=True)) / QUESTIONS


def _score(level: float | None, seed: int) -> float:
    return followed(level or 0.0, seed)


MIDDLE = 0.6
POWER = PowerTest(_score, (0.75, MIDDLE, 0.45, 0.3, 0.15), MIDDLE)
