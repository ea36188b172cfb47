"""Planted truth: activations drawn from known mixtures and manifolds, and how much of them a fit recovers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from shammie.core.power import PowerTest
from shammie.mfa.em import fit_em
from shammie.mfa.equations import Parameters
from shammie.mfa.fit import best_of
from shammie.mfa.settings import MfaSettings
from shammie.mfa.source import TensorSource


@dataclass(frozen=True)
class Toy:
    """A mixture at random: K regions, R loadings of norm `spread`, unit noise, centroids `distance` apart from their mean."""

    components: int = 6
    rank: int = 2
    width: int = 24
    tokens: int = 3000
    spread: float = 4.0
    distance: float = 6.0

    def draw(self, seed: int) -> tuple[Parameters, Float[Tensor, "N D"], Int[Tensor, " N"]]:
        """The truth, tokens drawn from it, and the region of each."""
        generator = torch.Generator().manual_seed(seed)
        means = _unit(self.components, self.width, generator) * self.distance
        bases = torch.linalg.qr(torch.randn(self.components, self.width, self.rank, generator=generator)).Q
        noise = 0.5 + torch.rand(1, self.width, generator=generator)
        weights = torch.full((self.components,), 1 / self.components)
        truth = Parameters(weights, means, self.spread * bases, noise)
        members = torch.randint(self.components, (self.tokens,), generator=generator)
        z = torch.randn(self.tokens, self.rank, generator=generator)
        local = torch.einsum("ndr,nr->nd", truth.loadings[members], z)
        noisy = torch.randn(self.tokens, self.width, generator=generator) * noise.sqrt()
        return truth, means[members] + local + noisy, members


def circle(tokens: int, width: int, noise: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens on a circle of radius 10 in a random plane with Gaussian noise, and the unit tangent at each."""
    plane = torch.linalg.qr(torch.randn(width, 2, generator=generator)).Q
    angle = 2 * math.pi * torch.rand(tokens, generator=generator)
    at = 10 * torch.stack([angle.cos(), angle.sin()], 1) @ plane.T
    tangent = torch.stack([-angle.sin(), angle.cos()], 1) @ plane.T
    return at + noise * torch.randn(tokens, width, generator=generator), tangent


@dataclass(frozen=True)
class Recovery:
    """How far the matched centroids are, in units of the planted distance, and how much of the planted spans is found."""

    centroid_error: float
    span: float
    """Mean squared cosine of the principal angles between planted and found loadings."""


def recovery(truth: Parameters, found: Parameters) -> Recovery:
    """Match components one to one by centroid and compare them."""
    distance = torch.cdist(truth.means, found.means)
    rows, columns = linear_sum_assignment(distance.numpy())
    size = truth.means.norm(dim=1).mean()
    spans = [_span(truth.loadings[i], found.loadings[j]) for i, j in zip(rows, columns, strict=True)]
    return Recovery(float(distance[rows, columns].mean() / size), sum(spans) / len(spans))


def _span(planted: Tensor, found: Tensor) -> float:
    a, b = torch.linalg.qr(planted).Q, torch.linalg.qr(found).Q
    return float((a.T @ b).square().sum() / a.shape[1])


def _unit(count: int, width: int, generator: torch.Generator) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(count, width, generator=generator), dim=1)


def _score(distance: float | None, seed: int) -> float:
    """Nats a token by which two regions beat one held out; nothing planted is one region with the same covariance."""
    toy = Toy(components=2, rank=1, width=12, tokens=600, spread=2.0, distance=distance or 0.0)
    _, x, _ = toy.draw(seed)
    if distance is None:
        spread = torch.cov(x.T)
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(x.shape, generator=generator) @ torch.linalg.cholesky(spread).T
    source = TensorSource(x, held_out=0.3, seed=seed % 1000)
    nats = []
    for components in (1, 2):
        settings = MfaSettings(
            components, 2, passes=12, ridge=1.0, screen=0, candidates=components, restarts=2, seed=seed % 1000
        )
        best = best_of(fit_em(source, settings))
        assert best.held_out is not None
        nats.append(best.held_out)
    return nats[0] - nats[1]


POWER = PowerTest(_score, difficulties=(4.0, 3.0, 2.0, 1.5, 1.0, 0.5), middle=2.0)
