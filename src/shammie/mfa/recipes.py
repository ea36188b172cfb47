"""Settings by name: the paper's sizes, and what suits the bundled models."""

from __future__ import annotations

from shammie.core.errors import ShammieError
from shammie.mfa.settings import MfaSettings

RECIPES: dict[str, MfaSettings] = {
    # Centroids by k-means on 4 of 100 million tokens, R as in the released tutorial; the default trainer at that size.
    "gemma-2-2b": MfaSettings(8000, 10, start_tokens=1_000_000, held_out=0.008),
    "llama-3.1-8b": MfaSettings(8000, 10, start_tokens=1_000_000, held_out=0.008),
    "llama-3.1-8b-32k": MfaSettings(32_000, 10, start_tokens=2_000_000, held_out=0.008),
    "tutorial": MfaSettings(500, 10, trainer="paper", passes=10),
    "smollm2-135m": MfaSettings(1000, 10),
    "gemma-3-270m": MfaSettings(1000, 10),
}


def recipe(name: str) -> MfaSettings:
    """The settings of a recipe. Errors: ShammieError for an unknown name."""
    if name not in RECIPES:
        raise ShammieError(f"{name!r} is no recipe of mfa; there are {', '.join(RECIPES)}")
    return RECIPES[name]
