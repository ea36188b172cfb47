"""The loop: batches from any source, steps that a kill cannot harm, and a plain checkpoint at the end."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from shammie.core import files
from shammie.core.errors import BackendError, ShammieError
from shammie.core.model import LanguageModel, quiet
from shammie.core.schedule import TrainSettings
from shammie.core.shard import whole
from shammie.core.train import Training
from shammie.sekd.distill import Distiller, Examples

Source = Callable[[Sequence[int], int], Examples]
"""Examples of some windows in a step; one that samples from the student makes training on-policy."""

Tracker = Callable[[dict[str, Any], int], None]
"""Takes the numbers of a step as they are made; `open_tracker` gives those that accelerate knows."""


def open_tracker(name: str, directory: Path) -> Tracker:
    """A tracker by accelerate's name for it, such as tensorboard, wandb or trackio; its files go to `directory`.

    Errors: ShammieError for a name that accelerate does not know, BackendError where the tracker's package is missing.
    """
    known = files.package("accelerate.tracking", "sekd").LOGGER_TYPE_TO_CLASS
    if name not in known:
        raise ShammieError(f"--tracker {name!r} is not one that accelerate knows: {', '.join(known)}")
    kind = known[name]
    try:
        made = kind("sekd", str(directory)) if kind.requires_logging_directory else kind("sekd")
        made.start()
    except ImportError:
        raise BackendError(f"--tracker {name} needs a package that is not installed; pip install {name}") from None
    return lambda values, step: made.log(values, step=step)


def train(
    distiller: Distiller,
    source: Source,
    items: int,
    settings: TrainSettings,
    directory: Path,
    *,
    resume: bool = False,
    tracker: Tracker | None = None,
) -> None:
    """Distil into the student in place; `directory` holds metrics.jsonl and checkpoints.

    The loss of a step is the sum of all its weighted losses over all its weights, however they fall on pieces and processes.
    Errors: RunError where `directory` holds another training; NonFiniteError for a loss that is not finite.
    """
    with Training(directory, distiller, settings, items, resume=resume) as training:
        for step in training:
            generator = torch.Generator().manual_seed(step.seed)
            read, scores, losses = 0, [], []
            for piece in step.pieces:
                with training.autocast():
                    found = distiller(source(piece, step.number), step.number, generator)
                training.backward(found.sum, found.weight)
                losses.append((found.sum.detach(), found.weight))
                read += found.positions
                scores.append((found.score, found.chosen_score))
            values = {"positions": read, **_means(scores)}
            training.log(values)
            if tracker is not None:
                tracker(
                    {"loss": float(sum(total for total, _ in losses)) / sum(weight for _, weight in losses), **values},
                    step.number,
                )


def _means(scores: Sequence[tuple[float | None, float | None]]) -> dict[str, float]:
    known = [pair for pair in scores if pair[0] is not None and pair[1] is not None]
    columns = zip(("score", "chosen_score"), zip(*known, strict=True), strict=True) if known else ()
    return {name: sum(values) / len(values) for name, values in columns}


@contextmanager
def trainable(
    model: LanguageModel, *, lora_rank: int = 0, checkpointing: bool = False, seed: int = 0
) -> Iterator[None]:
    """Make the student trainable: all weights, or adapters of a rank on every matrix inside its layers, merged at the end."""
    module = model.module
    if not lora_rank and module.dtype != torch.float32:
        raise ShammieError(
            f"{model.name} is loaded in {module.dtype}, which rounds updates away; load the student in float32"
        )
    frozen = {parameter: parameter.requires_grad for parameter in module.parameters()}
    module.requires_grad_(not lora_rank)
    if checkpointing:
        with _older_names():
            module.gradient_checkpointing_enable({"use_reentrant": False})
    adapted = _adapted(model, lora_rank, seed) if lora_rank else None
    try:
        yield
    finally:
        if adapted is not None:
            adapted.merge_and_unload()
        if checkpointing:
            with _older_names():
                module.gradient_checkpointing_disable()
        for parameter, before in frozen.items():
            parameter.requires_grad_(before)


@contextmanager
def _older_names() -> Iterator[None]:
    """Names that all of transformers 5 knows, which its later versions and peft warn of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _adapted(model: LanguageModel, rank: int, seed: int) -> Any:
    peft = files.package("peft", "train")
    family = model.anatomy.family
    stem = f"{family.body}.{family.layers}."
    names = [
        name
        for name, module in model.module.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith(stem)
    ]
    if not names:
        raise ShammieError(f"{model.name} has no linear layers under {stem[:-1]}; train it in full")
    with _older_names():
        config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names, bias="none")
        adapted = peft.get_peft_model(model.module, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_A" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[1] ** -0.5)
    return adapted


def save_student(model: LanguageModel, directory: Path, *, overwrite: bool = False) -> None:
    """Write a plain Hugging Face checkpoint, whole or not at all; of a sharded training every process must call it."""
    module = model.module
    once, every = (dict(module.named_parameters(remove_duplicate=flag)).keys() for flag in (True, False))
    weights = {name: whole(tensor) for name, tensor in module.state_dict().items() if name not in every - once}
    if torch.distributed.is_initialized() and torch.distributed.get_rank() > 0:
        return
    with files.atomic_directory(directory, overwrite=overwrite) as place, quiet():
        module.save_pretrained(place, state_dict=weights)
        model.tokenizer.save_pretrained(place)
