"""What an interchange intervention may exchange: features of a state, each with the direction that it adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from shammie.core.errors import ShammieError
from shammie.mfa.baselines import SparseAutoencoder
from shammie.mfa.mixture import Mixture
from shammie.mfa.settings import Featurizer
from shammie.mfa.source import Source, sample

_PCA_OF = 50_000  # tokens


@dataclass(frozen=True, eq=False)
class Dictionary:
    """Features of N states, [N, D] to [N, F], and the direction that one unit of each adds."""

    features: Callable[[Tensor], Tensor]
    directions: Float[Tensor, "F D"]


def dictionary(
    kind: Featurizer, mixture: Mixture, source: Source | None = None, autoencoder: SparseAutoencoder | None = None
) -> Dictionary | None:
    """The features of a featurizer; None for those without (full, das). `pca` and `sae` are made of `source`.

    An autoencoder that is not given is trained (one pass over the source), with as many parameters as the mixture.
    """
    count, width, rank = mixture.loadings.shape
    if kind == "mfa":
        return Dictionary(mixture.codes, mixture.dictionary())
    if kind == "centroids":
        return Dictionary(lambda x: mixture.codes(x).view(len(x), count, rank + 1)[..., 0], mixture.means)
    if kind == "neurons":
        return Dictionary(lambda x: x, torch.eye(width))
    if kind in ("full", "das"):
        return None
    if source is None:
        raise ShammieError(f"the featurizer {kind} needs states to be made of")
    if kind == "pca":
        components = principal_components(source)
        return Dictionary(lambda x: x @ components, components.T)
    module = autoencoder or matched_autoencoder(mixture, source)
    return Dictionary(module.features, module.directions)


def matched_autoencoder(mixture: Mixture, source: Source, epochs: int = 1) -> SparseAutoencoder:
    """A sparse autoencoder of as many parameters as the mixture, with as many features active as a region has directions."""
    count, _, rank = mixture.loadings.shape
    return SparseAutoencoder.fit(source, max(rank + 1, count * (rank + 1) // 2), rank + 1, epochs)


def principal_components(source: Source) -> Float[Tensor, "D D"]:
    """All principal directions of a sample of the states, widest first."""
    x = sample(source, _PCA_OF)
    x = x - x.mean(0)
    _, vectors = torch.linalg.eigh((x.T @ x).double())
    return vectors.float().flip(1)
