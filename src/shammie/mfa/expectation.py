"""The E-step: which components may have made a token, how likely each is, and what the M-step needs of that.

All components are compared first in a few leading dimensions, where the mixture is again a mixture of factor analyzers;
the best candidates are then compared in full, component by component, on centred differences.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shammie.mfa.equations import (
    Parameters,
    Readout,
    Statistics,
    Table,
    component_log_density,
    joint_log_density,
    latent,
    latent_covariance,
    readout,
    table,
)

TABLE_CELLS = 2**19  # of one block of comparisons: what is summed over ranks then stays in the processor's cache
NEGLIGIBLE = 1e-5  # responsibilities below this add nothing to the M-step


@dataclass(frozen=True)
class Posterior:
    """Candidate components of each token, best first, and the log of weight times density of each."""

    components: Int[Tensor, "B C"]
    joint: Float[Tensor, "B C"]

    @property
    def log_density(self) -> Float[Tensor, " B"]:
        """Log p(x), of the candidates alone where components were screened."""
        return self.joint.logsumexp(-1)

    @property
    def responsibilities(self) -> Float[Tensor, "B C"]:
        """Posterior probabilities of the candidates."""
        return self.joint.softmax(-1)


def leading_dimensions(mixture: Parameters, count: int) -> Float[Tensor, "D d"]:
    """The dimensions, in units of noise, along which the mixture varies most; x @ these are their coordinates."""
    scale = mixture.noise.mean(0).sqrt()
    centre = mixture.weights @ mixture.means
    spread = (mixture.means - centre) * mixture.weights[:, None].sqrt() / scale
    local = (mixture.loadings * mixture.weights[:, None, None].sqrt() / scale[:, None]).permute(1, 0, 2).flatten(1)
    _, vectors = torch.linalg.eigh(spread.T @ spread + local @ local.T)
    return vectors[:, -min(count, len(scale)) :] / scale[:, None]


class Expectation:
    """The E-step under fixed parameters. `screen` [D, d] are the dimensions to compare in first; None compares in full."""

    def __init__(self, mixture: Parameters, screen: Float[Tensor, "D d"] | None, candidates: int) -> None:
        self.mixture, self.screen = mixture, screen
        self.candidates = min(candidates, len(mixture.weights))
        self.known: Readout = readout(mixture)
        self.origin = mixture.weights @ mixture.means
        self._covariance = latent_covariance(self.known.cholesky)
        self._table: Table | None = None
        if screen is not None:
            seen = _projected(mixture, self.origin, screen)
            self._seen = table(seen, readout(seen), torch.zeros_like(seen.means[0]))

    def posterior(self, x: Float[Tensor, "B D"]) -> Posterior:
        """Candidates of each token with their exact joint log-densities."""
        return self._exact(x, self._candidates(x))

    def dense(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        """The joint log-density of every component, for comparison and where the whole table is wanted."""
        if self._table is None:
            self._table = table(self.mixture, self.known, self.origin)
        return torch.cat([joint_log_density(rows, self._table) for rows in x.split(self._rows)])

    @property
    def _rows(self) -> int:
        return max(64, TABLE_CELLS // len(self.mixture.weights))

    def _candidates(self, x: Tensor) -> Tensor:
        if self.screen is None:
            return torch.cat(
                [self.dense(rows).topk(self.candidates, sorted=False).indices for rows in x.split(self._rows)]
            )
        y = (x - self.origin) @ self.screen
        scores = (joint_log_density(rows, self._seen) for rows in y.split(self._rows))
        return torch.cat([score.topk(self.candidates, sorted=False).indices for score in scores])

    def _exact(self, x: Tensor, candidates: Tensor) -> Posterior:
        joint = torch.empty(candidates.shape, dtype=x.dtype, device=x.device)
        flat = joint.view(-1)
        for component, pairs in groups(candidates.flatten(), len(self.mixture.weights)):
            difference = x[pairs // self.candidates].sub_(self.mixture.means[component])
            flat[pairs] = component_log_density(difference, *self._of(component))
        joint, order = joint.sort(dim=-1, descending=True)
        return Posterior(candidates.gather(-1, order), joint)

    def _of(self, component: int) -> tuple[Tensor, Tensor, Tensor]:
        row = component if len(self.known.precision) > 1 else 0
        return self.known.precision[row], self.known.readout[component], self.known.constant[component]

    def add_statistics(self, statistics: Statistics, x: Float[Tensor, "B D"], posterior: Posterior) -> None:
        """Add a block's sufficient statistics in place, responsibilities below 1e-5 left out."""
        count, _, rank = self.known.readout.shape
        weights = posterior.responsibilities
        kept = (weights > NEGLIGIBLE).flatten().nonzero()[:, 0]
        members, share = posterior.components.flatten()[kept], weights.flatten()[kept]
        token = kept // posterior.components.shape[1]
        cross, gram, square = statistics
        for component, places in groups(members, count):
            r = share[places]
            d = x[token[places]].sub_(self.mixture.means[component])
            z = latent(d, self.known.readout[component], self.known.cholesky[component])
            z1 = torch.cat([z, torch.ones_like(z[:, :1])], dim=1)
            weighted = r[:, None] * z1
            cross[component].addmm_(d.T, weighted)
            gram[component] += z1.T @ weighted
            gram[component, :rank, :rank] += r.sum() * self._covariance[component]
            square[component if len(square) > 1 else 0] += r @ d.square_()


def groups(members: Int[Tensor, " P"], count: int) -> Iterator[tuple[int, Int[Tensor, " p"]]]:
    """Each component that occurs, with the places where it does."""
    order = members.argsort(stable=True)
    sizes = torch.bincount(members, minlength=count).tolist()
    start = 0
    for component, size in enumerate(sizes):
        if size:
            yield component, order[start : start + size]
        start += size


def _projected(mixture: Parameters, origin: Tensor, screen: Tensor) -> Parameters:
    """The mixture in the leading dimensions; noise keeps its diagonal there, which is all of it where it is shared."""
    means = (mixture.means - origin) @ screen
    loadings = torch.einsum("kdr,de->ker", mixture.loadings, screen)
    return Parameters(mixture.weights, means, loadings, mixture.noise @ screen.square())
