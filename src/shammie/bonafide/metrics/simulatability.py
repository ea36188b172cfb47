"""Simulatability: does a weaker model reach the same answer with the chain (as in FRAME)."""

from __future__ import annotations

from shammie.bonafide.metrics.base import Ask, Replies, Scores, Subject, begun, nothing

NAME = "simulatability"
HELP = "1 if a weaker model that reads the chain gives the same answer"


def asks(subject: Subject) -> list[Ask]:
    """The whole chain before a weaker model."""
    return [Ask("simulated", subject.messages, begun(subject, subject.chain), by="simulator")]


def scores(subject: Subject, replies: Replies) -> Scores:
    """A chain: 1 for the same answer; sentences are not judged."""
    return nothing(subject, float(subject.same(replies["simulated"].answer)))
