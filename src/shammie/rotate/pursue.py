"""Channel after channel of a batch of neurons, in rounds: find one, close its tokens, go on."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity

from shammie.rotate import fast, paper
from shammie.rotate.anchored import AnchoredSolver
from shammie.rotate.equations import Objective, moments, tail
from shammie.rotate.evidence import residual, weigh
from shammie.rotate.fast import FastSettings
from shammie.rotate.neurons import Population
from shammie.rotate.paper import PaperSettings
from shammie.rotate.settings import RotateSettings
from shammie.rotate.solution import Solution
from shammie.rotate.tokens import TokenSpace

CLOSED_WEIGHT = 0.01  # of a token that an earlier channel of the neuron took
BYTE_BUDGET = 512 * 2**20  # of what a batch holds over the vocabulary
_BYTES = {"anchored": 28, "fast": 28, "paper": 48}  # a neuron and token, measured


@dataclass(frozen=True, eq=False)
class Found:
    """Channels of a batch of neurons in the order they were found; of each row's norm."""

    vectors: Float[Tensor, "B C D"]
    directions: Float[Tensor, "B C D"]
    """Unit centroid of each channel's tokens, times its side."""
    side: Float[Tensor, "B C"]
    """+1 where the tokens lie with the channel, -1 where they lie against it."""
    evidence: Float[Tensor, "B C"]
    kurtosis: Float[Tensor, "B C"]
    """Of the unweighted projection."""
    objective: Float[Tensor, "B C"]
    """Of the projection as it was weighted in its round."""
    steps: Int[Tensor, "B C"]
    closed: Int[Tensor, "B C"]
    """Tokens that the channel closed to later ones."""

    @classmethod
    def cat(cls, parts: list[Found]) -> Found:
        """Batches one after another."""
        return cls(**{name: torch.cat([vars(part)[name] for part in parts]) for name in vars(parts[0])})


@dataclass(eq=False)
class Pursuit:
    """Takes rows of one population apart in one token space."""

    space: TokenSpace
    population: Population
    settings: RotateSettings
    _anchored: AnchoredSolver | None = field(default=None, init=False)

    @property
    def objective(self) -> Objective:
        """The paper's objective with the settings' weights."""
        return Objective(self.settings.kurtosis_weight, self.settings.faithfulness_weight)

    @property
    def rows(self) -> int:
        """Neurons that are searched together under the byte budget."""
        each = _BYTES[self.settings.solver] * len(self.space.tokens) * self.settings.restarts
        return max(1, min(256, BYTE_BUDGET // each))

    def __call__(self, w: Float[Tensor, "B D"], generator: torch.Generator) -> Found:
        """Find channels of all rows, a batch at a time; starts are drawn on the CPU from the generator."""
        return Found.cat([self._batch(rows, generator) for rows in w.split(self.rows)])

    def _batch(self, w: Tensor, generator: torch.Generator) -> Found:
        weights = self.space.weights.expand(len(w), -1).clone()
        directions = w.new_zeros(len(w), 0, w.shape[1])
        rounds = []
        for _ in range(self.settings.channels):
            left = residual(self.population, w, directions)
            solution = self._solve(w, weights, left, generator)
            found = weigh(self.space, self.population, left, solution.channels)
            projected = solution.channels @ self.space.tokens.T
            kurtosis = moments(projected).kurtosis
            weighted = moments(projected * weights).kurtosis
            value = self.objective(weighted, cosine_similarity(w, solution.channels))
            closing = tail(projected, self.settings.threshold)
            row = (solution.channels, found.direction, found.side, found.evidence, kurtosis, value)
            rounds.append((*row, solution.steps, closing.sum(-1)))
            directions = torch.cat([directions, found.direction[:, None]], 1)
            weights[closing] = CLOSED_WEIGHT
        return Found(*(torch.stack(values, 1) for values in zip(*rounds, strict=True)))

    def _solve(self, w: Tensor, weights: Tensor, left: Tensor, generator: torch.Generator) -> Solution:
        settings = self.settings
        if settings.solver == "anchored":
            if self._anchored is None:
                self._anchored = AnchoredSolver(self.space, self.population)
            return self._anchored.solve(w, left, weights == CLOSED_WEIGHT)
        starts = torch.randn(settings.restarts, *w.shape, generator=generator).to(w.device)
        tokens, objective = self.space.tokens, self.objective
        if settings.solver == "paper":
            chosen = PaperSettings(learning_rate=settings.learning_rate, max_steps=settings.max_steps)
            return paper.solve(w, tokens, weights, objective, starts[0], chosen)
        return _best(
            fast.solve(
                w.repeat(settings.restarts, 1), tokens, weights.repeat(settings.restarts, 1), objective,
                starts.flatten(0, 1), self.space.spectrum, FastSettings(),
            ), settings.restarts,
        )  # fmt: skip


def _best(solution: Solution, restarts: int) -> Solution:
    """Of each row the start with the largest objective."""
    channels, steps, value = (
        part.view(restarts, -1, *part.shape[1:]) for part in (solution.channels, solution.steps, solution.value)
    )
    best = value.argmax(0)
    row = torch.arange(len(best), device=best.device)
    return Solution(channels[best, row], steps[best, row], value[best, row])
