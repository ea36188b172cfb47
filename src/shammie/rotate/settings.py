"""How neurons are taken apart: what the Python API, the command line and the run record share. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from shammie.core.errors import ShammieError

Part = Literal["gate", "in", "out"]
Solver = Literal["anchored", "fast", "paper"]
PARTS: tuple[Part, ...] = get_args(Part)

KURTOSIS_WEIGHT, FAITHFULNESS_WEIGHT = 0.3, 1.0  # lambda_kappa and lambda_f of the paper
LEARNING_RATE, MAX_STEPS = 8e-4, 10_000  # of the paper's optimizer


@dataclass(frozen=True)
class RotateSettings:
    """How neurons are taken apart."""

    solver: Solver = "anchored"
    """anchored: by evidence against the layer; fast: the paper's objective; paper: with the paper's optimizer too."""
    channels: int = 8
    """Channels of each neuron."""
    threshold: float = 4.0
    """A channel's tokens are those beyond this many standard deviations; they are closed to later channels."""
    kurtosis_weight: float = KURTOSIS_WEIGHT
    """Of the objective (fast, paper)."""
    faithfulness_weight: float = FAITHFULNESS_WEIGHT
    """Of the objective (fast, paper)."""
    restarts: int = 1
    """Starts of fast; the best objective is kept."""
    learning_rate: float = LEARNING_RATE
    """Of paper."""
    max_steps: int = MAX_STEPS
    """Of paper."""
    matrix: Literal["auto", "input", "output"] = "auto"
    """Token vectors: embedding, unembedding, or auto by layer where they differ."""
    fold_norm: bool = False
    """Multiply the norms' scales into the weights, as the stream meets them."""
    null_draws: int = 200
    """Noise rows of each null."""
    seed: int = 0
    """Of starts and noise."""

    def __post_init__(self) -> None:
        if min(self.channels, self.restarts, self.max_steps) < 1:
            raise ShammieError("--channels, --restarts and --max-steps must be at least 1")
        if self.null_draws < 20:
            raise ShammieError(f"{self.null_draws} noise rows calibrate nothing; --null-draws must be at least 20")
        if min(self.threshold, self.learning_rate) <= 0 or min(self.kurtosis_weight, self.faithfulness_weight) < 0:
            raise ShammieError("--threshold and --learning-rate must be positive, and the weights not negative")


def parse_parts(text: str) -> tuple[Part, ...]:
    """Parts of a neuron, separated by commas, in the order gate, in, out."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in PARTS:
            raise ShammieError(f"{name!r} is no part of a neuron; its parts are {', '.join(PARTS)}")
    return tuple(part for part in PARTS if part in names)


def parse_numbers(text: str, count: int, what: str) -> list[int]:
    """Numbers such as 12, 3:6 (without 6), 5,7:9 or all, of `count` things; sorted, each once.

    Errors: ShammieError for what is no number, empty, or out of range.
    """
    if text.strip() == "all":
        return list(range(count))
    chosen: set[int] = set()
    for piece in text.split(","):
        low, colon, high = piece.strip().partition(":")
        try:
            first = int(low) if low or not colon else 0
            stop = first + 1 if not colon else int(high) if high else count
        except ValueError:
            raise ShammieError(f"{piece.strip()!r} names no {what}; write 12, 3:6, 5,7:9 or all") from None
        if stop <= first:
            raise ShammieError(f"{piece.strip()!r} names no {what}; the second number must be larger than the first")
        for number in (first, stop - 1):
            if not 0 <= number < count:
                raise ShammieError(f"{what} {number} does not exist; there are {what}s 0 to {count - 1}")
        chosen.update(range(first, stop))
    return sorted(chosen)
