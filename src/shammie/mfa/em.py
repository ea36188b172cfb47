"""The default trainer: cells with their principal directions, then expectation-maximization over streamed statistics."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from shammie.core.errors import DataError, NonFiniteError, ShammieError
from shammie.mfa.cells import kmeans, local_factors
from shammie.mfa.equations import Parameters, Statistics, maximize
from shammie.mfa.expectation import Expectation, leading_dimensions
from shammie.mfa.processes import Processes
from shammie.mfa.settings import MfaSettings
from shammie.mfa.source import Part, Source, sample

BLOCK_BYTES = 64 * 2**20  # of activations that are compared at a time
_COVARIANCE_OF = 50_000  # tokens that the start's leading dimensions are made of
_LEAST = 1.0  # tokens below which a component is dead
_SUPPORT, _SMALL = 14, 0.4  # tokens a direction, and of the mean number: a cell of the start below both is moved


@dataclass(frozen=True)
class Pass:
    """Parameters after a pass, and the mean negative log-likelihoods (nats a token) that stop the fit."""

    number: int
    mixture: Parameters
    train: float | None
    """Under the parameters before the pass's last update; None at the start."""
    held_out: float | None
    reseeded: int = 0


def blocks(source: Source, part: Part, number: int, processes: Processes) -> Iterator[Tensor]:
    """This process's blocks, cut to the byte budget."""
    rows = max(256, BLOCK_BYTES // (4 * source.width))
    for block in processes.share(source.blocks(part, number)):
        yield from block.split(rows)


def start(source: Source, settings: MfaSettings) -> Parameters:
    """k-means cells of a sample in its leading dimensions, and a factor analyzer for each.

    Errors: DataError for fewer tokens than components or constant activations; ShammieError where R >= D.
    """
    if settings.rank >= source.width:
        raise ShammieError(
            f"rank {settings.rank} leaves no noise in {source.width} dimensions; choose a smaller --rank"
        )
    x = sample(source, max(settings.start_tokens, settings.components))
    if len(x) < settings.components:
        raise DataError(
            f"{len(x)} training tokens cannot fill {settings.components} components; give more texts or fewer components"
        )
    generator = torch.Generator().manual_seed(settings.seed)
    centre = x.mean(0)
    x = x - centre
    few = x[:_COVARIANCE_OF]
    _, vectors = torch.linalg.eigh((few.T @ few).double())
    leading = vectors[:, -(settings.screen or source.width) :].to(x)
    _, members = kmeans(x @ leading, settings.components, settings.iterations, settings.restarts, generator)
    sizes = torch.bincount(members, minlength=settings.components)
    centres = torch.zeros(settings.components, source.width, dtype=x.dtype).index_add_(0, members, x)
    found = local_factors(x, members, centres / sizes.clamp(min=1)[:, None], settings.rank, settings.noise, generator)
    return found._replace(means=found.means + centre)


def expectation(mixture: Parameters, settings: MfaSettings) -> Expectation:
    """The E-step that the settings ask for."""
    screen = leading_dimensions(mixture, settings.screen) if settings.screen else None
    return Expectation(mixture, screen, settings.candidates)


def mean_negative_log_likelihood(
    mixture: Parameters,
    source: Source,
    settings: MfaSettings,
    part: Part = "held_out",
    processes: Processes | None = None,
) -> float | None:
    """Nats a token; None where the part has no tokens."""
    processes = processes or Processes()
    step, sums = expectation(mixture, settings), torch.zeros(2, dtype=torch.float64)
    for x in blocks(source, part, 0, processes):
        sums += torch.stack(
            [step.posterior(x).log_density.double().sum().cpu(), torch.tensor(float(len(x)), dtype=torch.float64)]
        )
    total, count = processes.sum(sums).tolist()
    return -total / count if count else None


def fit_em(
    source: Source, settings: MfaSettings, processes: Processes | None = None, begin: Pass | None = None
) -> Iterator[Pass]:
    """The start and then a pass at a time, until held-out likelihood stops rising; `begin` goes on after a pass.

    Likelihood minus the ridge's penalty never falls in training but where dead components are moved.
    """
    processes = processes or Processes()
    if begin is None:
        mixture = start(source, settings)
        begin = Pass(0, mixture, None, mean_negative_log_likelihood(mixture, source, settings, "held_out", processes))
        yield begin
    last = begin
    while last.number < settings.passes:
        statistics, train = gather(last, source, settings, processes)
        mixture = maximize(statistics, settings.ridge, last.mixture)
        counts = statistics.gram[:, -1, -1]
        mixture, reseeded = reseed(mixture, counts, _LEAST if last.number else _support(settings, counts))
        held_out = mean_negative_log_likelihood(mixture, source, settings, "held_out", processes)
        former, last = last, Pass(last.number + 1, mixture, train, held_out, reseeded)
        yield last
        if converged(former, last, settings.tolerance):
            return


def _support(settings: MfaSettings, counts: Float[Tensor, " K"]) -> float:
    """Tokens below which a cell of the start overfits and is better used where tokens are dense."""
    return max(_LEAST, min(_SUPPORT * (settings.rank + 1), _SMALL * float(counts.mean())))


def converged(former: Pass, last: Pass, tolerance: float) -> bool:
    """Whether a pass gained less than the tolerance: held out, or in training where nothing is held out.

    A pass that moved components has yet to gain by it.
    """
    if last.reseeded:
        return False
    before, after = (former.held_out, last.held_out) if last.held_out is not None else (former.train, last.train)
    return before is not None and after is not None and before - after < tolerance * abs(before)


def gather(last: Pass, source: Source, settings: MfaSettings, processes: Processes) -> tuple[Statistics, float]:
    """Sufficient statistics of all training tokens, block by block, and their mean negative log-likelihood."""
    step = expectation(last.mixture, settings)
    sums, statistics = torch.zeros(2, dtype=torch.float64), Statistics.empty(last.mixture)
    for x in blocks(source, "train", last.number + 1, processes):
        posterior = step.posterior(x)
        step.add_statistics(statistics, x, posterior)
        sums += torch.tensor([float(posterior.log_density.double().sum()), len(x)], dtype=torch.float64)
    total, count = processes.sum(sums).tolist()
    if not math.isfinite(total):
        raise NonFiniteError("the likelihood is not finite; look for activations of extreme size or raise --ridge")
    return Statistics(*map(processes.sum, statistics)), -total / count


def reseed(mixture: Parameters, counts: Float[Tensor, " K"], least: float = _LEAST) -> tuple[Parameters, int]:
    """Move components of fewer than `least` tokens onto the heaviest ones, which they split along the first loading."""
    dead = (counts < least).nonzero()[:, 0]
    if not len(dead):
        return mixture, 0
    weights, means, loadings, noise = (part.clone() for part in mixture)
    for component in dead.tolist():
        heavy = int(weights.argmax())
        step = loadings[heavy, :, int(loadings[heavy].square().sum(0).argmax())]
        means[component], means[heavy] = means[heavy] - 0.5 * step, means[heavy] + 0.5 * step
        loadings[component] = loadings[heavy]
        if len(noise) > 1:
            noise[component] = noise[heavy]
        weights[[component, heavy]] = 0.5 * weights[heavy]
    return Parameters(weights / weights.sum(), means, loadings, noise), len(dead)
