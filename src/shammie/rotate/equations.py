"""ROTATE's equations, every one once. Rows are neurons; a row's projection on the vocabulary is one distribution.

B batch of rows, D model width, V vocabulary, C channels. Source: Avrahamy, Gur-Arieh and Geva 2026 (arXiv 2604.06005)
unless said otherwise; its released code where the text is silent.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from shammie.rotate.settings import FAITHFULNESS_WEIGHT, KURTOSIS_WEIGHT


@dataclass(frozen=True)
class Objective:
    """J(c) = kurtosis_weight * slog(kurtosis) - faithfulness_weight * (1 - cos(w, c)), to be maximised."""

    kurtosis_weight: float = KURTOSIS_WEIGHT
    faithfulness_weight: float = FAITHFULNESS_WEIGHT

    def __call__(self, kurtosis: Float[Tensor, "*B"], cosine: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """The objective: the paper's loss with its sign turned."""
        return self.kurtosis_weight * symmetric_log(kurtosis) - self.faithfulness_weight * (1 - cosine)


def reflect(w: Float[Tensor, "B D"], u: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
    """Householder reflection of w across the plane with normal u: a rotation of w that keeps its norm."""
    return w - 2 * u * (u * w).sum(-1, keepdim=True) / u.square().sum(-1, keepdim=True)


def symmetric_log(x: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """slog(x) = sign(x) log(1 + |x|)."""
    return x.sign() * x.abs().log1p()


@dataclass(frozen=True)
class Moments:
    """Population central moments of each row [B]: mean, variance, third and fourth."""

    mean: Float[Tensor, " B"]
    m2: Float[Tensor, " B"]
    m3: Float[Tensor, " B"]
    m4: Float[Tensor, " B"]

    @property
    def kurtosis(self) -> Float[Tensor, " B"]:
        """Excess kurtosis: 0 for a Gaussian."""
        return self.m4 / self.m2.square() - 3

    @property
    def skewness(self) -> Float[Tensor, " B"]:
        """Skewness: positive when the long tail is on the right."""
        return self.m3 / self.m2.pow(1.5)


def moments(z: Float[Tensor, "B V"]) -> Moments:
    """Central moments of each row over the vocabulary."""
    mean = z.mean(-1)
    centred = z - mean[:, None]
    square = centred.square()
    return Moments(mean, square.mean(-1), (square * centred).mean(-1), square.square().mean(-1))


def kurtosis_slope(
    centred: Float[Tensor, "B v"], m2: Float[Tensor, " B"], m4: Float[Tensor, " B"]
) -> Float[Tensor, "B v"]:
    """The slope of kurtosis in z, entry by entry, times V m2^2 / 4 and without its constant -m3 (derived).

    The whole slope is 4 (x^3 - x m4 / m2 - m3) / (V m2^2) with x = z - mean.
    """
    return centred.square().sub_((m4 / m2)[:, None]).mul_(centred)


def tail(z: Float[Tensor, "B V"], threshold: float, skewed: float = 10.0) -> Bool[Tensor, "B V"]:
    """Tokens beyond `threshold` standard deviations: of both tails, or of the long one where |skewness| > `skewed`."""
    stats = moments(z)
    score = (z - stats.mean[:, None]) / stats.m2.sqrt()[:, None]
    skewness = stats.skewness[:, None]
    above, below = score > threshold, score < -threshold
    return (above & (skewness >= -skewed)) | (below & (skewness <= skewed))


def remove(w: Float[Tensor, "*B D"], direction: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
    """W without its component along a direction."""
    unit = normalize(direction, dim=-1)
    return w - (w * unit).sum(-1, keepdim=True) * unit


def reconstruct(w: Float[Tensor, "B D"], channels: Float[Tensor, "B C D"], ridge: float = 1e-3) -> Float[Tensor, "B D"]:
    """The best combination of a neuron's channels, by ridge least squares on unit channels (derived).

    The ridge keeps near-duplicates from making it unstable; a channel of zeros takes no part.
    """
    basis = normalize(channels, dim=-1)
    gram = basis @ basis.mT + ridge * torch.eye(basis.shape[1], device=basis.device, dtype=basis.dtype)
    return (basis.mT @ torch.linalg.solve(gram, basis @ w[:, :, None]))[:, :, 0]


@dataclass(frozen=True)
class Circle:
    """Second and fourth moments of every a cos t + b sin t (derived).

    With p = (a^2, ab, b^2) of centred a and b: `second` [B, 3] is the mean of p, `fourth` [B, 3, 3] of its outer product.
    So a whole great circle through a row's direction is searched without another product with the vocabulary.
    """

    second: Float[Tensor, "B 3"]
    fourth: Float[Tensor, "B 3 3"]

    def kurtosis(self, angle: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        """Excess kurtosis at each angle t, in radians."""
        m2, m4 = self._moments(angle)
        return m4 / m2.square() - 3

    def moments(self, angle: Float[Tensor, "B 1"]) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Second and fourth moment at one angle a row."""
        m2, m4 = self._moments(angle)
        return m2[:, 0], m4[:, 0]

    def _moments(self, angle: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = angle.cos(), angle.sin()
        q = torch.stack([cos * cos, 2 * cos * sin, sin * sin], -1)
        return (q * self.second[:, None]).sum(-1), ((q @ self.fourth) * q).sum(-1)


def circle_sums(a: Float[Tensor, "B v"], b: Float[Tensor, "B v"]) -> tuple[Tensor, Tensor]:
    """What a block of tokens adds to V times the moments of a `Circle`; a and b are centred over all V."""
    products = torch.stack([a * a, a * b, b * b], 1)
    return products.sum(-1), products @ products.mT
