"""Does a channel say more than noise would? One statistic, two nulls, a p-value, a rate of false discoveries.

The paper's objective finds equally strong and equally readable channels in Gaussian noise, so kurtosis, cosine and
readable tokens are no evidence. What noise does not reach is alignment that stands out in the layer: the component of
the neuron along the centroid of the channel's tokens, in standard deviations over the layer's neurons. Noise rows go
through the same search, and a channel counts where the chance that either null reaches its value is small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from shammie.core.stats import benjamini_hochberg, proportion
from shammie.rotate.neurons import Population
from shammie.rotate.tokens import TokenSpace

NAMED = 10  # tokens whose centroid stands for a channel
_TAIL = 0.2  # share of the null that its tail is fitted on
FALSE_DISCOVERIES = 0.05


def evidence(
    population: Population, left: Float[Tensor, "*#B D"], direction: Float[Tensor, "*#B D"]
) -> Float[Tensor, "*B"]:
    """Component of each residual along a unit direction, in standard deviations over the layer's neurons."""
    return (left * direction).sum(-1) / population.spread(direction)


@dataclass(frozen=True, eq=False)
class ChannelEvidence:
    """What a channel's tokens say of its neuron: on which side of the channel they lie, and how strongly it holds them.

    `side` [B] is +1 for the tokens nearest the channel and -1 for those nearest its opposite; `direction` [B, D] is their
    centroid times the side, `evidence` [B] the neuron's component along it.
    """

    side: Float[Tensor, " B"]
    direction: Float[Tensor, "B D"]
    evidence: Float[Tensor, " B"]


def weigh(
    space: TokenSpace, population: Population, left: Float[Tensor, "B D"], channels: Float[Tensor, "B D"]
) -> ChannelEvidence:
    """Of both ends of each channel the one whose tokens the residual `left` holds more of."""
    scores = space.cosines(channels)
    ends = []
    for side in (1.0, -1.0):
        direction = side * space.centroid((side * scores).topk(NAMED, dim=-1).indices)
        ends.append((direction, evidence(population, left, direction)))
    first = ends[0][1] >= ends[1][1]
    return ChannelEvidence(
        torch.where(first, 1.0, -1.0),
        torch.where(first[:, None], ends[0][0], ends[1][0]),
        torch.where(first, ends[0][1], ends[1][1]),
    )


def residual(
    population: Population, w: Float[Tensor, "B D"], directions: Float[Tensor, "B C D"]
) -> Float[Tensor, "B D"]:
    """Unit rows minus the layer's mean, without their part in the span of directions found before."""
    centred = normalize(w, dim=-1) - population.mean
    if directions.shape[1] == 0:
        return centred
    gram = directions @ directions.mT + 1e-4 * torch.eye(directions.shape[1], device=w.device)
    weights = torch.linalg.solve(gram, directions @ centred[:, :, None])
    return centred - (directions.mT @ weights)[:, :, 0]


@dataclass(frozen=True)
class Null:
    """Evidence that noise rows reach, round by round [N, C]."""

    evidence: Float[Tensor, "N C"]

    def p_values(self, found: Float[Tensor, "B C"]) -> NDArray[np.float64]:
        """Chance that noise reaches each value in the same round [B, C].

        Within the null it is the rank; beyond the null's upper fifth it is an exponential tail of `surprise`, whose rate
        is estimated there and never taken steeper than that of a Gaussian's maximum.
        """
        columns = [_tail_p(self.evidence[:, c], found[:, c]) for c in range(found.shape[1])]
        return np.stack(columns, 1)


def significance(nulls: Sequence[Null], found: Float[Tensor, "B C"]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """p-values [B, C], each the larger of those against the nulls, and which are discoveries at a rate of 0.05.

    The rate is held over all channels of the call (Benjamini and Hochberg), so a layer of noise yields none in 95 of 100
    cases.
    """
    p_values = np.maximum.reduce([null.p_values(found) for null in nulls])
    return p_values, benjamini_hochberg(p_values.ravel(), FALSE_DISCOVERIES).reshape(p_values.shape)


def summary_of(p_values: NDArray[np.float64], significant: NDArray[np.bool_]) -> dict[str, Any]:
    """Share of channels with p at most 0.05 and share of discoveries, with intervals."""
    low = proportion(int((p_values <= FALSE_DISCOVERIES).sum()), p_values.size)
    return {
        "p_at_most_0.05": low.as_dict(),
        "significant": proportion(int(significant.sum()), significant.size).as_dict(),
    }


def held_out_null(nulls: Sequence[Float[Tensor, "N C"]]) -> dict[str, Any]:
    """The same shares for noise: every other row of each null, judged by the rest of both. p is 0.05 by chance."""
    rest = [Null(null[0::2]) for null in nulls]
    return summary_of(
        *(np.concatenate(parts) for parts in zip(*(significance(rest, n[1::2]) for n in nulls), strict=True))
    )


def surprise(z: Float[Tensor, "..."]) -> NDArray[np.float64]:
    """-log P(Z > z) of a standard Gaussian; in it the maximum of many Gaussians has a tail of rate 1."""
    return (-torch.special.log_ndtr(-z.double())).cpu().numpy()


def _tail_p(null: Float[Tensor, " N"], found: Float[Tensor, " B"]) -> NDArray[np.float64]:
    noise = np.sort(surprise(null))
    values = surprise(found)
    ranks = len(noise) - np.searchsorted(noise, values, side="left")
    p_values = (1 + ranks) / (1 + len(noise))
    start = len(noise) - max(2, round(_TAIL * len(noise)))
    threshold = noise[start]
    excess = noise[start:] - threshold
    rate = (len(excess) - 1) / max(float(excess.sum()), 1e-9)
    rate = min(1.0, rate * (1 - 1 / math.sqrt(len(excess))))  # a standard error to the safe side
    share = (1 + len(excess)) / (1 + len(noise))
    beyond = share * np.exp(-rate * (values - threshold))
    return np.where(values > noise[-1], np.minimum(p_values, beyond), p_values)
