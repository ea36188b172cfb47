"""How beliefs are read, framed and changed: what Python, the command line and the run record share. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shammie.core.errors import ShammieError

Reader = Literal["patchscopes", "lens"]
FRAMES = {
    "none": "",
    "neutral": "$claim",
    "credible": "A well-known encyclopaedia states: $claim",
    "non-credible": "An anonymous website that is known for its errors states: $claim",
    "follow": "$claim Answer as if this were so, whatever you know.",
    "ignore": "$claim This is false. Answer from what you know.",
}
"""How a claim is put before a question; none leaves it out."""


@dataclass(frozen=True)
class ReadSettings:
    """How beliefs are read from states."""

    reader: Reader = "patchscopes"
    """patchscopes: what a state makes the model write in another prompt; lens: the rank of a name's first token."""
    first_layer: float = 0.67
    """First layer of the window, as a share of depth."""
    last_layer: float = 0.92
    """Last layer of the window, as a share of depth."""
    step: int = 1
    """From one layer of the window to the next."""
    least: int = 1
    """A position counts when the two beliefs surface in at least this many layers of it together; 0 counts all."""
    decode_tokens: int = 6
    """Tokens that are decoded from a state."""
    lens_rank: int = 10
    """With the lens a belief surfaces where a first token of its names is among this many likeliest."""
    prefilter: int = 0
    """Only states are decoded where the lens has a belief among this many likeliest tokens; 0 decodes all."""
    mention: int = 5
    """Positions within this many tokens after a name was written are left out of the mention control."""

    def __post_init__(self) -> None:
        if not 0 <= self.first_layer <= self.last_layer <= 1:
            raise ShammieError("--first-layer and --last-layer are shares of depth, the first at most the last")
        if min(self.step, self.decode_tokens, self.lens_rank) < 1 or min(self.least, self.prefilter, self.mention) < 0:
            raise ShammieError(
                "--step, --decode-tokens and --lens-rank must be at least 1, --least, --prefilter and --mention not negative"
            )

    def layers(self, count: int) -> list[int]:
        """The layers of the window in a model of `count` layers. Errors: ShammieError for an empty window."""
        found = [n for n in range(count) if self.first_layer <= (n + 1) / count <= self.last_layer][:: self.step]
        if not found:
            raise ShammieError(
                f"no layer of {count} lies between {self.first_layer:g} and {self.last_layer:g} of depth; widen the window"
            )
        return found


@dataclass(frozen=True)
class AskSettings:
    """How a question is put and answered."""

    max_new_tokens: int = 64
    """Tokens that a model may write before its answer is read."""
    asked: str = "$question\nThink about it in one or two sentences, then give the answer."
    """What is asked; the framed claim stands before it."""
    closing: str = "\nAnswer:"
    """After which the likelihoods of both beliefs are compared."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or "$question" not in self.asked:
            raise ShammieError("--max-new-tokens must be at least 1, and --asked must hold $question")
