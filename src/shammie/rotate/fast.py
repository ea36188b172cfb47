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

from shammie.rotate.equations import Circle, Objective, circle_sums, kurtosis_slope, reflect
from shammie.rotate.solution import Solution

BLOCK_BYTES = (2**19, 2**27)  # of projections at a time: a CPU's cache, a GPU's


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
    """The rows that are still climbing: unit vectors s, their weighted and centred projections z, L-BFGS's memory.

    Work over the vocabulary goes block by block, so that what is made of a block is used while it is in the cache.
    """

    def __init__(
        self, w: Tensor, tokens: Tensor, weights: Tensor, objective: Objective, start: Tensor, spectrum: Spectrum,
        settings: FastSettings,
    ) -> None:  # fmt: skip
        self.tokens, self.objective, self.spectrum, self.settings = tokens, objective, spectrum, settings
        self.weights, self.w = weights, normalize(w, dim=-1)
        self.total = weights @ tokens  # so that means over the vocabulary cost nothing
        self.s = normalize(reflect(w, start), dim=-1)
        self.z = self.s.new_empty(len(w), len(tokens))
        for part in self._blocks():
            self.z[:, part] = self._project(self.s, part)
        self.m2, self.m4 = self.z.square().mean(-1), self.z.square().square_().mean(-1)
        self.value = objective(self.m4 / self.m2.square() - 3, (self.w * self.s).sum(-1))
        self.gradient = self._gradient()
        self.iteration = 0
        self.pairs: deque[tuple[Tensor, Tensor]] = deque(maxlen=settings.memory)

    def keep(self, rows: Bool[Tensor, " B"]) -> None:
        """Go on with these rows alone."""
        for name in ("weights", "w", "total", "s", "z", "m2", "m4", "value", "gradient"):
            setattr(self, name, getattr(self, name)[rows])
        self.pairs = deque(((s[rows], y[rows]) for s, y in self.pairs), self.settings.memory)

    def step(self) -> None:
        """Turn every row along its best direction to the best angle."""
        approaching = self.iteration < self.settings.approach
        direction = self._tangent(self._quasi_newton(approaching))
        uphill = (direction * self.gradient).sum(-1, keepdim=True) > 0
        direction = normalize(torch.where(uphill, direction, self.gradient), dim=-1)
        before, slope = self.s, self.gradient
        self._turn(direction, self.settings.approach_turn if approaching else self.settings.max_turn)
        if not approaching:
            self.pairs.append((self._tangent(self.s - before), self._tangent(slope) - self.gradient))
        self.iteration += 1

    def _blocks(self) -> list[slice]:
        """Slices of the vocabulary whose projections take `BLOCK_BYTES`."""
        size = max(256, BLOCK_BYTES[self.s.device.type == "cuda"] // (4 * max(1, len(self.s))))
        return [slice(start, start + size) for start in range(0, len(self.tokens), size)]

    def _project(self, s: Tensor, part: slice) -> Tensor:
        mean = (s * self.total).sum(-1, keepdim=True) / len(self.tokens)
        return (s @ self.tokens[part].T).mul_(self.weights[:, part]).sub_(mean)

    def _tangent(self, v: Tensor) -> Tensor:
        return v - self.s * (v * self.s).sum(-1, keepdim=True)

    def _slog_slope(self) -> Tensor:
        kurtosis = self.m4 / self.m2.square() - 3
        return self.objective.kurtosis_weight / (1 + kurtosis.abs())

    def _gradient(self, turn: tuple[Tensor, Tensor, Tensor] | None = None) -> Tensor:
        """The Riemannian gradient of J; `turn` (projection, cosine, sine) is first carried out on z, block by block."""
        pull, m3 = torch.zeros_like(self.s), torch.zeros_like(self.m2)
        for part in self._blocks():
            z = self.z[:, part]
            if turn is not None:
                z.mul_(turn[1]).addcmul_(turn[0][:, part], turn[2])
            slope = kurtosis_slope(z, self.m2, self.m4)
            m3 += slope.sum(-1)
            pull += slope.mul_(self.weights[:, part]) @ self.tokens[part]
        count = len(self.tokens)
        pull -= (m3 / count)[:, None] * self.total
        scale = self._slog_slope() * 4 / (count * self.m2.square())
        return self._tangent(scale[:, None] * pull + self.objective.faithfulness_weight * self.w)

    def _preconditioner(self) -> Tensor:
        """Its diagonal in the spectrum's basis [B, D].

        Near an optimum the Hessian of -J is about (4 a kurtosis / m2) Cov + cos(w, s) I with a the slope of slog.
        """
        kurtosis = (self.m4 / self.m2.square() - 3).clamp(min=0)
        curvature = (4 * self._slog_slope() * kurtosis / self.m2)[:, None] * self.spectrum.values
        cosine = (self.w * self.s).sum(-1, keepdim=True).clamp(min=0.1)
        return curvature + self.objective.faithfulness_weight * cosine

    def _quasi_newton(self, approaching: bool) -> Tensor:
        """The two-loop recursion; a pair without positive curvature counts for nothing in its row."""
        q, used = self.gradient, []
        for s, y in reversed(self.pairs):
            product = (s * y).sum(-1, keepdim=True)
            rho = torch.where(product > 1e-12, 1 / product.clamp(min=1e-12), 0.0)
            alpha = rho * (s * q).sum(-1, keepdim=True)
            q = q - alpha * y
            used.append((s, y, rho, alpha))
        diagonal = self._preconditioner().sqrt() if approaching else self._preconditioner()
        r = ((q @ self.spectrum.vectors) / diagonal) @ self.spectrum.vectors.T
        for s, y, rho, alpha in reversed(used):
            r = r + s * torch.where(rho > 0, alpha - rho * (y * r).sum(-1, keepdim=True), 0.0)
        return r

    def _turn(self, direction: Tensor, furthest: float) -> None:
        """Go to the best angle up to the furthest: a grid, then three finer ones around its best point."""
        projected, plane = self._plane(direction)
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
        self.m2, self.m4 = plane.moments(best)
        self.gradient = self._gradient((projected, best.cos(), best.sin()))

    def _plane(self, direction: Tensor) -> tuple[Tensor, Circle]:
        """The projection of a direction, and the moments of every angle between it and s."""
        projected = torch.empty_like(self.z)
        second, fourth = self.z.new_zeros(len(self.z), 3), self.z.new_zeros(len(self.z), 3, 3)
        for part in self._blocks():
            projected[:, part] = self._project(direction, part)
            sums = circle_sums(self.z[:, part], projected[:, part])
            second += sums[0]
            fourth += sums[1]
        return projected, Circle(second / len(self.tokens), fourth / len(self.tokens))
