"""Settings of the paper for its two models; the defaults are for the rest."""

from __future__ import annotations

from dataclasses import replace

from shammie.core.errors import ShammieError
from shammie.ember.settings import EmberSettings, FactorizationSettings, FeatureSettings

_FEATURES = {"gemma-2-2b": 100, "llama-3.1-8b": 200}
RECIPES = tuple(_FEATURES)


def recipe(name: str) -> EmberSettings:
    """One factorization run to its end, features by ratio alone (the paper adds a judge), every token that they touch.

    Errors: ShammieError for an unknown name.
    """
    if name not in RECIPES:
        raise ShammieError(f"{name!r} is no recipe of ember; there are {', '.join(RECIPES)}")
    paper = FactorizationSettings(features=_FEATURES[name], iterations=20_000, patience=500, tolerance=0.0)
    settings = EmberSettings(factorizations=1, votes=1.0, least_keyness=0.0, factorization=paper)
    return replace(settings, select=FeatureSettings(criteria=("ratio",), least_tokens=1))
