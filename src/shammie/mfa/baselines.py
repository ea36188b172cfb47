"""What a mixture is held against: principal components, k-means, diagonal Gaussians, a sparse autoencoder, on the same tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from shammie.core.errors import NonFiniteError
from shammie.mfa.cells import assign, kmeans
from shammie.mfa.equations import NOISE_FLOOR, Parameters
from shammie.mfa.source import Source


@dataclass(frozen=True)
class Principal:
    """The leading principal components: a rank-d Gaussian with the rest as noise (probabilistic PCA)."""

    centre: Float[Tensor, " D"]
    directions: Float[Tensor, "D d"]
    variances: Float[Tensor, " d"]
    noise: float

    @classmethod
    def fit(cls, x: Float[Tensor, "N D"], dimensions: int) -> Principal:
        """The maximum-likelihood solution (Tipping and Bishop 1999)."""
        centre = x.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov((x - centre).T.double()))
        rest = values[:-dimensions]
        return cls(centre, vectors[:, -dimensions:].float(), values[-dimensions:].float(), float(rest.mean()))

    def reconstruct(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """The projection on the components."""
        return self.centre + (x - self.centre) @ self.directions @ self.directions.T

    def mixture(self) -> Parameters:
        """The same density as a mixture of one."""
        loadings = self.directions * (self.variances - self.noise).clamp(min=0).sqrt()
        noise = torch.full((1, len(self.centre)), self.noise)
        return Parameters(torch.ones(1), self.centre[None], loadings[None], noise)


def cells_as_mixture(
    x: Float[Tensor, "N D"], count: int, iterations: int, diagonal: bool, generator: torch.Generator
) -> Parameters:
    """k-means cells as Gaussians: one spherical variance for all, or a diagonal of each (started so, scikit-learn goes on)."""
    centre = x.mean(0)
    centres, members = kmeans(x - centre, count, iterations, 1, generator)
    sizes = torch.bincount(members, minlength=count).float()
    left = (x - centre - centres[members]).square()
    if diagonal:
        sums = torch.zeros(count, x.shape[1]).index_add_(0, members, left)
        pooled = left.mean(0)
        noise = (sums + 10 * pooled) / (
            sizes[:, None] + 10
        )  # as if each cell had ten further tokens of everyone's spread
    else:
        noise = left.mean().expand(1, x.shape[1]).clone()
    loadings = torch.zeros(count, x.shape[1], 1)
    return Parameters(
        (sizes + 0.5) / (sizes + 0.5).sum(),
        centres + centre,
        loadings,
        noise.clamp(min=float(NOISE_FLOOR * noise.max())),
    )


def nearest(x: Float[Tensor, "N D"], centres: Float[Tensor, "K D"]) -> Float[Tensor, "N D"]:
    """Each token's nearest centre: what k-means reconstructs."""
    return centres[assign(x, centres)[0]]


class SparseAutoencoder(nn.Module):
    """A top-k sparse autoencoder (Gao et al. 2024) with unit decoder rows; features are [F, D]."""

    def __init__(self, width: int, features: int, active: int, generator: torch.Generator) -> None:
        super().__init__()
        directions = torch.nn.functional.normalize(torch.randn(features, width, generator=generator), dim=1)
        self.decoder = nn.Parameter(directions.clone())
        self.encoder = nn.Parameter(directions.clone())
        self.bias = nn.Parameter(torch.zeros(features))
        self.centre = nn.Parameter(torch.zeros(width))
        self.active = active
        self.scale = 1.0

    def codes(self, x: Float[Tensor, "B D"]) -> tuple[Tensor, Tensor]:
        """The k largest activations of each token and their features [B, k]."""
        found = ((x / self.scale - self.centre) @ self.encoder.T + self.bias).topk(self.active, dim=-1)
        return found.values.relu(), found.indices

    def features(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B F"]:
        """The activations of all features, so that features @ directions + centre is the reconstruction."""
        values, features = self.codes(x)
        table = torch.zeros(len(x), len(self.decoder), dtype=x.dtype).scatter(1, features, values)
        return table * self.scale

    @property
    def directions(self) -> Float[Tensor, "F D"]:
        """What one unit of each feature adds: unit rows."""
        return torch.nn.functional.normalize(self.decoder, dim=1)

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """The reconstruction."""
        return self.features(x) @ self.directions + self.centre * self.scale

    @classmethod
    def fit(
        cls,
        source: Source,
        features: int,
        active: int,
        epochs: int,
        batch: int = 1024,
        rate: float = 1e-3,
        seed: int = 0,
    ) -> SparseAutoencoder:
        """Adam on the squared error, activations scaled to a mean squared norm of D. Errors: NonFiniteError."""
        generator = torch.Generator().manual_seed(seed)
        module = cls(source.width, features, active, generator)
        optimizer = torch.optim.Adam(module.parameters(), rate)
        begun = False
        for epoch in range(epochs):
            for block in tqdm(source.blocks("train", epoch + 1), desc="autoencoder", unit="block", disable=None):
                if not begun:
                    centre = block.mean(0)
                    module.scale = float((block - centre).square().mean().sqrt())
                    module.centre.data.copy_(centre / module.scale)
                    begun = True
                for x in block.split(batch):
                    loss = ((module(x) - x) / module.scale).square().mean()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                if not bool(loss.isfinite()):
                    raise NonFiniteError(f"the autoencoder's loss is not finite in epoch {epoch}; lower its rate")
        return module.requires_grad_(False)
