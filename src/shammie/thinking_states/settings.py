"""How a model thinks while it reads, and how its peers reason: shared by Python, the command line and run records. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from shammie.core.errors import ShammieError

Method = Literal["thinking", "direct", "cot", "icot", "coconut"]
Trivial = Literal["zero", "end"]


@dataclass(frozen=True)
class ThinkingSettings:
    """Where thoughts are made and put back (paper: chunk 8, states added after the first layer, thoughts from the last but one)."""

    chunk: int = 8
    """Tokens that are read before each thought, and vectors of a state."""
    inject: int = 0
    """Layer after which a state is added."""
    extract: int = -2
    """Layer whose output thoughts are made of; negative numbers count from the end."""
    longest: int = 32
    """Tokens that a thought may have, its end among them."""
    trivial: Trivial = "zero"
    """State of an empty thought: nothing at all, or what its end token is compressed to."""

    def __post_init__(self) -> None:
        if min(self.chunk, self.longest) < 1:
            raise ShammieError("--chunk and --longest must be at least 1")
        if self.trivial not in get_args(Trivial):
            raise ShammieError(f"--trivial must be zero or end, not {self.trivial!r}")

    def layers(self, count: int) -> tuple[int, int]:
        """Numbers of both layers in a model of `count`. Errors: ShammieError where they do not lie one above the other."""
        extract = self.extract + count if self.extract < 0 else self.extract
        if not 0 <= self.inject < extract < count:
            raise ShammieError(
                f"states go in after layer {self.inject} and thoughts come from layer {extract}, but the model has layers 0 to "
                f"{count - 1}; --inject must lie below --extract"
            )
        return self.inject, extract


@dataclass(frozen=True)
class MethodSettings:
    """How a model reasons before it answers."""

    method: Method = "thinking"
    """thinking (states while reading), direct (no reasoning), cot (steps as text), icot (steps taken away one token after another),
    coconut (steps replaced by latents)."""
    latents: int = 1
    """Coconut: latents that replace a step."""
    most: int = 6
    """Coconut: steps that are replaced at most; of longer chains all steps go with the last stage."""
    until: float = 0.75
    """Share of training by which iCoT's and Coconut's chains are gone."""

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ShammieError(f"--method must be one of {', '.join(get_args(Method))}, not {self.method!r}")
        if min(self.latents, self.most) < 1 or not 0 < self.until <= 1:
            raise ShammieError("--latents and --most must be at least 1, --until above 0 and at most 1")


@dataclass(frozen=True)
class Shape:
    """A decoder trained from scratch."""

    layers: int = 4
    """Decoder layers; peers of a thinking model get two more, in the place of its two blocks."""
    width: int = 64
    """Of hidden states."""
    heads: int = 4
    """Of attention."""
    neurons: int = 176
    """Of an MLP."""
    window: int = 0
    """Tokens that attention reaches back, 0 for all. States carry what is further back; a chain of thought must look there."""

    def __post_init__(self) -> None:
        if (
            min(self.layers, self.width, self.heads, self.neurons) < 1
            or self.width % (2 * self.heads)
            or self.window < 0
        ):
            raise ShammieError("all sizes of a model must be at least 1, and --width a multiple of twice --heads")
