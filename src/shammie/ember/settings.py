"""Settings of the room; nothing here loads torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from tyro.conf import OmitArgPrefixes

from shammie.core.errors import ShammieError

Criterion = Literal["ratio", "test", "keyness"]
Format = Literal["choice", "open", "cloze"]
Adaptation = Literal["full", "lora"]
Precision = Literal["float32", "bfloat16", "float16"]
Attack = Literal["full", "lora", "paraphrase", "typos", "splits", "hints"]


@dataclass(frozen=True)
class FactorizationSettings:
    """How an embedding slice is cut into features; defaults are the paper's but for the stop."""

    features: int = 100
    """K: features of one factorization (the paper: 100 for Gemma-2-2B, 200 for Llama-3.1-8B)."""
    share: float = 0.01
    """rho: share of the tokens that a feature keeps."""
    iterations: int = 400
    """At most so many alternating updates."""
    patience: int = 4
    """Stop after so many iterations without an improvement; the best iteration is kept."""
    tolerance: float = 5e-3
    """Relative fall of the error that counts as an improvement (an absolute one would depend on the model's scale)."""

    def __post_init__(self) -> None:
        if min(self.features, self.iterations, self.patience) < 1 or not 0 < self.share <= 1 or self.tolerance < 0:
            raise ShammieError(
                "features, iterations and patience must be at least 1, share in (0, 1], tolerance not negative"
            )


@dataclass(frozen=True)
class FeatureSettings:
    """What makes a feature the concept's own."""

    criteria: tuple[Criterion, ...] = ("ratio", "keyness")
    """All of these must hold: `ratio` (the paper's), `test` (scale-free, permuted labels), `keyness` (its tokens are over-used)."""
    ratio: float = 2.0
    """Least ratio of mean activity on concept-only to that on neutral-only tokens."""
    false_discovery: float = 0.05
    """False-discovery rate of `test` and `keyness` among a factorization's features."""
    permutations: int = 2000
    """Labellings of the permutation null."""
    least_tokens: int = 3
    """Concept-only tokens that a feature must have; a ratio over one or two says nothing."""

    def __post_init__(self) -> None:
        if not self.criteria or set(self.criteria) - set(get_args(Criterion)):
            raise ShammieError(f"criteria must be some of {', '.join(get_args(Criterion))}")
        if not 0 < self.false_discovery < 1 or self.ratio <= 0 or min(self.permutations, self.least_tokens) < 1:
            raise ShammieError(
                "ratio must be above 0, false_discovery within (0, 1), permutations and least_tokens at least 1"
            )


@dataclass(frozen=True)
class EmberSettings:
    """How the concept is found in the embeddings."""

    factorizations: int = 5
    """Factorizations to pool: those of two seeds share under half of their edited tokens."""
    votes: float = 0.4
    """Share of the factorizations that must edit a token."""
    least_keyness: float = 3.84
    """G^2 that a token must have to be edited, chi-square with one degree of freedom; 0 edits all that features name."""
    factorization: OmitArgPrefixes[FactorizationSettings] = field(default_factory=FactorizationSettings)
    """How a slice is cut into features."""
    select: OmitArgPrefixes[FeatureSettings] = field(default_factory=FeatureSettings)
    """Which features are the concept's."""

    def __post_init__(self) -> None:
        if self.factorizations < 1 or self.least_keyness < 0 or not 0 < self.votes <= 1:
            raise ShammieError("factorizations must be at least 1, least_keyness not negative, and votes within (0, 1]")


@dataclass(frozen=True)
class RelearnSettings:
    """How the attacker trains; defaults are the paper's."""

    paragraphs: int = 100
    """At most so many paragraphs."""
    epochs: int = 2
    """Passes over them."""
    batch_size: int = 1
    """Paragraphs a step."""
    learning_rate: float = 1e-5
    """AdamW's learning rate for full fine-tuning."""
    lora_learning_rate: float = 2e-4
    """And for low-rank adapters."""
    rank: int = 16
    """Rank of the adapters, whose scale is 1."""
    max_tokens: int = 256
    """Tokens of a paragraph."""
    precision: Precision = "float32"
    """What forward passes compute in; weights and updates stay in float32."""
    points: int = 4
    """Points of the curve after the start."""
    overlapping: bool = False
    """Also take paragraphs that share a sentence with the erasure's sentences."""

    def __post_init__(self) -> None:
        least = min(self.paragraphs, self.epochs, self.batch_size, self.rank, self.points, self.max_tokens - 1)
        if least < 1 or min(self.learning_rate, self.lora_learning_rate) <= 0:
            raise ShammieError("counts of a relearning attack must be at least 1, max_tokens 2, learning rates above 0")
