"""The fitted artifact: the channels of some neurons of one part of one layer, each with its evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Bool, Float, Int
from torch import Tensor

from shammie.core.artifact import Pretrained, check_model
from shammie.core.errors import ShammieError
from shammie.core.model import LanguageModel
from shammie.core.vocabulary import Matrix
from shammie.rotate.settings import Part, RotateSettings


@dataclass(frozen=True, eq=False)
class Channels(Pretrained):
    """Channels [N, C] of N neurons in the order they were found. Vectors are of their neuron's norm.

    A channel's tokens are those of the end that the neuron holds more of; `side` is +1 where they are promoted (or
    answered to) and -1 where they are held down. `tokens` and `opposite` [N, C, k] are the nearest ids of both ends.
    """

    kind: ClassVar[str] = "rotate_channels"

    layer: int
    part: Part
    matrix: Matrix
    neurons: tuple[int, ...]
    settings: RotateSettings
    vectors: Float[Tensor, "N C D"]
    directions: Float[Tensor, "N C D"]
    side: Int[Tensor, "N C"]
    tokens: Int[Tensor, "N C k"]
    opposite: Int[Tensor, "N C k"]
    kurtosis: Float[Tensor, "N C"]
    cosine: Float[Tensor, "N C"]
    objective: Float[Tensor, "N C"]
    evidence: Float[Tensor, "N C"]
    p_value: Float[Tensor, "N C"]
    significant: Bool[Tensor, "N C"]
    null_evidence: Float[Tensor, "M n C"]
    provenance: dict[str, Any]

    def row(self, neuron: int) -> int:
        """Where a neuron stands in the tensors. Errors: ShammieError when it was not fitted."""
        if neuron not in self.neurons:
            raise ShammieError(
                f"neuron {neuron} is not among the {len(self.neurons)} of layer {self.layer} that were fitted "
                f"({self.neurons[0]} to {self.neurons[-1]}); fit it first"
            )
        return self.neurons.index(neuron)

    def check_channel(self, channel: int) -> None:
        """Raise ShammieError for a channel that was not looked for."""
        if not 0 <= channel < self.vectors.shape[1]:
            raise ShammieError(
                f"channel {channel} does not exist; each neuron was taken apart into channels 0 to "
                f"{self.vectors.shape[1] - 1}"
            )

    def check_model(self, model: LanguageModel) -> None:
        """Refuse a model with other weights than these channels were found in."""
        check_model(self.provenance, model.hash, model.name)

    def records(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """One plain record a channel; `texts` are those of all token ids."""
        place = {"kind": "channel", "layer": self.layer, "part": self.part}
        return [
            {
                **place,
                "neuron": neuron,
                "channel": channel,
                "tokens": [texts[token] for token in self.tokens[row, channel].tolist()],
                "side": int(self.side[row, channel]),
                "evidence": round(float(self.evidence[row, channel]), 3),
                "p_value": float(f"{float(self.p_value[row, channel]):.3g}"),
                "significant": bool(self.significant[row, channel]),
                "kurtosis": round(float(self.kurtosis[row, channel]), 3),
                "cosine": round(float(self.cosine[row, channel]), 4),
                "objective": round(float(self.objective[row, channel]), 4),
                "opposite": [texts[token] for token in self.opposite[row, channel].tolist()],
            }
            for row, neuron in enumerate(self.neurons)
            for channel in range(self.vectors.shape[1])
        ]
