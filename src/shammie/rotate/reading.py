"""What a layer's neurons do over text: the ground that descriptions read off the weights are checked on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shammie.core.batch import encode
from shammie.core.harvest import stream
from shammie.core.model import LanguageModel
from shammie.core.position import Span
from shammie.core.site import mlp_in, neurons


@dataclass(frozen=True, eq=False)
class Reading:
    """Positions T of a corpus, without first tokens (attention sinks) and without last ones (nothing follows).

    `current` and `following` are token ids, `text` and `position` say where; `states` is the MLP's input, `activity` the
    neurons' output, after the gate.
    """

    current: Int[Tensor, " T"]
    following: Int[Tensor, " T"]
    text: Int[Tensor, " T"]
    position: Int[Tensor, " T"]
    states: Float[Tensor, "T D"]
    activity: Float[Tensor, "T N"]

    def part(self, chosen: Tensor) -> Reading:
        """These positions alone."""
        return Reading(**{name: values[chosen] for name, values in vars(self).items()})


def read(
    model: LanguageModel, layer: int, chosen: Sequence[int], texts: Sequence[str], *, max_tokens: int = 64
) -> Reading:
    """The positions of texts cut after `max_tokens`, with the activity of the chosen neurons, in float32 on the CPU."""
    ids = [encode(model, text)[:max_tokens] for text in texts]
    kept = [index for index, tokens in enumerate(ids) if len(tokens) > 2]
    sites = (mlp_in(layer), neurons(layer))
    rows: dict[str, list[Tensor]] = {"text": [], "position": [], "states": [], "activity": []}
    batches = stream(model, [texts[i] for i in kept], sites, positions=Span(1, None), max_tokens=max_tokens)
    for seen in batches:
        lengths = torch.tensor([len(ids[kept[row]]) for row in seen.row.tolist()])
        inner = seen.position.cpu() < lengths - 1
        rows["text"].append(seen.row.cpu()[inner])
        rows["position"].append(seen.position.cpu()[inner])
        rows["states"].append(seen[sites[0]].float().cpu()[inner])
        rows["activity"].append(seen[sites[1]][:, list(chosen)].float().cpu()[inner])
    table = {name: torch.cat(values) for name, values in rows.items()}
    places = list(zip(table["text"].tolist(), table["position"].tolist(), strict=True))
    current = torch.tensor([ids[kept[text]][position] for text, position in places])
    following = torch.tensor([ids[kept[text]][position + 1] for text, position in places])
    return Reading(current, following, **table)
