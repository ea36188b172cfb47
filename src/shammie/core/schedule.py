"""How to train: what Python, command lines and run records share. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args, get_type_hints

from shammie.core.errors import ShammieError


@dataclass(frozen=True)
class TrainSettings:
    """How to train; what the loss is belongs to the room."""

    steps: int = 1000
    """Optimizer steps."""
    batch_size: int = 16
    """Examples a step, over all processes and pieces."""
    learning_rate: float = 1e-4
    """Learning rate after the warm-up."""
    warmup: float = 0.0
    """Steps of linear warm-up; below 1 a fraction of all steps."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls after the warm-up."""
    floor: float = 0.0
    """Fraction of the learning rate that the schedule falls to."""
    weight_decay: float = 0.0
    """AdamW's decay of matrices; embeddings, biases and norms do not decay."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient; 0 clips nothing."""
    accumulation: int = 1
    """Pieces that a process cuts its share of a batch into, to save memory; the gradient stays the same."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """What forward passes compute in; weights and updates stay in float32."""
    checkpoint_every: int = 100
    """Steps between checkpoints, of which the last step writes one too; 0 writes none, for trainings not worth resuming."""
    keep_checkpoints: int = 1
    """Newest checkpoints to keep."""
    seed: int = 0
    """Seed of the order of examples and of all draws."""

    def __post_init__(self) -> None:
        counts = ("steps", "batch_size", "accumulation", "keep_checkpoints")
        sizes = ("learning_rate", "weight_decay", "gradient_clip", "checkpoint_every", "seed", "warmup", "floor")
        for name, low in (dict.fromkeys(counts, 1) | dict.fromkeys(sizes, 0)).items():
            value, high = getattr(self, name), {"warmup": self.steps, "floor": 1}.get(name, math.inf)
            if not (low <= value <= high and math.isfinite(value)):
                raise ShammieError(f"{name} must be finite and between {low} and {high}, but is {value}")
        for name in ("schedule", "precision"):
            if getattr(self, name) not in (known := get_args(get_type_hints(TrainSettings)[name])):
                raise ShammieError(f"{name} must be one of {', '.join(known)}, but is {getattr(self, name)!r}")


def schedule_factor(step: int, settings: TrainSettings) -> float:
    """What the learning rate is multiplied by in `step`, counted from 0; the last step of the warm-up has 1."""
    warmup = settings.warmup if settings.warmup >= 1 else settings.warmup * settings.steps
    if step + 1 < warmup:
        return (step + 1) / warmup
    done = max(0.0, step - warmup) / max(1.0, settings.steps - warmup)
    left = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[settings.schedule]
    return settings.floor + (1 - settings.floor) * left
