"""The relearning attack: fine-tune on paragraphs about the concept, and ask again along the way."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from shammie.core import files
from shammie.core.batch import encode
from shammie.core.errors import DataError
from shammie.core.model import LanguageModel
from shammie.core.schedule import TrainSettings
from shammie.core.train import Training, borrowed
from shammie.ember.erasers.base import token_log_probabilities
from shammie.ember.pack import ConceptPack
from shammie.ember.settings import Adaptation, RelearnSettings


def attack_paragraphs(pack: ConceptPack, settings: RelearnSettings) -> list[str]:
    """The paragraphs of the attack. Errors: DataError where all share sentences with the erasure."""
    texts = list(pack.relearning) if settings.overlapping else pack.fresh_paragraphs()
    if not texts:
        raise DataError(
            f"every relearning paragraph of {pack.concept!r} shares a sentence with the erasure's; add others or pass "
            "--overlapping"
        )
    return texts[: settings.paragraphs]


def relearn(
    model: LanguageModel, pack: ConceptPack, kind: Adaptation, settings: RelearnSettings, directory: Path, seed: int,
    probe: Callable[[int], None],
) -> None:  # fmt: skip
    """Train on the paragraphs and call `probe(step)` at points evenly along the way; the model is left as it was."""
    sequences = [encode(model, text)[: settings.max_tokens] for text in attack_paragraphs(pack, settings)]
    steps = -(-len(sequences) * settings.epochs // settings.batch_size)
    rate = settings.learning_rate if kind == "full" else settings.lora_learning_rate
    train = TrainSettings(
        steps=steps,
        batch_size=settings.batch_size,
        learning_rate=rate,
        weight_decay=0.01,
        precision=settings.precision,
        seed=seed,
        checkpoint_every=0,
    )
    due = {round(steps * point / settings.points) for point in range(1, settings.points + 1)}
    with _trainable(model, kind, settings.rank, seed):
        with Training(directory, model.module, train, len(sequences)) as training:
            for step in training:
                if step.number in due:  # what the steps before this one have taught
                    _probed(model, probe, step.number)
                for piece in step.pieces:
                    with training.autocast():
                        log_p, _ = token_log_probabilities(model, [sequences[i] for i in piece])
                    training.backward(-log_p.sum(), len(log_p))
        _probed(model, probe, steps)


def _probed(model: LanguageModel, probe: Callable[[int], None], step: int) -> None:
    training = model.module.training
    model.module.eval()
    probe(step)
    model.module.train(training)


@contextmanager
def _trainable(model: LanguageModel, kind: Adaptation, rank: int, seed: int) -> Iterator[None]:
    if kind == "full":
        with borrowed(model.module, None):
            yield
        return
    peft = files.package("peft", "train")
    with borrowed(model.module, []):
        with warnings.catch_warnings():  # peft still asks transformers for things by their old names
            warnings.simplefilter("ignore", FutureWarning)
            adapted = peft.get_peft_model(
                model.module, peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=_linear_names(model), bias="none")
            )
        try:
            _draw(adapted, seed)
            yield
        finally:
            adapted.unload()


def _linear_names(model: LanguageModel) -> list[str]:
    """Every matrix inside the layers, by its path."""
    family = model.anatomy.family
    stem = f"{family.body}.{family.layers}."
    linear = (nn.Linear, *(kind for kind in (_conv1d(),) if kind))
    return [
        name for name, module in model.module.named_modules() if name.startswith(stem) and isinstance(module, linear)
    ]


def _conv1d() -> Any:
    from transformers.pytorch_utils import Conv1D

    return Conv1D


def _draw(adapted: Any, seed: int) -> None:
    """Draw the adapters' first factors from the attack's own seed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_A" in name:
                bound = parameter.shape[1] ** -0.5
                parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))
