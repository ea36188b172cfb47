"""Where fits start: k-means cells, and the mean, principal directions and residual of each."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shammie.mfa.equations import NOISE_FLOOR, Parameters
from shammie.mfa.expectation import groups
from shammie.mfa.settings import Noise

_CELLS = 2**19  # of one block of distances
_SEEDS_OF = 20  # tokens a component among which k-means++ chooses
_POWER_STEPS, _EXTRA = 3, 5  # of the randomized search for a cell's principal directions


def kmeans(
    x: Float[Tensor, "N D"], count: int, iterations: int, restarts: int, generator: torch.Generator
) -> tuple[Float[Tensor, "K D"], Int[Tensor, " N"]]:
    """Lloyd's iterations from k-means++; empty cells move to the tokens that are farthest from theirs."""
    best: tuple[float, Tensor, Tensor] | None = None
    for _ in range(restarts):
        centres = plus_plus(x, count, generator)
        members, distance = assign(x, centres)
        for _ in range(iterations):
            centres = _centres(x, members, distance, count)
            former = members
            members, distance = assign(x, centres)
            if float((members != former).float().mean()) < 1e-3:
                break
        total = float(distance.double().sum())
        if best is None or total < best[0]:
            best = total, centres, members
    assert best is not None, "there is at least one start"
    return best[1], best[2]


def plus_plus(x: Float[Tensor, "N D"], count: int, generator: torch.Generator) -> Float[Tensor, "K D"]:
    """k-means++ (Arthur and Vassilvitskii 2007) on a sample: each next centre with probability of its squared distance."""
    few = x[torch.randperm(len(x), generator=generator)[: _SEEDS_OF * count]]
    norms = few.square().sum(-1)
    chosen = [int(torch.randint(len(few), (1,), generator=generator))]
    nearest = torch.full_like(norms, float("inf"))
    for _ in range(count - 1):
        centre = few[chosen[-1]]
        nearest = torch.minimum(nearest, (norms - 2 * (few @ centre) + centre.square().sum()).clamp(min=0))
        cumulative = nearest.double().cumsum(0)
        drawn = torch.rand(1, generator=generator, dtype=torch.float64) * cumulative[-1]
        chosen.append(int(torch.searchsorted(cumulative, drawn).clamp(max=len(few) - 1)))
    return few[chosen]


def assign(x: Float[Tensor, "N D"], centres: Float[Tensor, "K D"]) -> tuple[Int[Tensor, " N"], Float[Tensor, " N"]]:
    """The nearest centre of each token and its squared distance."""
    half = 0.5 * centres.square().sum(-1)
    best = [(rows @ centres.T - half).max(-1) for rows in x.split(max(64, _CELLS // len(centres)))]
    members = torch.cat([found.indices for found in best])
    score = torch.cat([found.values for found in best])
    return members, (x.square().sum(-1) - 2 * score).clamp(min=0)


def _centres(x: Tensor, members: Tensor, distance: Tensor, count: int) -> Tensor:
    sums = torch.zeros(count, x.shape[1], dtype=x.dtype).index_add_(0, members, x)
    sizes = torch.bincount(members, minlength=count)
    centres = sums / sizes.clamp(min=1)[:, None]
    empty = (sizes == 0).nonzero()[:, 0]
    if len(empty):
        centres[empty] = x[distance.topk(len(empty)).indices]
    return centres


def local_factors(
    x: Float[Tensor, "N D"], members: Int[Tensor, " N"], centres: Float[Tensor, "K D"], rank: int, noise: Noise,
    generator: torch.Generator,
) -> Parameters:  # fmt: skip
    """A factor analyzer for each cell: its mean, its leading principal directions, and what they leave as noise."""
    count, width = centres.shape
    loadings = torch.zeros(count, width, rank, dtype=x.dtype)
    left = torch.zeros(count, width, dtype=torch.float64)
    sizes = torch.zeros(count, dtype=x.dtype)
    for cell, rows in groups(members, count):
        d = x[rows] - centres[cell]
        directions, variances = principal(d, rank, generator)
        loadings[cell, :, : len(variances)] = directions * variances.sqrt()
        left[cell] = (d - (d @ directions) @ directions.T).double().square().sum(0)
        sizes[cell] = len(rows)
    shared = left.sum(0, keepdim=True) / len(x)
    if noise == "component":  # as if each cell had R further tokens with everyone's noise
        shared = (left + rank * shared) / (sizes[:, None] + rank)
    shared = shared.clamp(min=float(NOISE_FLOOR * shared.max())).to(x.dtype)
    weights = (sizes + 0.5) / (sizes + 0.5).sum()
    return Parameters(weights, centres, loadings, shared)


def principal(d: Float[Tensor, "n D"], rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Leading principal directions [D, r] of centred rows and their variances, by randomized subspace iteration."""
    r = min(rank, len(d), d.shape[1])
    probes = torch.randn(d.shape[1], min(r + _EXTRA, d.shape[1]), generator=generator, dtype=d.dtype)
    basis = torch.linalg.qr(d.T @ (d @ probes)).Q
    for _ in range(_POWER_STEPS - 1):
        basis = torch.linalg.qr(d.T @ (d @ basis)).Q
    seen = d @ basis
    values, vectors = torch.linalg.eigh(seen.T @ seen / len(d))
    return basis @ vectors[:, -r:].flip(1), values[-r:].flip(0).clamp(min=0)
