"""The default solver: turn a neuron to the cluster of tokens that stands out in it most against its layer.

The kurtosis objective is drawn to a few very peaked clusters (quotes, brackets) whatever the neuron, and walks away from
a concept that does make up a third of it. This solver asks for the evidence itself: for every token, how far the
neuron's component along it lies from the layer's, in standard deviations; around the most outlying tokens it forms the
centroid of their nearest tokens, which averages the noise of single tokens away; the best centroid is the channel.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from shammie.rotate.evidence import NAMED, evidence
from shammie.rotate.neurons import Population
from shammie.rotate.solution import Solution
from shammie.rotate.tokens import TokenSpace

SEEDS = 8  # outlying tokens whose clusters are compared
_ROWS = 256  # clusters formed at a time


class AnchoredSolver:
    """Prepared for a population: the spread of every token's direction over the layer, and clusters formed so far."""

    def __init__(self, space: TokenSpace, population: Population) -> None:
        self.space, self.population = space, population
        self.spread = torch.cat([population.spread(rows) for _, rows in space.blocks()])
        self._clusters: dict[int, Tensor] = {}

    def solve(self, w: Float[Tensor, "B D"], residual: Float[Tensor, "B D"], closed: Bool[Tensor, "B V"]) -> Solution:
        """One channel of each neuron, of its norm; `closed` tokens seed no cluster."""
        scores = self.space.centred(residual).div_(self.spread)
        scores.masked_fill_(~self.space.ordinary, 0.0).masked_fill_(closed, 0.0)
        seeds = scores.abs().topk(SEEDS, dim=-1).indices
        directions = self._directions(seeds)
        strength = evidence(self.population, residual[:, None], directions)
        best = strength.abs().argmax(-1, keepdim=True)
        chosen = directions.gather(1, best[..., None].expand(-1, 1, directions.shape[-1]))[:, 0]
        value = strength.gather(1, best)
        channels = chosen * value.sign() * w.norm(dim=-1, keepdim=True)
        return Solution(channels, torch.ones(len(w), dtype=torch.long, device=w.device), value.abs()[:, 0])

    def _directions(self, seeds: Int[Tensor, "B k"]) -> Float[Tensor, "B k D"]:
        """The centroid of each seed's nearest tokens; formed once a seed."""
        wanted = [token for token in seeds.unique().tolist() if token not in self._clusters]
        for start in range(0, len(wanted), _ROWS):
            tokens = torch.tensor(wanted[start : start + _ROWS], device=seeds.device)
            nearest = self.space.nearest(self.space.tokens[tokens] - self.space.mean, NAMED)
            self._clusters.update(zip(tokens.tolist(), self.space.centroid(nearest), strict=True))
        directions = torch.stack([self._clusters[token] for token in seeds.flatten().tolist()])
        return directions.view(*seeds.shape, -1)
