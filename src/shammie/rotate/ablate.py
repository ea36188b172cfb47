"""`shammie rotate ablate`: a weight patch that removes one channel from one neuron and leaves the rest of it alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from shammie.core.errors import ShammieError
from shammie.core.model import LanguageModel, load
from shammie.core.patch import WeightPatch, rows
from shammie.core.run import read_run
from shammie.core.task import Task
from shammie.core.vocabulary import token_text
from shammie.rotate.channels import Channels
from shammie.rotate.equations import remove
from shammie.rotate.fitting import load_fit
from shammie.rotate.neurons import folded_scale, read_rows, weight_slice

if TYPE_CHECKING:
    from shammie.core.run import Run
    from shammie.rotate.config import Ablate


def ablation(model: LanguageModel, channels: Channels, neuron: int, channel: int) -> Float[Tensor, " D"]:
    """What is added to the neuron's stored row so that its component along the channel is 0.

    Where norms were folded in, the component is that of the folded row, and the change is divided by the scale again.
    Errors: MismatchError for other weights than those the channels were found in.
    """
    channels.check_model(model)
    channels.check_channel(channel)
    row = channels.row(neuron)
    fold = channels.settings.fold_norm
    w = read_rows(model, channels.layer, channels.part, fold_norm=fold)[neuron]
    change = remove(w, channels.vectors[row, channel].to(w)) - w
    scale = folded_scale(model, channels.layer, channels.part, fold)
    return change if scale is None else change / scale


def ablate(model: LanguageModel, channels: Channels, neuron: int, channel: int = 0) -> WeightPatch:
    """The patch that removes one channel from one neuron."""
    target = weight_slice(model, channels.layer, channels.part)
    values = ablation(model, channels, neuron, channel)[None].cpu()
    place = {"layer": channels.layer, "part": channels.part, "neuron": neuron, "channel": channel}
    return WeightPatch.make(model, [rows(target, [neuron], values)], rotate=place)


def prepare_ablate(config: Ablate) -> Task:
    """Load the fit and the model it was made of."""
    fitted = {(channels.layer, channels.part): channels for channels in load_fit(config.fit)}
    if (config.layer, config.part) not in fitted:
        known = ", ".join(f"{layer} {part}" for layer, part in fitted)
        raise ShammieError(f"{config.fit} holds no channels of layer {config.layer} {config.part}; it holds {known}")
    channels = fitted[config.layer, config.part]
    channels.check_channel(config.channel)
    row = channels.row(config.neuron)
    name = config.model or str(read_run(config.fit).config["model"])
    model = load(name, device=config.device, dtype=config.dtype)
    channels.check_model(model)
    tokens = [token_text(model, token) for token in channels.tokens[row, config.channel].tolist()]
    place: dict[str, Any] = {"layer": config.layer, "part": config.part, "neuron": config.neuron}
    place["channel"] = config.channel

    def execute(run: Run) -> int:
        for key in run.items(["patch"], "rotate ablate"):
            patch = ablate(model, channels, config.neuron, config.channel)
            patch.save_pretrained(run.artifacts / "patch", overwrite=True)
            w = read_rows(model, config.layer, config.part, fold_norm=channels.settings.fold_norm)[config.neuron]
            removed = torch.nn.functional.cosine_similarity(w, channels.vectors[row, config.channel].to(w), dim=0)
            share = {"removed_share_of_squared_norm": round(float(removed) ** 2, 4)}
            known = {"evidence": round(float(channels.evidence[row, config.channel]), 3)}
            significant = {"significant": bool(channels.significant[row, config.channel])}
            run.record(key, {"kind": "ablation", **place, **share, **known, **significant, "tokens": tokens})
        return 0

    return Task({"model": model.hash, "fit": channels.provenance}, lambda: {**place, "tokens": tokens}, execute)
