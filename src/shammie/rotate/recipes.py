"""Settings of the paper for its two models, and sensible ones for the bundled models, by layer and part."""

from __future__ import annotations

from dataclasses import replace

from shammie.core.errors import ShammieError
from shammie.rotate.settings import Part, RotateSettings


def _gemma_2_2b(layer: int, part: Part) -> RotateSettings:
    """Gemma-2-2B-it as in the paper's release: 50 channels, tokens beyond 4 standard deviations."""
    settings = RotateSettings(solver="paper", channels=50, threshold=4.0)
    if part == "out" and layer == 18:
        return replace(settings, kurtosis_weight=0.5)
    return replace(settings, learning_rate=2e-3) if part == "out" and layer == 4 else settings


def _llama_3_1_8b(layer: int) -> RotateSettings:
    """Llama-3.1-8B-Instruct as in the paper's release; layers up to 12 read with the input embedding."""
    settings = RotateSettings(solver="paper", channels=50, threshold=6.0, matrix="input" if layer <= 12 else "output")
    if layer in (8, 16, 26):
        return replace(settings, channels=30)
    return replace(settings, threshold=8.0, learning_rate=2e-3) if layer == 22 else settings


RECIPES = ("gemma-2-2b", "llama-3.1-8b", "smollm2-135m", "gemma-3-270m")


def recipe(name: str, layer: int, part: Part) -> RotateSettings:
    """The settings of a recipe for one part of a layer. Errors: ShammieError for an unknown name."""
    if name == "gemma-2-2b":
        return _gemma_2_2b(layer, part)
    if name == "llama-3.1-8b":
        return _llama_3_1_8b(layer)
    if name in RECIPES:  # in small models few neurons hold more than a handful of channels that noise does not reach
        return RotateSettings(channels=4)
    raise ShammieError(f"{name!r} is no recipe of rotate; there are {', '.join(RECIPES)}")
