"""Planted truth: neurons built of known directions, in a random vocabulary and in a model's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from shammie.core.power import PowerTest
from shammie.rotate.evidence import NAMED, Null, significance
from shammie.rotate.neurons import Population
from shammie.rotate.pursue import Pursuit
from shammie.rotate.settings import RotateSettings
from shammie.rotate.tokens import TokenSpace

FOUND = 0.7  # |cosine| of a channel's direction to a planted one from which on it is that one
_NOISE_ROWS = 512


@dataclass(frozen=True)
class Toy:
    """A random vocabulary of clusters: V tokens of width D, each cluster `size` tokens around a common direction."""

    tokens: int = 2000
    width: int = 128
    clusters: int = 100
    size: int = 10
    tightness: float = 0.8
    """Cosine of a token to its cluster's direction."""
    overlap: float = 0.0
    """Cosine between the directions of neighbouring clusters."""

    def draw(self, generator: torch.Generator) -> tuple[TokenSpace, Float[Tensor, "K D"]]:
        """The token vectors, and the direction of each cluster."""
        directions = _unit(self.clusters, self.width, generator)
        for index in range(1, self.clusters, 2):
            own = normalize(
                directions[index] - (directions[index] @ directions[index - 1]) * directions[index - 1], dim=0
            )
            directions[index] = self.overlap * directions[index - 1] + (1 - self.overlap**2) ** 0.5 * own
        tokens = _unit(self.tokens, self.width, generator)
        members = torch.arange(self.clusters * self.size)
        centre = directions[members // self.size]
        loose = (1 - self.tightness**2) ** 0.5
        tokens[members] = self.tightness * centre + loose * tokens[members]
        return TokenSpace(tokens, torch.ones(self.tokens)), directions


def plant(noise: Float[Tensor, "B D"], directions: Float[Tensor, "B P D"], strength: float) -> Float[Tensor, "B D"]:
    """Rows of norm about 1 with each of P directions at `strength`, the cosine it would have alone, in noise."""
    share = max(0.0, 1 - directions.shape[1] * strength**2)
    return normalize(strength * directions.sum(1) + share**0.5 * noise, dim=-1)


def coloured(width: int, generator: torch.Generator) -> Population:
    """A population whose covariance is far from a sphere: eigenvalues fall from 4 to 1/4 of their mean."""
    basis, _ = torch.linalg.qr(torch.randn(width, width, generator=generator))
    values = torch.logspace(0.6, -0.6, width)
    covariance = (basis * (values / values.sum())) @ basis.T
    return Population(0.2 * _unit(1, width, generator)[0], covariance)


@dataclass(frozen=True)
class Recovery:
    """What became of planted directions: shares of them found, and of significant channels that are none of them."""

    planted: int
    found: int
    significant: int
    false: int


def recovery(
    space: TokenSpace, population: Population, w: Float[Tensor, "B D"], truth: Float[Tensor, "B P D"],
    nulls: Sequence[Null], settings: RotateSettings,
) -> Recovery:  # fmt: skip
    """Take planted rows apart and compare the significant channels with what was planted."""
    found = Pursuit(space, population, settings)(w, torch.Generator().manual_seed(settings.seed))
    _, significant = significance(list(nulls), found.evidence)
    match = torch.einsum("bcd,bpd->bcp", found.directions, normalize(truth, dim=-1)).abs() > FOUND
    counted = torch.from_numpy(significant)
    hit = (match & counted[..., None]).any(1)
    right = match.any(-1) & counted
    return Recovery(hit.numel(), int(hit.sum()), int(counted.sum()), int((counted & ~right).sum()))


def nulls_for(space: TokenSpace, population: Population, settings: RotateSettings) -> list[Null]:
    """Both nulls of a population: isotropic noise judged as such, and noise with its mean and covariance."""
    generator = torch.Generator().manual_seed(settings.seed + 1)
    isotropic = Population.isotropic(len(population.mean), population.mean.device)
    return [
        Null(Pursuit(space, drawn, settings)(drawn.draw(settings.null_draws, generator), generator).evidence)
        for drawn in (isotropic, population)
    ]


def token_clusters(space: TokenSpace, count: int, planted: int, generator: torch.Generator) -> Float[Tensor, "B P D"]:
    """Directions in a model's own vocabulary: centroids of random ordinary tokens with their nearest tokens."""
    ordinary = space.ordinary.nonzero()[:, 0].cpu()
    picked = ordinary[torch.randint(len(ordinary), (count * planted,), generator=generator)].to(space.tokens.device)
    parts = [space.nearest(space.tokens[ids] - space.mean, NAMED) for ids in picked.split(64)]
    return space.centroid(torch.cat(parts)).view(count, planted, -1)


def _unit(count: int, width: int, generator: torch.Generator) -> Tensor:
    return normalize(torch.randn(count, width, generator=generator), dim=-1)


def _score(strength: float | None, seed: int) -> float:
    """Evidence of the strongest of two channels; where something is planted, of the strongest that is it, else 0.

    Noise is isotropic for even seeds and coloured for odd ones, so the false-positive rate is that on both.
    """
    generator = torch.Generator().manual_seed(seed)
    space, directions = Toy().draw(generator)
    width = space.tokens.shape[1]
    source = Population.isotropic(width) if seed % 2 == 0 else coloured(width, generator)
    rows = source.draw(_NOISE_ROWS, generator)
    if strength is None:
        w, truth = rows[:1], None
    else:
        truth = directions[torch.randint(len(directions), (1,), generator=generator)]
        w = plant(rows[:1], truth[None], strength)
    found = Pursuit(space, Population.of(rows), RotateSettings(channels=2))(w, generator)
    evidence = found.evidence[0]
    if truth is not None:
        evidence = torch.where((found.directions[0] @ truth[0]).abs() > FOUND, evidence, 0.0)
    return float(np.maximum(float(evidence.max()), 0.0))


POWER = PowerTest(_score, difficulties=(0.7, 0.6, 0.5, 0.4, 0.3, 0.2), middle=0.5)
