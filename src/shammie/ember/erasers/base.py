"""What erasers share: their interface, the texts they see, the weights they may change, and training that ends in a patch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shammie.core.anatomy import WeightSlice
from shammie.core.batch import encode, pad
from shammie.core.errors import SiteError
from shammie.core.model import LanguageModel
from shammie.core.patch import WeightPatch, dense
from shammie.core.schedule import TrainSettings
from shammie.core.train import Training, batch_plan, borrowed
from shammie.ember.pack import ConceptPack

MAX_TOKENS = 64  # of a sentence


class Eraser(Protocol):
    """An erasing method with its settings; all of them give a patch for the weights now in force."""

    @classmethod
    def grid(cls) -> list[Self]:
        """Settings to choose among on the validation split, the likeliest first; as many for every method."""
        ...

    def erase(
        self, model: LanguageModel, pack: ConceptPack, directory: Path, seed: int, *, resume: bool
    ) -> WeightPatch:
        """Leave the model as it was and return what erases the concept; `directory` is for checkpoints of training."""
        ...


@dataclass(frozen=True)
class Sides:
    """Token ids of the concept's and of the neutral sentences, each cut after 64 tokens."""

    forget: list[list[int]]
    retain: list[list[int]]

    @classmethod
    def of(cls, model: LanguageModel, pack: ConceptPack) -> Sides:
        """Encode a pack's sentences; those of one token alone are left out."""
        sides = [
            [ids for text in texts if len(ids := encode(model, text)[:MAX_TOKENS]) > 1]
            for texts in (pack.concept_sentences, pack.neutral_sentences)
        ]
        return cls(*sides)

    def partner(self, index: int) -> int:
        """The retain sentence that a forget sentence is trained beside."""
        return index % len(self.retain)

    def met(self, settings: TrainSettings) -> list[int]:
        """The forget sentences that a training of these settings meets, in order of number; a short one meets few."""
        plan = batch_plan(len(self.forget), settings)
        return sorted({index for step in range(settings.steps) for index in plan(step)})


def weight_names(model: LanguageModel, modules: Sequence[str], layers: Sequence[int] | None = None) -> list[str]:
    """Matrices by name: those whose path holds one of `modules` as a part, in all layers or the given ones.

    Errors: SiteError for a module that no such layer has.
    """
    for layer in layers or ():
        model.anatomy.check_layer(layer)
    family = model.anatomy.family
    chosen = range(len(model.anatomy.layers)) if layers is None else layers
    stems = tuple(f"{family.body}.{family.layers}.{layer}." for layer in chosen)
    inside = [n for n, p in model.module.named_parameters() if n.startswith(stems) and p.ndim >= 2]
    for module in modules:
        if not any(module in name.split(".") for name in inside):
            known = sorted({part for name in inside for part in name.split(".")[len(stems[0].split(".")) - 1 : -1]})
            raise SiteError(f"no layer of {model.name} has a module {module!r}; it has {', '.join(known)}")
    return [name for name in inside if set(modules) & set(name.split("."))]


Loss = Callable[[Training, list[int]], None]


def trained_patch(
    model: LanguageModel, names: Sequence[str], settings: TrainSettings, items: int, loss: Loss, directory: Path,
    *, resume: bool, **provenance: Any,
) -> WeightPatch:  # fmt: skip
    """Train the named weights; `loss(training, indices)` calls `backward` for a piece of a batch of sentences."""
    with borrowed(model.module, names) as former:
        with Training(directory, model.module, settings, items, resume=resume) as training:
            for step in training:
                for piece in step.pieces:
                    loss(training, piece)
        now = dict(model.module.named_parameters())
        deltas = [dense(WeightSlice(name), now[name].detach() - former[name]) for name in names]
    return WeightPatch.make(model, deltas, **provenance)


def token_log_probabilities(
    model: LanguageModel, sequences: Sequence[Sequence[int]]
) -> tuple[Float[Tensor, " N"], Int[Tensor, " N"]]:
    """Log p of each token after the first, with its sequence's number; gradients flow."""
    logits, targets, row = next_token_logits(model, sequences)
    return logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0], row


def next_token_logits(
    model: LanguageModel, sequences: Sequence[Sequence[int]]
) -> tuple[Float[Tensor, "N V"], Int[Tensor, " N"], Int[Tensor, " N"]]:
    """Float32 logits at every token but each sequence's last, what came next, and the sequence's number."""
    batch = pad(sequences, device=model.device)
    states = model.anatomy.body(**batch.inputs(), use_cache=False).last_hidden_state
    here = batch.mask[:, 1:].bool()
    row = torch.arange(len(batch.ids), device=model.device)[:, None].expand_as(here)
    return model.anatomy.unembed(states[:, :-1][here]).float(), batch.ids[:, 1:][here], row[here]
