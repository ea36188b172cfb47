"""Training loops that a kill cannot harm: settings, schedules, batch plans and one resumable iterator of steps.

The step itself is the room's. Everything random in a step, its examples included, is a pure function of seed, step and
process, so that a checkpoint holds no sampler, loader or generator and a resumed run equals one left alone.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from shammie.core import files
from shammie.core.errors import BackendError, DataError, MismatchError, NonFiniteError, RunError, ShammieError
from shammie.core.plain import differences, to_plain

METRICS, STATE, WEIGHTS, OPTIMIZER = "metrics.jsonl", "state.json", "model.safetensors", "optimizer.safetensors"
_FORMAT = 1
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_KINDS = {"schedule": ("constant", "linear", "cosine"), "precision": tuple(_DTYPES)}
_ORDER, _DRAWS = 0, 1  # keep the seeds of the shuffles apart from those of the steps


@dataclass(frozen=True)
class TrainSettings:
    """How to train; what the loss is belongs to the room."""

    steps: int = 1000
    """Optimizer steps."""
    batch_size: int = 16
    """Examples a step, over all processes and pieces."""
    learning_rate: float = 1e-4
    """Learning rate after the warm-up."""
    warmup: float = 0.0
    """Steps of linear warm-up; below 1 a fraction of all steps."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls after the warm-up."""
    floor: float = 0.0
    """Fraction of the learning rate that the schedule falls to."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the two moments."""
    weight_decay: float = 0.0
    """AdamW's decay of matrices; embeddings, biases and norms never decay."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient; 0 clips nothing."""
    accumulation: int = 1
    """Pieces that a process cuts its share of a batch into, to save memory; the gradient stays the same."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """What forward passes compute in; weights and updates stay in float32."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""
    keep_checkpoints: int = 1
    """Newest checkpoints to keep."""
    seed: int = 0
    """Seed of the order of examples and of all draws."""

    def __post_init__(self) -> None:
        lowest = dict.fromkeys(("steps", "batch_size", "accumulation", "checkpoint_every", "keep_checkpoints"), 1)
        lowest |= dict.fromkeys(("learning_rate", "warmup", "floor", "weight_decay", "gradient_clip", "seed"), 0)
        highest = {"warmup": self.steps, "floor": 1}
        for name, low in lowest.items():
            value, high = getattr(self, name), highest.get(name, math.inf)
            if not (low <= value <= high and math.isfinite(value)):
                limits = f"at least {low}" if high == math.inf else f"between {low} and {high}"
                raise ShammieError(f"{name} must be {limits} and finite, but is {value}")
        for name, known in _KINDS.items():
            if getattr(self, name) not in known:
                raise ShammieError(f"{name} must be one of {', '.join(known)}, but is {getattr(self, name)!r}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ShammieError(f"betas must lie in [0, 1), but are {self.betas}")
        _piece_size(self, 1)


def _piece_size(settings: TrainSettings, processes: int) -> int:
    pieces = settings.accumulation * processes
    if settings.batch_size % pieces:
        cuts = f"{settings.accumulation} pieces on each of {processes} processes"
        raise ShammieError(f"batch_size {settings.batch_size} cannot be cut evenly into {cuts}; change one of them")
    return settings.batch_size // pieces


def schedule_factor(step: int, settings: TrainSettings) -> float:
    """What the learning rate is multiplied by in `step`, counted from 0; no step has rate 0."""
    warmup = settings.warmup if settings.warmup >= 1 else settings.warmup * settings.steps
    if step + 1 < warmup:
        return (step + 1) / warmup
    if settings.schedule == "constant":
        return 1.0
    done = max(0.0, step - warmup) / max(1.0, settings.steps - warmup)
    left = 1 - done if settings.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return settings.floor + (1 - settings.floor) * left


def optimizer_groups(
    module: nn.Module, weight_decay: float, *, decay_embeddings: bool = False
) -> list[dict[str, Any]]:
    """Parameter groups of what is trainable: matrices decay; biases, norms and embeddings (tied ones too) do not."""
    kinds = (nn.LayerNorm,) if decay_embeddings else (nn.LayerNorm, nn.Embedding, nn.EmbeddingBag)
    spared = {id(p) for owner in module.modules() if isinstance(owner, kinds) for p in owner.parameters(recurse=False)}
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            decay = 0.0 if parameter.ndim < 2 or id(parameter) in spared else weight_decay
            groups.setdefault(decay, []).append(parameter)
    return [{"params": parameters, "weight_decay": decay} for decay, parameters in groups.items()]


def batch_plan(
    items: int, settings: TrainSettings, process: int = 0, processes: int = 1
) -> Callable[[int], list[int]]:
    """Which examples a process takes in a step: its share of an endless row of epochs, each shuffled anew."""
    share = _piece_size(settings, processes) * settings.accumulation

    @lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.random.default_rng((_ORDER, settings.seed, epoch)).permutation(items)

    def plan(step: int) -> list[int]:
        first = step * settings.batch_size + process * share
        return [int(order(place // items)[place % items]) for place in range(first, first + share)] if items else []

    return plan


@dataclass(frozen=True)
class Step:
    """An optimizer step: `number` from 0, this process's examples cut into pieces, and the seed of its draws."""

    number: int
    pieces: tuple[list[int], ...]
    seed: int

    @property
    def indices(self) -> list[int]:
        """This process's examples of the whole step."""
        return [index for piece in self.pieces for index in piece]


def _processes() -> Any:
    """Accelerate's view of the launched processes.

    Its Accelerator is left aside: one a process fixes the precision for good, `prepare` averages gradients by process
    and only through the wrapped forward, which rooms that call parts of a model go round, and `save_state` pickles
    optimizer, schedule and generators.
    """
    try:
        from accelerate import PartialState
        from accelerate.utils import parse_flag_from_env
    except ImportError:
        raise BackendError("training needs accelerate, which is not installed; pip install 'shammie[train]'") from None
    for engine in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        if parse_flag_from_env(f"ACCELERATE_USE_{engine}"):
            raise BackendError(f"training cannot shard a model through {engine}; launch it with plain data parallelism")
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


@contextmanager
def _borrowed(root: nn.Module, device: torch.device) -> Iterator[None]:
    """Put the model into training mode; give modes, gradients and the global random generators back afterwards."""
    modes = [(module, module.training) for module in root.modules()]
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            root.zero_grad()
            yield root.train() and None
        finally:
            root.zero_grad()
            for module, mode in modes:
                module.training = mode
            random.setstate(states[0])
            np.random.set_state(states[1])


class Training:
    """Trains modules in `directory`, which holds `metrics.jsonl` (a line a step) and the newest checkpoints.

    `with Training(...) as training: for step in training:` yields the unfinished steps. The body calls `backward` any
    number of times; after it the update, the metrics and, when due, a checkpoint follow.

    Args:
        directory: of this training alone.
        modules: what is trained, or several by name; persistent buffers are kept with the trainable weights.
        settings: must be the same again on resume.
        items: examples to plan batches of; 0 for a room that makes its own data from `step.seed`.
        optimizer: AdamW over `optimizer_groups` unless given.
        resume: go on from the newest checkpoint, if there is one.
    """

    def __init__(
        self,
        directory: files.PathLike,
        modules: nn.Module | Mapping[str, nn.Module],
        settings: TrainSettings,
        *,
        items: int = 0,
        optimizer: torch.optim.Optimizer | None = None,
        resume: bool = False,
    ) -> None:
        self.directory, self.settings = Path(directory), settings
        self._root = modules if isinstance(modules, nn.Module) else nn.ModuleDict(modules)
        self._names = {p: name for name, p in self._root.named_parameters() if p.requires_grad}
        if not self._names:
            raise ShammieError("the model has no trainable weight; unfreeze what is to be trained")
        for parameter, name in self._names.items():
            if parameter.dtype in (torch.float16, torch.bfloat16):
                kind = str(parameter.dtype).removeprefix("torch.")
                raise ShammieError(f"weight {name} is {kind}, which rounds updates away; load the model in float32")
        self._processes = _processes()
        self._main, self._world = self._processes.is_main_process, self._processes.num_processes
        if self._world > 1:
            self._root.to(self._processes.device)
        self.device = next(iter(self._names)).device
        self._scaler = None
        if settings.precision == "float16":
            if self.device.type != "cuda":
                raise ShammieError(f"float16 trains on CUDA alone, not on {self.device}; choose bfloat16 or float32")
            self._scaler = torch.amp.GradScaler("cuda")
        self._piece = _piece_size(settings, self._world)
        self._plan = batch_plan(items, settings, self._processes.process_index, self._world)
        self.optimizer = optimizer or torch.optim.AdamW(
            optimizer_groups(self._root, settings.weight_decay),
            settings.learning_rate,
            betas=settings.betas,
            fused=self.device.type in ("cpu", "cuda"),
        )
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        self._identity = files.parse_json(files.to_json({**to_plain(settings), "items": items}, "settings"), STATE)
        self._resume, self.done, self.stopped = resume, 0, False
        self._lines: list[str] = []
        self._written, self._flushed = 0, time.monotonic()
        self._clear()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            if self._main:
                stack.enter_context(files.lock(self.directory / ".lock"))
                for torn in (*self.directory.glob(".*.tmp"),):
                    shutil.rmtree(torn)
            self._processes.wait_for_everyone()
            self._restore()
            if self._main:
                self._written = files.append(self.directory / METRICS, b"", at=self._written)
            if self._world > 1:
                for tensor in self._weights().values():
                    torch.distributed.broadcast(tensor.detach(), 0)
            stack.enter_context(_borrowed(self._root, self.device))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._stack:
            with suppress(RunError):
                self._flush()
            if kind is None:
                self._processes.wait_for_everyone()

    def __iter__(self) -> Iterator[Step]:
        """Yield the steps that are left, under a progress bar."""
        from tqdm import tqdm

        total, every = self.settings.steps, self.settings.checkpoint_every
        silent = None if self._main else True
        with tqdm(desc="training", total=total, initial=self.done, unit="step", disable=silent) as bar:
            while self.done < total and not self.stopped:
                entropy = (_DRAWS, self.settings.seed, self.done, self._processes.process_index)
                seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
                for sow in (random.seed, np.random.seed, torch.manual_seed):
                    sow(seed)
                rows, size = self._plan(self.done), self._piece
                pieces = tuple(rows[i * size : (i + 1) * size] for i in range(self.settings.accumulation))
                yield Step(self.done, pieces, seed)
                loss = self._update()
                self.done += 1
                if self.done % every == 0 or self.done == total or self.stopped:
                    self._checkpoint()
                bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
                bar.update()

    def autocast(self) -> torch.autocast:
        """The settings' precision, for a forward pass and its loss; backward belongs outside."""
        dtype = _DTYPES[self.settings.precision]
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def backward(self, loss: Float[Tensor, ""], weight: float | Tensor = 1.0) -> None:
        """Add the gradient of a SUM of losses and the weight (such as the number of tokens) it is to be divided by.

        The update is that of all sums of the step over all their weights, however they fall on pieces and processes.
        """
        # In float16 a sum over thousands of tokens overflows, so it is divided by the first weight until the update.
        self._unit = torch.as_tensor(weight).detach().clamp(min=1) if self._unit is None else self._unit
        self._losses.append(loss.detach())
        self._weighed.append(weight)
        if loss.requires_grad:
            part = loss / self._unit.to(loss.device)
            (self._scaler.scale(part) if self._scaler else part).backward()

    def log(self, values: Mapping[str, Any]) -> None:
        """Add numbers of this step to its line of metrics, beside loss, learning_rate and gradient_norm."""
        self._values |= {key: value.item() if hasattr(value, "item") else value for key, value in values.items()}

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes, such as counts of a step."""
        from accelerate.utils import reduce

        return reduce(tensor, "sum")

    def stop(self) -> None:
        """End the training with this step; a resumed run stays ended."""
        self.stopped = True

    def _clear(self) -> None:
        self._losses: list[Tensor] = []
        self._weighed: list[float | Tensor] = []
        self._values: dict[str, Any] = {}
        self._unit: Tensor | None = None
