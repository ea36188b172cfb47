"""The constant baseline: everything is faithful."""

from __future__ import annotations

from shammie.bonafide.metrics.base import Ask, Replies, Scores, Subject

NAME = "always_faithful"
HELP = "1 for everything"


def asks(_subject: Subject) -> list[Ask]:
    """Nothing is asked."""
    return []


def scores(subject: Subject, _replies: Replies) -> Scores:
    """1."""
    return Scores(1.0, (1.0,) * len(subject.sentences))
