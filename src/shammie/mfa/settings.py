"""How a mixture is fitted: what the Python API, the command line and the run record share. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shammie.core.errors import ShammieError

Trainer = Literal["em", "paper"]
Noise = Literal["shared", "component"]
Featurizer = Literal["mfa", "centroids", "full", "neurons", "pca", "sae", "das"]


@dataclass(frozen=True)
class MfaSettings:
    """How a mixture of factor analyzers is fitted."""

    components: int = 1000
    """K: regions of the activation space."""
    rank: int = 10
    """R: local directions of each region."""
    noise: Noise = "shared"
    """One diagonal noise for all components (the paper's), or one each."""
    trainer: Trainer = "em"
    """em: expectation-maximization from the local principal directions of cells; paper: Adam on the likelihood."""
    passes: int = 8
    """Passes over the training tokens at most; the paper's epochs."""
    tolerance: float = 3e-4
    """Stop when a pass lowers the held-out negative log-likelihood by less than this share of it."""
    held_out: float = 0.05
    """Share of the texts that is held out, whole texts at a time."""
    ridge: float = 20.0
    """Of em: tokens' worth of pull of a component's loadings to zero; keeps small components from overfitting."""
    screen: int = 64
    """Of em: leading dimensions in which all components are compared first; 0 compares them in all dimensions."""
    candidates: int = 8
    """Of em: components that are then compared in full."""
    start_tokens: int = 200_000
    """Tokens that cells and their directions are first made of."""
    iterations: int = 15
    """k-means iterations of the start."""
    restarts: int = 1
    """k-means starts; the tightest cells are kept."""
    learning_rate: float = 1e-3
    """Of paper."""
    batch_size: int = 128
    """Tokens a step of paper."""
    standardize: bool = False
    """Of paper: divide each dimension by its standard deviation while fitting."""
    seed: int = 0
    """Of starts and orders."""

    def __post_init__(self) -> None:
        least = {"components": 1, "rank": 1, "passes": 1, "candidates": 1, "start_tokens": 2, "iterations": 1}
        least |= {"restarts": 1, "batch_size": 1, "screen": 0, "seed": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ShammieError(f"--{name.replace('_', '-')} must be at least {low}, but is {getattr(self, name)}")
        if not 0 <= self.held_out < 1 or self.tolerance < 0 or self.ridge < 0 or self.learning_rate <= 0:
            raise ShammieError(
                "--held-out must be below 1 and not negative, --tolerance and --ridge not negative, --learning-rate positive"
            )


@dataclass(frozen=True)
class LocalizeSettings:
    """How interchange interventions are learned; the paper's benchmark's values."""

    epochs: int = 3
    """Passes over the training pairs."""
    batch: int = 32
    """Pairs a step."""
    mask_rate: float = 0.05
    """Learning rate of masks and rotations."""
    sparsity: float = 1e-4
    """Weight of the masks' size."""
    das_features: int = 32
    """Dimensions that DAS exchanges."""
    train_pairs: int = 256
    """Pairs to learn from."""
    test_pairs: int = 128
    """Pairs to score."""
    seed: int = 0
    """Of pairs, orders and rotations."""

    def __post_init__(self) -> None:
        if (
            min(self.epochs, self.batch, self.das_features, self.train_pairs, self.test_pairs) < 1
            or self.mask_rate <= 0
        ):
            raise ShammieError(
                "--epochs, --batch, --das-features and the numbers of pairs must be at least 1, --mask-rate positive"
            )
