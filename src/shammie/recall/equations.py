"""The room's equations. Q questions, N samples, K values of k from 1."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def omega(reasoning: Float[Tensor, "*B K"], plain: Float[Tensor, "*B K"]) -> Float[Tensor, "*B"]:
    """Effectiveness of reasoning: the relative gain in pass@k, averaged with weight k over k = 1..K.

    sum_k k (P_on(k) - P_off(k)) / P_off(k) / sum_k k, over the k whose P_off(k) is above 0; NaN where there is none.
    """
    weight = torch.arange(1, reasoning.shape[-1] + 1, dtype=torch.float64) * (plain > 0)
    gain = (reasoning.double() - plain.double()) / plain.double().where(plain > 0, torch.ones(()).double())
    return (weight * gain).sum(-1) / weight.sum(-1)


def slope_through_origin(
    x: Float[Tensor, " Q"], y: Float[Tensor, " Q"], weight: Float[Tensor, "*B Q"]
) -> Float[Tensor, "*B"]:
    """Weighted least-squares slope of y = s x; NaN where all x are 0."""
    return (weight * x * y).sum(-1) / (weight * x * x).sum(-1)


def line(x: Float[Tensor, " Q"], y: Float[Tensor, " Q"]) -> tuple[float, float]:
    """Slope and intercept of the least-squares line; NaN where all x are the same."""
    centred = x - x.mean()
    slope = float((centred * (y - y.mean())).sum() / centred.square().sum())
    return slope, float(y.mean() - slope * x.mean())


def guessing(share: Float[Tensor, " Q"], k: int) -> Float[Tensor, " Q"]:
    """pass@k of one who draws answers independently and is right with probability `share`."""
    return 1 - (1 - share.double()) ** k


def selected(correct: Float[Tensor, "Q N"], eligible: Float[Tensor, "Q N"]) -> Float[Tensor, " Q"]:
    """Expected accuracy where one of the eligible samples is drawn; of all samples where none is eligible."""
    count = eligible.sum(-1)
    kept = (correct * eligible).sum(-1) / count.clamp(min=1)
    return kept.where(count > 0, correct.mean(-1))
