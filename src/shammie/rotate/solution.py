"""What a solver returns."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Solution:
    """One channel of each neuron, of the neuron's norm, and how many steps its search took."""

    channels: Float[Tensor, "B D"]
    steps: Int[Tensor, " B"]
    value: Float[Tensor, " B"]
    """What the solver maximised, at the channel."""
