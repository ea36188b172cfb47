"""The fast solver: the paper's objective on the sphere, by preconditioned L-BFGS with an exact search of great circles.

A reflection reaches every vector of the neuron's norm, so the search is over unit vectors s. The projection of s on the
vocabulary is linear, so it is carried along: an iteration costs one product with the vocabulary for the gradient and one
for the new direction, and the step along the great circle is then chosen from eight moments.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from shammie.rotate.equations import Objective, circle, kurtosis_slope, moments, reflect
from shammie.rotate.solution import Solution


@dataclass(frozen=True)
class FastSettings:
    """How the search goes and when it ends."""

    max_iterations: int = 64
    burst: int = 4
    """Iterations between two looks at which rows are done; the host waits for the device only there."""
    tolerance: float = 2e-5
    """A row is done when a burst raised its objective by less."""
    memory: int = 4
    """Pairs of L-BFGS."""
    approach: int = 6
    """First iterations, of small steps along a half-preconditioned gradient: they choose the hill that the paper's
    optimizer chooses. The whole preconditioner from the start finds higher hills, which are others."""
    approach_turn: float = 0.1
    """Largest step of the approach in radians."""
    max_turn: float = 0.5
    """Largest step afterwards, so that the search climbs the hill it stands on."""


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues [D] and eigenvectors [D, D] of the covariance of the weighted token vectors."""

    values: Float[Tensor, " D"]
    vectors: Float[Tensor, "D D"]

    @classmethod
    def of(cls, tokens: Float[Tensor, "V D"], weights: Float[Tensor, " V"]) -> Spectrum:
        """Decompose the covariance, a block of tokens at a time."""
        width = tokens.shape[1]
        gram, total = tokens.new_zeros(width, width), tokens.new_zeros(width)
        for rows, weight in zip(tokens.split(16_384), weights.split(16_384), strict=True):
            weighted = rows * weight[:, None]
            gram += weighted.T @ weighted
            total += weighted.sum(0)
        mean = total / len(tokens)
        values, vectors = torch.linalg.eigh(gram / len(tokens) - torch.outer(mean, mean))
        return cls(values.clamp(min=0), vectors)


def solve(
    w: Float[Tensor, "B D"],
    tokens: Float[Tensor, "V D"],
    weights: Float[Tensor, "B V"],
    objective: Objective,
    start: Float[Tensor, "B D"],
    spectrum: Spectrum,
    settings: FastSettings = FastSettings(),
) -> Solution:
    """One channel of each neuron: maximise J from the reflection of w by `start` ~ N(0, I), as the paper's solver does."""
    search = _Search(w, tokens, weights, objective, start, spectrum, settings)
    best, value = search.s.clone(), search.value.clone()
    steps = torch.zeros(len(w), dtype=torch.long, device=w.device)
    rows = torch.arange(len(w), device=w.device)
    while len(rows) and search.iteration < settings.max_iterations:
        before = search.value
        for _ in range(settings.burst):
            search.step()
        best[rows], value[rows], steps[rows] = search.s, search.value, search.iteration
        going = search.value - before > settings.tolerance
        rows = rows[going]
        search.keep(going)
    return Solution(best * w.norm(dim=-1, keepdim=True), steps, value)


class _Search:
    """The rows that are still climbing: unit vectors s, their weighted projections z, and L-BFGS's memory."""

    def __init__(
        self, w: Tensor, tokens: Tensor, weights: Tensor, objective: Objective, start: Tensor, spectrum: Spectrum,
        settings: FastSettings,
    ) -> None:  # fmt: skip
        self.tokens, self.objective, self.spectrum, self.settings = tokens, objective, spectrum, settings
        self.weights, self.w = weights, normalize(w, dim=-1)
        self.s = normalize(reflect(w, start), dim=-1)
        self.z = self._project(self.s)
        self.iteration = 0
        self.pairs: deque[tuple[Tensor, Tensor]] = deque(maxlen=settings.memory)
        self.previous: tuple[Tensor, Tensor] | None = None
        self.value = objective(moments(self.z).kurtosis, (self.w * self.s).sum(-1))

    def keep(self, rows: Bool[Tensor, " B"]) -> None:
        """Go on with these rows alone."""
        self.weights, self.w, self.s, self.z, self.value = (
            part[rows] for part in (self.weights, self.w, self.s, self.z, self.value)
        )
        self.pairs = deque(((s[rows], y[rows]) for s, y in self.pairs), self.settings.memory)
        if self.previous is not None:
            self.previous = (self.previous[0][rows], self.previous[1][rows])

    def step(self) -> None:
        """Turn every row along its best direction to the best angle."""
        gradient, precondition = self._gradient()
        self._remember(gradient)
        approaching = self.iteration < self.settings.approach
        direction = self._quasi_newton(gradient, precondition.sqrt() if approaching else precondition)
        direction = self._tangent(direction)
        uphill = (direction * gradient).sum(-1, keepdim=True) > 0
        direction = normalize(torch.where(uphill, direction, gradient), dim=-1)
        furthest = self.settings.approach_turn if approaching else self.settings.max_turn
        self._turn(direction, self._project(direction), furthest)
        self.iteration += 1

    def _project(self, s: Tensor) -> Tensor:
        return (s @ self.tokens.T).mul_(self.weights)

    def _tangent(self, v: Tensor) -> Tensor:
        return v - self.s * (v * self.s).sum(-1, keepdim=True)

    def _gradient(self) -> tuple[Tensor, Tensor]:
        """The Riemannian gradient of J, and the diagonal of the preconditioner in the spectrum's basis.

        Near an optimum the Hessian of -J is about (4 a kurtosis / m2) Cov + cos(w, s) I with a the slope of slog.
        """
        stats = moments(self.z)
        kurtosis, faithful = stats.kurtosis, self.objective.faithfulness_weight
        slope = (self.objective.kurtosis_weight / (1 + kurtosis.abs()))[:, None]
        gradient = kurtosis_slope(self.z, stats).mul_(self.weights) @ self.tokens
        gradient = self._tangent(slope * gradient + faithful * self.w)
        curvature = 4 * slope * (kurtosis / stats.m2).clamp(min=0)[:, None] * self.spectrum.values
        cosine = (self.w * self.s).sum(-1, keepdim=True).clamp(min=0.1)
        return gradient, curvature + faithful * cosine

    def _remember(self, gradient: Tensor) -> None:
        if self.previous is not None and self.iteration > self.settings.approach:
            s, g = self.previous
            self.pairs.append((self._tangent(self.s - s), self._tangent(g) - gradient))
        self.previous = (self.s, gradient)

    def _quasi_newton(self, gradient: Tensor, precondition: Tensor) -> Tensor:
        """The two-loop recursion; a pair without positive curvature counts for nothing in its row."""
        q, used = gradient, []
        for s, y in reversed(self.pairs):
            product = (s * y).sum(-1, keepdim=True)
            rho = torch.where(product > 1e-12, 1 / product.clamp(min=1e-12), 0.0)
            alpha = rho * (s * q).sum(-1, keepdim=True)
            q = q - alpha * y
            used.append((s, y, rho, alpha))
        r = ((q @ self.spectrum.vectors) / precondition) @ self.spectrum.vectors.T
        for s, y, rho, alpha in reversed(used):
            r = r + s * torch.where(rho > 0, alpha - rho * (y * r).sum(-1, keepdim=True), 0.0)
        return r

    def _turn(self, direction: Tensor, projected: Tensor, furthest: float) -> None:
        """Go to the best angle up to the furthest: a grid, then three finer ones around its best point."""
        plane = circle(self.z, projected)
        along, across = ((self.w * v).sum(-1, keepdim=True) for v in (self.s, direction))

        def value(angle: Tensor) -> Tensor:
            return self.objective(plane.kurtosis(angle), along * angle.cos() + across * angle.sin())

        best = along.new_zeros(len(along), 1)
        low, width = 0.0, furthest
        for _ in range(4):
            angles = (best + torch.linspace(low, width, 33, device=best.device)).clamp(min=0)
            best = angles.gather(1, value(angles).argmax(1, keepdim=True))
            width = (width - low) / 32
            low = -width
        self.value = value(best)[:, 0]
        self.s = normalize(self.s * best.cos() + direction * best.sin(), dim=-1)
        self.z = self.z.mul_(best.cos()).add_(projected * best.sin())
