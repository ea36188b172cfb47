"""Shammie: see what a language model has stored, where, and how it reasons with it; change it safely.

The names below are imported when first used, so that `import shammie` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shammie.core.batch import make_batch
    from shammie.core.capture import capture
    from shammie.core.data import load_records
    from shammie.core.decoding import GenerationSettings
    from shammie.core.edit import add, clamp, edited, project_out, replace, scale
    from shammie.core.errors import ShammieError
    from shammie.core.generate import generate
    from shammie.core.model import LanguageModel, load
    from shammie.core.patch import WeightPatch
    from shammie.core.position import ALL, GENERATED, LAST, PROMPT, Mask, RowSpans, Span
    from shammie.core.score import choose, score
    from shammie.core.site import (
        Site,
        attention_out,
        embedding,
        expert_neurons,
        mlp_in,
        mlp_out,
        neurons,
        residual,
        residual_in,
        router,
    )
    from shammie.core.vocabulary import lens_top, project_top

__version__ = "0.1.0"

__all__ = [
    "ALL",
    "GENERATED",
    "LAST",
    "PROMPT",
    "GenerationSettings",
    "LanguageModel",
    "Mask",
    "RowSpans",
    "ShammieError",
    "Site",
    "Span",
    "WeightPatch",
    "__version__",
    "add",
    "attention_out",
    "capture",
    "choose",
    "clamp",
    "edited",
    "embedding",
    "expert_neurons",
    "generate",
    "lens_top",
    "load",
    "load_records",
    "make_batch",
    "mlp_in",
    "mlp_out",
    "neurons",
    "project_out",
    "project_top",
    "replace",
    "residual",
    "residual_in",
    "router",
    "scale",
    "score",
]

_HOMES = {
    "batch": ("make_batch",),
    "capture": ("capture",),
    "data": ("load_records",),
    "decoding": ("GenerationSettings",),
    "edit": ("add", "clamp", "edited", "project_out", "replace", "scale"),
    "errors": ("ShammieError",),
    "generate": ("generate",),
    "model": ("LanguageModel", "load"),
    "patch": ("WeightPatch",),
    "position": ("ALL", "GENERATED", "LAST", "PROMPT", "Mask", "RowSpans", "Span"),
    "score": ("choose", "score"),
    "site": (
        *("Site", "attention_out", "embedding", "expert_neurons", "mlp_in", "mlp_out", "neurons", "residual"),
        *("residual_in", "router"),
    ),
    "vocabulary": ("lens_top", "project_top"),
}
_HOME = {name: f"shammie.core.{module}" for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'shammie' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
