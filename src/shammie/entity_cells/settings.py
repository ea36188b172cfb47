"""How cells are looked for and tested: what the Python API, the command line and the run record share. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shammie.core.errors import ShammieError

Protocol = Literal["unique", "paper"]


@dataclass(frozen=True)
class LocalizeSettings:
    """How the cell of an entity is found."""

    protocol: Protocol = "unique"
    """unique: the neuron must stand for this entity and few others; paper: stability alone."""
    templates: int = 32
    """Templates a name is read in."""
    uniqueness: float = 1.5
    """A unique cell is this many times as active as for all but `shared` of the other names."""
    shared: float = 0.05
    """Share of other names that may have the cell too."""
    first_layer: int = 1
    """Unique cells stand at or above this layer; layer 0 is reported apart."""
    anonymous: int = 40
    """Made-up names that count among the others."""
    group: int = 20
    """Cells of an entity's group."""
    seed: int = 7
    """Of the choice of templates."""

    def __post_init__(self) -> None:
        if not 4 <= self.templates <= 100:
            raise ShammieError("--templates must be between 4 and 100, half of them for each side of the split")
        if not 0 < self.shared < 1 or self.uniqueness < 1:
            raise ShammieError("--shared must lie between 0 and 1, and --uniqueness must be at least 1")
        if self.group < 1 or self.first_layer < 0 or self.anonymous < 0:
            raise ShammieError("--group must be at least 1, and --first-layer and --anonymous not negative")


@dataclass(frozen=True)
class TrustSettings:
    """When a cell is trusted to carry its entity's facts."""

    least_dominance: float = 10.0
    """Score over the next five of the layer (paper only)."""
    first_layer: int = 1
    """Lowest layer (paper only)."""
    last_layer: int = 6
    """Highest layer (paper only)."""
    least_loss: float = 0.10
    """Mean clipped loss of the entity's answers when the cell is ablated."""
    least_margin: float = 0.05
    """By how much that exceeds the loss from other entities' cells (unique only)."""
    least_probability: float = 1e-5
    """Mean probability that must be left, or the model has collapsed."""
    most_ratio: float = 2.0
    """Mean ratio of probabilities above which an answer exploded."""


@dataclass(frozen=True)
class CausalSettings:
    """How cells are tested by intervention."""

    scales: tuple[float, ...] = (0.0, -1.0, -3.0)
    """What the cell's activity is multiplied by at the entity's last token."""
    everywhere: tuple[float, ...] = ()
    """What it is multiplied by at all tokens."""
    strengths: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    """How far injected cells are moved from the mean entity's activity towards, and beyond, the entity's."""
    group: int = 10
    """Cells that are ablated or injected together; 0 tests single cells alone."""
    known_within: int = 5
    """A fact is known when an answer is among this many likeliest first tokens."""
    seed: int = 0
    """Of the choice of other entities and random neurons."""

    def __post_init__(self) -> None:
        if not self.scales or not self.strengths:
            raise ShammieError("--scales and --strengths must each name at least one number")
        if self.known_within < 1 or self.group < 0:
            raise ShammieError("--known-within must be at least 1, and --group not negative")
