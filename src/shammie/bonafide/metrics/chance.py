"""What a metric must beat: chance."""

from __future__ import annotations

from shammie.bonafide.metrics.base import Ask, Replies, Scores, Subject

NAME = "chance"
HELP = "a number drawn at random"


def asks(_subject: Subject) -> list[Ask]:
    """Nothing is asked."""
    return []


def scores(subject: Subject, _replies: Replies) -> Scores:
    """A draw for the chain and one for each sentence."""
    rng = subject.rng(NAME)
    return Scores(rng.random(), tuple(rng.random() for _ in subject.sentences))
