"""The equations of the mixture of factor analyzers, each once; torch only.

p(x) = sum_k weight_k N(x; mean_k, W_k W_k' + Psi_k) for x in R^D, W_k [D, R] and diagonal Psi_k. With M = I + W' Psi^-1 W = L L'
and the readout B = Psi^-1 W L'^-1, Woodbury's identity gives the distance |d|^2_Psi - |B' d|^2 of d = x - mean, and the
log-determinant log|Psi| + log|M|. In the coordinates u = L' z the posterior of a latent is N(B' d, I).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

NOISE_FLOOR = 1e-5  # of the largest noise; dimensions that never vary would have none


class Parameters(NamedTuple):
    """A mixture's parameters; noise has one row where all components share it."""

    weights: Float[Tensor, " K"]
    means: Float[Tensor, "K D"]
    loadings: Float[Tensor, "K D R"]
    noise: Float[Tensor, "n D"]


class Readout(NamedTuple):
    """What is computed once for a mixture: B, L, and what does not depend on x."""

    readout: Float[Tensor, "K D R"]
    cholesky: Float[Tensor, "K R R"]
    precision: Float[Tensor, "n D"]
    constant: Float[Tensor, " K"]
    """Log weight, minus half of D log 2 pi and the log-determinant."""


def readout(mixture: Parameters) -> Readout:
    """Invert every covariance through its R x R core."""
    precision = 1 / mixture.noise
    scaled = mixture.loadings * precision[:, :, None]
    core = torch.eye(mixture.loadings.shape[-1]).to(mixture.means) + mixture.loadings.transpose(1, 2) @ scaled
    cholesky = torch.linalg.cholesky(core)
    inverse = torch.linalg.solve_triangular(cholesky, torch.eye(core.shape[-1]).to(core).expand_as(core), upper=False)
    log_determinant = mixture.noise.log().sum(-1) + 2 * cholesky.diagonal(dim1=1, dim2=2).log().sum(-1)
    width = mixture.means.shape[1]
    constant = mixture.weights.log() - 0.5 * (width * math.log(2 * math.pi) + log_determinant)
    return Readout(scaled @ inverse.transpose(1, 2), cholesky, precision, constant)


class Table(NamedTuple):
    """A mixture laid out for comparing tokens with all components at once, as seen from `origin`."""

    origin: Float[Tensor, " D"]
    directions: Float[Tensor, "R D K"]
    offsets: Float[Tensor, "R K"]
    precision: Float[Tensor, "D n"]
    scaled_means: Float[Tensor, "D K"]
    constant: Float[Tensor, " K"]


def table(mixture: Parameters, known: Readout, origin: Float[Tensor, " D"]) -> Table:
    """Products of x itself lose digits to its distance from zero, so x and the means are taken from a point near the data."""
    means = mixture.means - origin
    scaled = means * known.precision
    return Table(
        origin, known.readout.permute(2, 1, 0).contiguous(), torch.einsum("kdr,kd->rk", known.readout, means),
        known.precision.T.contiguous(), scaled.T.contiguous(), known.constant - 0.5 * (means * scaled).sum(-1),
    )  # fmt: skip


def joint_log_density(x: Float[Tensor, "B D"], known: Table) -> Float[Tensor, "B K"]:
    """Log weight_k + log N_k(x) of every token and component: R + 1 matrix products of B x D by D x K."""
    y = x - known.origin
    joint = torch.addmm(known.constant, y, known.scaled_means)
    joint.sub_(0.5 * (y.square() @ known.precision))
    for directions, offset in zip(known.directions, known.offsets, strict=True):
        along = torch.addmm(-offset, y, directions)
        joint.addcmul_(along, along, value=0.5)
    return joint


def component_log_density(
    difference: Float[Tensor, "B D"], precision: Float[Tensor, " D"], readout: Float[Tensor, "D R"],
    constant: Float[Tensor, ""],
) -> Float[Tensor, " B"]:  # fmt: skip
    """Log weight + log N of one component from x - mean, without cancellation."""
    along = (difference @ readout).square().sum(-1)
    return constant - 0.5 * (difference.square() @ precision - along)


def latent(
    difference: Float[Tensor, "B D"], readout: Float[Tensor, "D R"], cholesky: Float[Tensor, "R R"]
) -> Float[Tensor, "B R"]:
    """Posterior mean M^-1 W' Psi^-1 d of the latents of one component."""
    return torch.linalg.solve_triangular(cholesky.T, (difference @ readout).T, upper=True).T


def latent_covariance(cholesky: Float[Tensor, "K R R"]) -> Float[Tensor, "K R R"]:
    """Posterior covariance M^-1 of the latents, the same for every token."""
    return torch.cholesky_inverse(cholesky)


class Statistics(NamedTuple):
    """Expected sufficient statistics of d = x - mean_k and z1 = [z, 1], summed over tokens with responsibilities."""

    cross: Float[Tensor, "K D S"]
    """sum r d z1' with S = R + 1."""
    gram: Float[Tensor, "K S S"]
    """sum r E[z1 z1']; the last entry is the component's number of tokens."""
    square: Float[Tensor, "n D"]
    """sum r d^2, over all components where noise is shared."""

    @classmethod
    def empty(cls, mixture: Parameters) -> Statistics:
        """Of no tokens; the small ones are summed in float64."""
        count, width, rank = mixture.loadings.shape
        cross = torch.zeros(count, width, rank + 1).to(mixture.means)
        gram = torch.zeros(count, rank + 1, rank + 1, dtype=torch.float64, device=cross.device)
        return cls(cross, gram, torch.zeros_like(mixture.noise, dtype=torch.float64))


def maximize(statistics: Statistics, ridge: float, former: Parameters) -> Parameters:
    """The M-step: means and loadings by ridge regression of d on [z, 1], noise from what is left (Ghahramani and Hinton 1996).

    With a ridge this maximizes log-likelihood - ridge/2 sum_k tr(W_k' Psi^-1 W_k). Components without tokens keep their
    place with no weight.
    """
    counts, dtype = statistics.gram[:, -1, -1], former.means.dtype
    rank = statistics.gram.shape[-1] - 1
    penalty = torch.zeros(rank + 1, rank + 1).to(statistics.gram)
    penalty[:rank, :rank].fill_diagonal_(ridge)
    alive = counts > 0.5
    gram = torch.where(alive[:, None, None], statistics.gram, torch.eye(rank + 1).to(statistics.gram))
    # A component of few tokens spans fewer than R directions: the least jitter makes the solution the smallest one.
    jitter = 1e-6 * gram.diagonal(dim1=1, dim2=2).mean(-1)[:, None, None] * torch.eye(rank + 1).to(gram)
    factor = torch.linalg.cholesky(gram + penalty + jitter)
    solved = torch.cholesky_solve(statistics.cross.transpose(1, 2).to(gram), factor).transpose(1, 2)
    residual = statistics.square - _by_noise(
        (solved * statistics.cross).sum(-1) * alive[:, None], len(statistics.square)
    )
    share = counts.sum() if len(statistics.square) == 1 else counts.clamp(min=1)[:, None]
    noise = residual / share
    noise = noise.clamp(min=float(NOISE_FLOOR * noise.max()))
    if len(noise) > 1:
        noise = torch.where(alive[:, None], noise, former.noise)
    means = torch.where(alive[:, None], former.means + solved[..., -1], former.means)
    loadings = torch.where(alive[:, None, None], solved[..., :-1], former.loadings)
    smallest = 0.5 / counts.sum()
    weights = (counts / counts.sum()).clamp(min=float(smallest))
    return Parameters((weights / weights.sum()).to(dtype), means.to(dtype), loadings.to(dtype), noise.to(dtype))


def _by_noise(values: Tensor, rows: int) -> Tensor:
    return values.sum(0, keepdim=True) if rows == 1 else values


def penalty(mixture: Parameters, ridge: float) -> Float[Tensor, ""]:
    """What the ridge adds to the negative log-likelihood of all tokens."""
    return 0.5 * ridge * (mixture.loadings.square() / mixture.noise[:, :, None]).sum()


def varimax(loadings: Float[Tensor, "D R"], iterations: int = 100) -> Float[Tensor, "R R"]:
    """The rotation that makes the squares of the columns most uneven, rows scaled to length one (Kaiser 1958); float64."""
    rows = loadings.double()
    rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
    rotation = torch.eye(rows.shape[1], dtype=torch.float64)
    before = 0.0
    for _ in range(iterations):
        turned = rows @ rotation
        target = rows.T @ (turned**3 - turned * turned.square().mean(0))
        u, size, v = torch.linalg.svd(target)
        rotation = u @ v
        after = float(size.sum())
        if after <= before * (1 + 1e-9):
            break
        before = after
    return rotation


def covariance(loadings: Float[Tensor, "D R"], noise: Float[Tensor, " D"]) -> Float[Tensor, "D D"]:
    """W W' + Psi of one component, for tests and small widths."""
    return loadings @ loadings.T + noise.diag()
