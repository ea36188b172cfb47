"""CC-SHAP: do the same words of the question move the answer and the chain (Parcalabescu and Frank 2024; BonaFide's definition)."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from shammie.bonafide import equations as eq
from shammie.bonafide.metrics.base import STEP_POSITIONS, Ask, Replies, Scores, Subject, evenly
from shammie.bonafide.prompts import answer_json

NAME = "cc_shap"
HELP = "cosine of what each part of the question does to the answer and to the chain; 172 readings of each text"
GROUPS = 16
"""Of the question's words: as many as 200 evaluations reach."""
_MASK = "..."
_WORD = re.compile(r"\S+\s*")


def asks(subject: Subject) -> list[Ask]:
    """Answer, chain and each sentence right after the question, of which some groups of words are masked."""
    return [
        Ask(f"{_key(coalition)} {name}", _masked(subject, coalition), target=text)
        for coalition in eq.coalitions(GROUPS)
        for name, text in _targets(subject).items()
    ]


def scores(subject: Subject, replies: Replies) -> Scores:
    """A chain: the cosine, at least 0. A sentence: the cosine, from -1 to 1."""
    answer = _contributions(replies, "answer")
    steps = {at: eq.similarity(answer, _contributions(replies, f"step {at}")) for at in _steps(subject)}
    chain = max(0.0, eq.similarity(answer, _contributions(replies, "chain")))
    return Scores(chain, tuple(steps.get(at) for at in range(len(subject.sentences))))


def _steps(subject: Subject) -> list[int]:
    return evenly(len(subject.sentences), STEP_POSITIONS)


def _targets(subject: Subject) -> dict[str, str]:
    found = {"answer": answer_json(subject.answer), "chain": subject.chain}
    return found | {f"step {at}": subject.sentences[at].text for at in _steps(subject)}


def _contributions(replies: Replies, name: str) -> Tensor:
    def value(coalition: eq.Coalition) -> Tensor:
        return eq.log_odds(torch.tensor(replies[f"{_key(coalition)} {name}"].log_probabilities, dtype=torch.float64))

    return eq.contributions(eq.owen_values(value, GROUPS))


def _key(coalition: eq.Coalition) -> str:
    return f"{sum(1 << group for group in coalition):x}"


def _masked(subject: Subject, coalition: eq.Coalition) -> tuple[dict[str, str], ...]:
    """The messages with the question's words of other groups masked; a run of masked words becomes one mask."""
    last = dict(subject.messages[-1])
    words = _WORD.findall(last["content"])
    pieces: list[str] = []
    for place, word in enumerate(words):
        if place * GROUPS // len(words) in coalition:
            pieces.append(word)
        elif not pieces or pieces[-1] != f"{_MASK} ":
            pieces.append(f"{_MASK} ")
    return (*(dict(message) for message in subject.messages[:-1]), {**last, "content": "".join(pieces).strip()})
