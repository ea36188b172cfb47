"""What a mixture is held against: principal components, k-means, diagonal Gaussians, a sparse autoencoder, on the same tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from shammie.core.errors import NonFiniteError
from shammie.mfa.cells import assign
from shammie.mfa.em import Pass, fit_em, mean_negative_log_likelihood, start
from shammie.mfa.equations import Parameters
from shammie.mfa.fit import best_of
from shammie.mfa.settings import MfaSettings, Noise
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


def gaussians(source: Source, count: int, noise: Noise, passes: int = 2, seed: int = 0) -> Parameters:
    """Gaussians without local directions, by EM over all tokens: `component` a diagonal each, `shared` one for all.

    Loadings of zero stay zero in EM, so the mixture's own trainer fits them; with one noise for all they are k-means
    cells as a density, whose centroids are what k-means reconstructs.
    """
    settings = MfaSettings(count, 1, noise=noise, passes=passes, iterations=5, seed=seed)
    begun = start(source, settings)
    begun = begun._replace(loadings=torch.zeros_like(begun.loadings))
    first = Pass(0, begun, None, mean_negative_log_likelihood(begun, source, settings))
    return best_of([first, *fit_em(source, settings, begin=first)]).mixture


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
        inputs = x / self.scale - self.centre
        with torch.no_grad():
            chosen = (inputs @ self.encoder.T + self.bias).topk(self.active, dim=-1).indices
        values = (self.encoder[chosen] * inputs[:, None]).sum(-1) + self.bias[chosen]  # gradients of these alone
        return values.relu(), chosen

    def features(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B F"]:
        """The activations of all features, so that features @ directions + centre is the reconstruction."""
        values, chosen = self.codes(x)
        return torch.zeros(len(x), len(self.decoder), dtype=x.dtype).scatter(1, chosen, values) * self.scale

    @property
    def directions(self) -> Float[Tensor, "F D"]:
        """What one unit of each feature adds: unit rows."""
        return torch.nn.functional.normalize(self.decoder, dim=1)

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """The reconstruction."""
        values, chosen = self.codes(x)
        summed = nn.functional.embedding_bag(chosen, self.directions, mode="sum", per_sample_weights=values)
        return (summed + self.centre) * self.scale

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
        optimizer = torch.optim.Adam(module.parameters(), rate, fused=True)
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
