"""Loading what commands name: the model, a patch on it, and how fast it is here."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from shammie.core.model import LanguageModel

_MAPS = ("auto", "balanced", "sequential")


def open_model(
    name: str, *, device: str | None = None, dtype: str = "auto", patch: Path | None = None, any_model: bool = False
) -> LanguageModel:
    """Load a model, with a saved weight patch in force when one is named."""
    from shammie.core.model import load

    model = load(name, device_map=device, dtype=dtype) if device in _MAPS else load(name, device=device, dtype=dtype)
    if patch is not None:
        from shammie.core.patch import WeightPatch

        WeightPatch.from_pretrained(patch).apply(model, any_model=any_model)
    return model


def weight_bytes(model: LanguageModel) -> int:
    """Bytes of the weights in memory."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.module.parameters())


def seconds(work: Callable[[], object]) -> float:
    """Time of the second of two executions."""
    work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
