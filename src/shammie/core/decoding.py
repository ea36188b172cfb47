"""How to continue prompts; apart from the code that does it, so that command lines can show it without torch."""

from __future__ import annotations

from dataclasses import dataclass

from shammie.core.errors import ShammieError


@dataclass(frozen=True)
class GenerationSettings:
    """How to continue prompts."""

    max_new_tokens: int = 128
    """Tokens after which a completion is cut off (finish `length`)."""
    temperature: float = 0.0
    """0 is greedy; otherwise logits are divided by it."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens that holds this much probability."""
    top_k: int = 0
    """Sample from the k likeliest tokens; 0 for all."""
    samples: int = 1
    """Completions a prompt."""
    seed: int = 0
    """Seed of the draws of every (prompt, sample)."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion and are cut off it; not looked for inside reasoning."""
    prefill: str = ""
    """Text that the completion is made to begin with (not part of the returned text)."""
    reasoning_start: str = ""
    """Marker that opens reasoning, such as <think>; a prefill or template that ends in it opens it at once."""
    reasoning_end: str = ""
    """Marker that closes reasoning, such as </think>; empty for models that do not mark it."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.samples < 1:
            raise ShammieError("max_new_tokens and samples must be at least 1")
        if not 0 <= self.temperature < float("inf") or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ShammieError("temperature and top_k must be finite and not negative, and top_p must lie in (0, 1]")
        if self.samples > 1 and self.temperature == 0:
            raise ShammieError("several samples of a greedy completion are all the same; set a temperature above 0")
        if self.reasoning_start and not self.reasoning_end:
            raise ShammieError("reasoning_start needs reasoning_end")
        if self.reasoning_start != self.reasoning_start.strip():
            raise ShammieError("reasoning_start must have no blanks around it; they are allowed for anyway")
        if "" in self.stop:
            raise ShammieError("a stop string must not be empty")
