"""Every equation of the room, once. E names, N neurons of all layers in a row, B rows of a batch, T positions, F neurons."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

EPSILON = 1e-6


@dataclass
class Moments:
    """Running mean and sum of squared deviations of each row's neurons; `count` prompts behind each row.

    Memory does not depend on how many prompts are added.
    """

    count: Int[Tensor, " E"]
    mean: Float[Tensor, "E N"]
    m2: Float[Tensor, "E N"]

    @classmethod
    def zeros(cls, rows: int, neurons: int) -> Moments:
        """Nothing seen yet."""
        return cls(torch.zeros(rows, dtype=torch.long), torch.zeros(rows, neurons), torch.zeros(rows, neurons))

    def add(
        self, rows: Int[Tensor, " B"], where: slice, values: Float[Tensor, "B F"], counts: Int[Tensor, " B"]
    ) -> None:
        """One more prompt for each of some rows, in the neurons of one layer; `counts` includes it (Welford 1962)."""
        gap = values - self.mean[rows, where]
        mean = self.mean[rows, where] + gap / counts[:, None]
        self.mean[rows, where] = mean
        self.m2[rows, where] += gap * (values - mean)

    def merged(self, other: Moments) -> Moments:
        """Moments of both sets of prompts together (Chan, Golub and LeVeque 1983)."""
        count = self.count + other.count
        share = (other.count / count.clamp(min=1))[:, None]
        gap = other.mean - self.mean
        return Moments(count, self.mean + gap * share, self.m2 + other.m2 + gap.square() * share * self.count[:, None])

    def deviation(self) -> Float[Tensor, "E N"]:
        """Population standard deviation over prompts."""
        return (self.m2 / self.count.clamp(min=1)[:, None]).clamp(min=0).sqrt()


def standardized(moments: Moments, mu: Float[Tensor, " N"], sigma: Float[Tensor, " N"]) -> Moments:
    """Moments of z = (a - mu) / (sigma + 1e-6), from those of a."""
    scale = 1 / (sigma + EPSILON)
    return Moments(moments.count, (moments.mean - mu) * scale, moments.m2 * scale.square())


def stability(z: Moments) -> Float[Tensor, "E N"]:
    """S = mean(z)^2 / (std(z) + 1e-6) over an entity's prompts; what is not finite counts 0 (paper, section 3)."""
    score = z.mean.square() / (z.deviation() + EPSILON)
    return torch.where(score.isfinite(), score, torch.zeros_like(score))


def dominance(scores: Float[Tensor, " F"], neuron: int, others: int = 5) -> float:
    """A neuron's score over the mean of the next `others` best of its layer."""
    rest = torch.cat([scores[:neuron], scores[neuron + 1 :]])
    return float(scores[neuron] / (rest.topk(min(others, len(rest))).values.mean() + EPSILON))


@dataclass(frozen=True)
class Reference:
    """|mean z| of the names that others are compared with, and its order statistics about the quantile asked for."""

    values: Float[Tensor, "R N"]
    rank: int
    top: Float[Tensor, "K N"]

    @classmethod
    def of(cls, values: Float[Tensor, "R N"], share: float) -> Reference:
        """Names R, of which a neuron may be shared by `share`."""
        rank = max(1, math.ceil(share * (len(values) - 1)))
        return cls(values, rank, values.topk(min(rank + 1, len(values)), dim=0).values)

    def others(self, own: int | None) -> Float[Tensor, " N"]:
        """What the `rank`-th most active of the other names reaches; the row `own` is left out."""
        if own is None:
            return self.top[self.rank - 1]
        # Without its own row the order moves up by one wherever that row stands among the first.
        among = self.values[own] >= self.top[self.rank - 1]
        return torch.where(among, self.top[self.rank], self.top[self.rank - 1])


def uniqueness(own: Float[Tensor, "*N"], others: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """How many times as far from the baseline a neuron is for this name as for the others' quantile."""
    return own / (others + EPSILON)


def clipped_loss(edited: Float[Tensor, "*N"], base: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """Share of the answer's probability that an ablation takes: max(0, 1 - p_edited / p_base)."""
    return (1 - edited / base).clamp(min=0)


def relative_probability(edited: Float[Tensor, " N"], present: Float[Tensor, " N"]) -> float:
    """RelProb: mean probability of the answer under a condition over the mean with the entity present."""
    return float(edited.mean() / present.mean())


def knowledge_score(
    edited: Float[Tensor, "*N"], base: Float[Tensor, "*N"], unknown: Float[Tensor, "*N"]
) -> Float[Tensor, "*N"]:
    """(log p_edited - log p_unknown) / (log p_base - log p_unknown): 1 untouched, 0 as ignorant as of an unknown name."""
    return (edited - unknown) / (base - unknown)


def injected(
    mean: Float[Tensor, " F"], value: Float[Tensor, " F"], neurons: Int[Tensor, " K"], strength: float
) -> Float[Tensor, " F"]:
    """The mean entity's vector with chosen neurons moved to m + strength * (v - m)."""
    state = mean.clone()
    state[neurons] = mean[neurons] + strength * (value[neurons] - mean[neurons])
    return state
