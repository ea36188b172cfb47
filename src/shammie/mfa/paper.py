"""The paper's trainer: Adam on the mean negative log-likelihood, from centroids of a k-means in a random projection."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus

from shammie.core.errors import DataError, NonFiniteError, ShammieError
from shammie.mfa.cells import assign, kmeans
from shammie.mfa.em import Pass, mean_negative_log_likelihood
from shammie.mfa.equations import Parameters, joint_log_density, readout, table
from shammie.mfa.processes import Processes
from shammie.mfa.settings import MfaSettings
from shammie.mfa.source import Source, sample

PROJECTED, ITERATIONS, RESTARTS, REFINEMENTS = 32, 50, 10, 25  # of the k-means, as released
POOL = 0.2  # share of the training tokens that k-means sees
_FLOOR = 1e-5


class Module(nn.Module):
    """The mixture with unconstrained parameters: unit columns times positive scales, softplus noise, softmax weights."""

    def __init__(self, means: Float[Tensor, "K D"], settings: MfaSettings, generator: torch.Generator) -> None:
        super().__init__()
        count, width = means.shape
        rows = 1 if settings.noise == "shared" else count
        self.means = nn.Parameter(means.clone())
        self.columns = nn.Parameter(torch.randn(count, width, settings.rank, generator=generator) / width**0.5)
        self.scales = nn.Parameter(torch.full((count, settings.rank), math.log(math.e - 1)))
        self.noise = nn.Parameter(torch.full((rows, width), math.log(math.e - 1)))
        self.logits = nn.Parameter(torch.zeros(count))

    def parameters_(self) -> Parameters:
        """The mixture that the raw parameters stand for."""
        loadings = normalize(self.columns, dim=1) * softplus(self.scales)[:, None]
        return Parameters(self.logits.softmax(0), self.means, loadings, softplus(self.noise) + _FLOOR)

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
        """Mean negative log-likelihood."""
        mixture = self.parameters_()
        origin = self.means.detach().mean(0)
        return -joint_log_density(x, table(mixture, readout(mixture), origin)).logsumexp(-1).mean()


def projected_centroids(source: Source, settings: MfaSettings, generator: torch.Generator) -> Float[Tensor, "K D"]:
    """k-means++ and Lloyd in 32 random dimensions on a pool; lifted by the means of full vectors, refined over all tokens."""
    count = sum(len(block) for block in source.blocks("train", 0))
    pool = sample(source, max(settings.components, round(POOL * count)))
    if len(pool) < settings.components:
        raise DataError(
            f"{len(pool)} training tokens cannot fill {settings.components} components; give more texts or fewer components"
        )
    projection = torch.linalg.qr(torch.randn(source.width, min(PROJECTED, source.width), generator=generator)).Q
    _, members = kmeans(pool @ projection, settings.components, ITERATIONS, RESTARTS, generator)
    centroids = _means(pool, members, torch.zeros(settings.components, source.width))
    for _ in range(REFINEMENTS):
        sums, sizes = torch.zeros_like(centroids), torch.zeros(len(centroids))
        for x in source.blocks("train", 0):
            found, _ = assign(x @ projection, centroids @ projection)
            sums.index_add_(0, found, x)
            sizes += torch.bincount(found, minlength=len(centroids))
        refined = torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], centroids)
        moved = float((refined - centroids).norm() / centroids.norm())
        centroids = refined
        if moved < 1e-4:
            break
    return centroids


def _means(x: Tensor, members: Tensor, otherwise: Tensor) -> Tensor:
    sizes = torch.bincount(members, minlength=len(otherwise))
    sums = torch.zeros_like(otherwise).index_add_(0, members, x)
    return torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], otherwise)


class _Scaled:
    """A source in units of each dimension's standard deviation."""

    def __init__(self, source: Source, settings: MfaSettings) -> None:
        x = sample(source, settings.start_tokens)
        self.source, self.width, self.centre, self.scale = source, source.width, x.mean(0), x.std(0).clamp(min=1e-12)

    def blocks(self, part: str, number: int) -> Iterator[Tensor]:
        return ((x - self.centre) / self.scale for x in self.source.blocks(part, number))  # type: ignore[arg-type]

    def back(self, mixture: Parameters) -> Parameters:
        return Parameters(
            mixture.weights, mixture.means * self.scale + self.centre, mixture.loadings * self.scale[:, None],
            mixture.noise * self.scale**2,
        )  # fmt: skip


def fit_paper(source: Source, settings: MfaSettings, processes: Processes | None = None) -> Iterator[Pass]:
    """The start and then an epoch at a time; held-out likelihood is in the units of the source, standardized or not.

    Errors: ShammieError on several processes or where R >= D; NonFiniteError where the loss diverges.
    """
    if processes is not None and processes.world > 1:
        raise ShammieError("the paper's trainer runs in one process; launch it alone or use --trainer em")
    if settings.rank >= source.width:
        raise ShammieError(
            f"rank {settings.rank} leaves no noise in {source.width} dimensions; choose a smaller --rank"
        )
    scaled = _Scaled(source, settings) if settings.standardize else None
    generator = torch.Generator().manual_seed(settings.seed)
    module = Module(projected_centroids(scaled or source, settings, generator), settings, generator)
    optimizer = torch.optim.Adam(module.parameters(), settings.learning_rate)

    def state(number: int, train: float | None) -> Pass:
        mixture = Parameters(*(part.detach().clone() for part in module.parameters_()))
        mixture = scaled.back(mixture) if scaled else mixture
        return Pass(number, mixture, train, mean_negative_log_likelihood(mixture, source, settings))

    yield state(0, None)
    for number in range(1, settings.passes + 1):
        total, count = 0.0, 0
        for block in (scaled or source).blocks("train", number):
            for x in block.split(settings.batch_size):
                loss = module(x)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total, count = total + float(loss.detach()) * len(x), count + len(x)
        if not math.isfinite(total):
            raise NonFiniteError(f"the likelihood of epoch {number} is not finite; lower --learning-rate")
        yield state(number, total / count + (float(scaled.scale.log().sum()) if scaled else 0.0))
