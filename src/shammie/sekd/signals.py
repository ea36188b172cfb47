"""Scores of positions: one streamed pass over all of them, a chunk of logits at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shammie.sekd.equations import ce_ratio, entropy, kl
from shammie.sekd.heads import Head
from shammie.sekd.settings import Signal

Values = dict[str, Float[Tensor, " N"]]
NEEDS: Mapping[Signal, tuple[str, ...]] = {
    "ce_ratio": ("student_ce", "teacher_ce"),
    "kl+student_entropy": ("kl", "student_entropy"),
    "ce_ratio+student_entropy": ("student_ce", "teacher_ce", "student_entropy"),
}
"""What a combined signal is made of; any other is itself."""


def parts_of(signal: Signal) -> tuple[str, ...]:
    """The measurements a signal needs."""
    return NEEDS.get(signal, (signal,))


def combine(signal: Signal, values: Mapping[str, Tensor], vocabulary: int) -> Float[Tensor, "*N"]:
    """A signal from its parts; beside a ratio the entropy counts as a share of its largest value, ln V."""
    if signal == "ce_ratio":
        return ce_ratio(values["student_ce"], values["teacher_ce"])
    if signal == "kl+student_entropy":
        return values["kl"] + values["student_entropy"]
    if signal == "ce_ratio+student_entropy":
        return ce_ratio(values["student_ce"], values["teacher_ce"]) + values["student_entropy"] / math.log(vocabulary)
    return values[signal]


@dataclass(frozen=True)
class Side:
    """A model's final-normed states at N positions, with its head."""

    head: Head
    states: Float[Tensor, "N D"]


def measure(
    names: tuple[str, ...], targets: Int[Tensor, " N"], student: Side | None, teacher: Side | None, dtype: torch.dtype
) -> Values:
    """Measurements by name at each position, without a gradient; a side that no name asks for may be None."""
    sides = {"student": student, "teacher": teacher}
    both = any(name in ("kl", "reverse_kl") for name in names)
    asked = {who: side for who, side in sides.items() if side and (both or any(name.startswith(who) for name in names))}
    rows = min(side.head.rows for side in asked.values())
    with torch.no_grad():
        weights = {who: side.head.weight.to(dtype) for who, side in asked.items()}
        found = {name: torch.empty(len(targets), device=targets.device) for name in names}
        for start in range(0, len(targets), rows):
            part = slice(start, start + rows)
            logits = {who: side.head.logits(side.states[part], weights[who]) for who, side in asked.items()}
            logs = {who: value.log_softmax(-1) for who, value in logits.items()} if both else {}
            for name in names:
                found[name][part] = _reading(name, targets[part], logits, logs)
    return found


def _reading(name: str, targets: Tensor, logits: dict[str, Tensor], logs: dict[str, Tensor]) -> Tensor:
    if name == "kl":
        return kl(logs["teacher"], logs["student"])
    if name == "reverse_kl":
        return kl(logs["student"], logs["teacher"])
    who, _, what = name.partition("_")
    if what == "entropy":
        return entropy(logits[who])
    return logits[who].logsumexp(-1) - logits[who].gather(-1, targets[:, None])[:, 0]
