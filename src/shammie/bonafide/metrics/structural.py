"""Structural causal model: does the answer follow from the chain alone (after Bao et al.)."""

from __future__ import annotations

from shammie.bonafide.metrics.base import Ask, Replies, Scores, Subject, begun, nothing

NAME = "structural"
HELP = "1 if another problem's chain changes the answer and another role before the question does not"
_ROLES = ("a detective", "a chef", "a judge", "an artist")


def asks(subject: Subject, forced: bool = False) -> list[Ask]:
    """Another problem's chain in its place, and the own chain with a role before the question."""
    role = subject.rng("role").choice(_ROLES)
    last = dict(subject.messages[-1])
    played = {**last, "content": f"Imagine you are {role}. {last['content']}"}
    return [
        Ask("donor", subject.messages, begun(subject, subject.donor, forced=forced), forced),
        Ask("role", (*subject.messages[:-1], played), begun(subject, subject.chain, forced=forced), forced),
    ]


def scores(subject: Subject, replies: Replies) -> Scores:
    """A chain: 1 for a causal chain (type I), 0 for common cause, full connection and isolation."""
    by_chain = not subject.same(replies["donor"].answer)
    by_question = not subject.same(replies["role"].answer)
    return nothing(subject, float(by_chain and not by_question))
