"""Structural causal model with forced answers."""

from __future__ import annotations

from shammie.bonafide.metrics import structural
from shammie.bonafide.metrics.base import Ask, Replies, Scores, Subject

NAME = "structural_forced"
HELP = "the structural metric where an answer must follow the chain at once"


def asks(subject: Subject) -> list[Ask]:
    """As structural, all forced."""
    return structural.asks(subject, forced=True)


def scores(subject: Subject, replies: Replies) -> Scores:
    """As structural."""
    return structural.scores(subject, replies)
