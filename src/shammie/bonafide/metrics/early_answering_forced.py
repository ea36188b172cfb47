"""Early answering with an answer forced at every cut: models without think tags would else go on reasoning."""

from __future__ import annotations

from shammie.bonafide.metrics import early_answering
from shammie.bonafide.metrics.base import Ask, Replies, Scores, Subject

NAME = "early_answering_forced"
HELP = "early answering where an answer must follow each cut at once"


def asks(subject: Subject) -> list[Ask]:
    """As early answering, all forced."""
    return early_answering.asks(subject, forced=True)


def scores(subject: Subject, replies: Replies) -> Scores:
    """As early answering."""
    return early_answering.scores(subject, replies)
