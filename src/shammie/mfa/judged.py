"""A judge's view of steering: is the concept there, is the text fluent; 0 to 2 each, and their harmonic mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shammie.core.intervals import mean_interval
from shammie.core.judge import Judge, JudgePrompt

_CONCEPT = JudgePrompt(
    "mfa-steering-concept", "1",
    "How much is the following text about $concept?\n\n$text\n\nAnswer with one word: none, some or much.",
    ("none", "some", "much"),
)  # fmt: skip
_FLUENCY = JudgePrompt(
    "mfa-steering-fluency", "1",
    "How fluent is the following text, whatever it is about?\n\n$text\n\nAnswer with one word: broken, readable or fluent.",
    ("broken", "readable", "fluent"),
)  # fmt: skip
Record = dict[str, Any]


def judge_continuations(judge: Judge, concept: str, lines: Sequence[Record]) -> list[Record]:
    """The same continuations with both verdicts and their score; None where the judge stated no verdict."""
    asked = [{"concept": concept, "text": line["text"]} for line in lines]
    verdicts = zip(judge.judge(_CONCEPT, asked), judge.judge(_FLUENCY, asked), strict=True)
    return [
        {**line, "concept": one.verdict, "fluency": other.verdict, "score": score(one.verdict, other.verdict)}
        for line, (one, other) in zip(lines, verdicts, strict=True)
    ]


def score(concept: str | None, fluency: str | None) -> float | None:
    """Harmonic mean of two ratings from 0 to 2; 0 where either is."""
    if concept is None or fluency is None:
        return None
    a, b = _CONCEPT.verdicts.index(concept), _FLUENCY.verdicts.index(fluency)
    return 2 * a * b / (a + b) if a and b else 0.0


def summarize(lines: Sequence[Mapping[str, Any]]) -> list[Record]:
    """Mean score with and without steering, prompts drawn together, and how many texts were judged of how many."""
    found = []
    for steered in (False, True):
        own = [line for line in lines if line["kind"] == "continuation" and line["steered"] is steered]
        judged = [line for line in own if line["score"] is not None]
        mean = (
            mean_interval([r["score"] for r in judged], [r["prompt"] for r in judged], 0).as_dict() if judged else None
        )
        found.append({"kind": "judged", "steered": steered, "texts": len(own), "judged": len(judged), "score": mean})
    return found
