"""Training that a kill cannot harm: plans of batches and one resumable iterator of steps.

The step itself is the room's. All that is random in a step, its examples included, is a function of seed, step and
process: a checkpoint needs no sampler and no generator, and a resumed run equals one that was left alone.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from shammie.core import files
from shammie.core.errors import BackendError, DataError, NonFiniteError, RunError, ShammieError
from shammie.core.plain import differences, to_plain
from shammie.core.schedule import TrainSettings, schedule_factor
from shammie.core.shard import like, shard, whole


def optimizer_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Groups of what is trainable, each weight once: matrices decay; biases, norms and embeddings (tied too) do not."""
    owners = [owner for owner in module.modules() if isinstance(owner, nn.LayerNorm | nn.Embedding)]
    spared = {id(parameter) for owner in owners for parameter in owner.parameters(recurse=False)}
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and id(parameter) not in spared
            groups.setdefault(weight_decay if decays else 0.0, []).append(parameter)
    return [{"params": parameters, "weight_decay": decay} for decay, parameters in groups.items()]


@contextmanager
def borrowed(module: nn.Module, names: Sequence[str] | None) -> Iterator[dict[str, Tensor]]:
    """Make these parameters (None: all) trainable; afterwards values and flags are as they were. Yields former values."""
    parameters = dict(module.named_parameters())
    flags = {name: parameter.requires_grad for name, parameter in parameters.items()}
    trained = parameters if names is None else {name: parameters[name] for name in names}
    former = {name: parameter.detach().clone() for name, parameter in trained.items()}
    try:
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in trained)
        yield former
    finally:
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(former[name])
                parameter.grad = None
        for name, parameter in parameters.items():
            parameter.requires_grad_(flags[name])


def batch_plan(items: int, settings: TrainSettings, process: int = 0, processes: int = 1) -> Callable[[int], list[int]]:
    """Which examples a process takes in a step: its share of an endless row of epochs, each shuffled anew."""
    if settings.batch_size % (processes * settings.accumulation):
        cuts = f"accumulation {settings.accumulation} on {processes} processes"
        raise ShammieError(f"batch_size {settings.batch_size} cannot be cut evenly for {cuts}; change one of them")
    share = settings.batch_size // processes

    @lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray[Any, Any]:
        return np.random.default_rng((0, settings.seed, epoch)).permutation(items)

    def plan(step: int) -> list[int]:
        first = step * settings.batch_size + process * share
        return [int(order(place // items)[place % items]) for place in range(first, first + share)] if items else []

    return plan


def _processes() -> Any:
    """Accelerate's view of the launched processes.

    Of its Accelerator nothing more is used: `save_state` pickles optimizer, schedule and generators; `prepare` averages
    the means of processes, and only through a wrapped forward, which rooms that call parts of a model go round; and one
    instance fixes the precision of the whole Python process.
    """
    accelerate = files.package("accelerate", "train")
    flag = accelerate.utils.parse_flag_from_env
    if flag("ACCELERATE_USE_DEEPSPEED"):
        raise BackendError("training does not run under DeepSpeed; launch it with --use_fsdp or neither")
    return accelerate.PartialState(cpu=flag("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())


@dataclass(frozen=True)
class Step:
    """An optimizer step: `number` from 0, this process's examples cut into pieces, and the seed of its draws."""

    number: int
    pieces: list[list[int]]
    seed: int


@dataclass(eq=False)
class Training:
    """A loop of optimizer steps; `directory` holds its `metrics.jsonl`, a line a step, and the newest checkpoints.

    `with Training(...) as training: for step in training:` yields the steps that are left. The body calls `backward`
    any number of times; after it follow the update, the metrics and, when due, a checkpoint. `modules` is what is
    trained: of it checkpoints hold trainable weights and persistent buffers, so what is frozen must be the same again.
    Batches are planned over `items` examples; with none, rooms draw their own from `step.seed`. The optimizer is AdamW
    over `optimizer_groups` unless one is given. A body that sets `stopped` ends the training with its step.

    Launched with accelerate's --use_fsdp, weights, gradients and moments are spread over the processes, each of which
    must have loaded the same weights. `modules` is then one module, and the body computes its loss by calling it.
    """

    directory: files.PathLike
    modules: nn.Module | Mapping[str, nn.Module]
    settings: TrainSettings
    items: int = 0
    optimizer: torch.optim.Optimizer = None  # type: ignore[assignment] # made below unless given
    resume: bool = False

    def __post_init__(self) -> None:
        settings, processes = self.settings, _processes()
        self._path, self.done, self.stopped = Path(self.directory), 0, False
        self._rank, self._world = processes.process_index, processes.num_processes
        self._wait = processes.wait_for_everyone
        self._plan = batch_plan(self.items, settings, self._rank, self._world)
        self._root = self.modules if isinstance(self.modules, nn.Module) else nn.ModuleDict(self.modules)
        if self._world > 1:
            self._root.to(processes.device)
        self._sharded = self._world > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true")
        if self._sharded:
            shard(self._root, processes.device)
        names = {parameter: name for name, parameter in self._root.named_parameters()}
        self._names = {parameter: name for parameter, name in names.items() if parameter.requires_grad}
        if not self._names:
            raise ShammieError("the model has no trainable weight; unfreeze what is to be trained")
        for parameter, name in self._names.items():
            if parameter.dtype in (torch.float16, torch.bfloat16):
                raise ShammieError(f"{name} is {parameter.dtype}, which rounds updates away; load the model in float32")
        self.device = next(iter(self._names)).device
        if settings.precision == "float16" and (self.device.type != "cuda" or self._sharded):
            raise ShammieError(f"float16 trains unsharded on CUDA, not on {self.device}; choose bfloat16 or float32")
        self._scaler = torch.amp.GradScaler("cuda", enabled=settings.precision == "float16")
        if self.optimizer is None:
            groups, fused = optimizer_groups(self._root, settings.weight_decay), self.device.type in ("cpu", "cuda")
            self.optimizer = torch.optim.AdamW(groups, settings.learning_rate, fused=fused)
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        self._order = [names[p] for group in self.optimizer.param_groups for p in group["params"]]
        shapes = {name: list(tensor.shape) for name, tensor in self._weights().items()}
        self._identity = {"format": 1, **to_plain(settings), "items": self.items, "weight": shapes}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            if self._rank == 0:
                stack.enter_context(files.lock(self._path / ".lock"))
                for torn in self._path.glob(".checkpoint-*.tmp"):
                    shutil.rmtree(torn)
            self._wait()
            self._lines: list[str] = []
            self._written = self._restore()
            self._flush()
            for tensor in self._root.state_dict().values() if self._world > 1 and not self._sharded else ():
                torch.distributed.broadcast(tensor, 0)
            stack.enter_context(torch.random.fork_rng([self.device] if self.device.type == "cuda" else []))
            stack.callback(random.setstate, random.getstate())
            stack.callback(np.random.set_state, np.random.get_state())
            stack.callback(self._root.zero_grad)
            for module in self._root.modules():
                stack.callback(setattr, module, "training", module.training)
            self._root.train().zero_grad()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._stack:
            with suppress(RunError):
                self._flush()
            if kind is None:
                self._wait()

    def __iter__(self) -> Iterator[Step]:
        """Yield the steps that are left, under a progress bar."""
        from tqdm import tqdm

        total, pieces = self.settings.steps, self.settings.accumulation
        size = self.settings.batch_size // (self._world * pieces)
        with tqdm(desc="training", total=total, initial=self.done, unit="step", disable=self._rank > 0 or None) as bar:
            while self.done < total and not self.stopped:
                seed = int(np.random.SeedSequence((1, self.settings.seed, self.done, self._rank)).generate_state(1)[0])
                for sow in (random.seed, np.random.seed, torch.manual_seed):
                    sow(seed)
                self._sums: list[tuple[Tensor, float | Tensor]] = []
                self._unit, self._values = torch.ones(()), dict[str, Any]()
                rows = self._plan(self.done)
                yield Step(self.done, [rows[i * size : (i + 1) * size] for i in range(pieces)], seed)
                bar.set_postfix(loss=self._update(self.done), refresh=False)
                bar.update()
                self.done += 1
                every = self.settings.checkpoint_every
                if every and (self.done % every == 0 or self.done == total or self.stopped):
                    self._checkpoint()

    def autocast(self) -> torch.autocast:
        """The settings' precision, for a forward pass with its loss; `backward` belongs outside."""
        dtype: torch.dtype = getattr(torch, self.settings.precision)
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def backward(self, loss: Float[Tensor, ""], weight: float | Float[Tensor, ""] = 1.0) -> None:
        """Add the gradient of a SUM of losses, and the weight (such as a number of tokens) that it is divided by.

        The update is that of all sums of a step over all their weights, however they fall on pieces and processes.
        """
        if not self._sums and not self._sharded:  # a sum over many tokens overflows float16: divide by the first weight
            self._unit = torch.as_tensor(weight, device=loss.device).detach().clamp(min=1)
        self._sums.append((loss.detach(), weight))
        if loss.requires_grad:
            self._scaler.scale(loss / self._unit).backward()

    def log(self, values: Mapping[str, Any]) -> None:
        """Add numbers to this step's line of metrics; those of the first process count (see `sum`)."""
        self._values |= {key: value.item() if isinstance(value, Tensor) else value for key, value in values.items()}

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        from accelerate.utils import reduce

        return reduce(tensor.to(self.device), "sum") if self._world > 1 else tensor

    def _update(self, number: int) -> float:
        """One optimizer step on the gradient of the whole batch; returns the batch's loss."""
        sums = [[float(value) for value in pair] for pair in self._sums] or [[0.0, 0.0]]
        loss, weight = self.sum(torch.tensor(sums, dtype=torch.float64).sum(0)).tolist()
        if not math.isfinite(loss):
            raise NonFiniteError(f"the loss of step {number} is {loss}; lower the learning rate or mend the data")
        if not 0 < weight < math.inf:
            raise DataError(f"the losses of step {number} have the total weight {weight}; give it something to learn")
        gradients = self._gradients(float(self._unit) / weight)
        self._scaler.unscale_(self.optimizer)
        norm = float(whole(nn.utils.get_total_norm(gradients.values())))
        if not math.isfinite(norm) and not self._scaler.is_enabled():  # a scaler skips the step and halves its scale
            name = next((name for name, gradient in gradients.items() if not gradient.isfinite().all()), "all weights")
            raise NonFiniteError(f"the gradient of {name} in step {number} is not finite; lower the learning rate")
        if 0 < self.settings.gradient_clip < norm < math.inf:
            torch._foreach_mul_(list(gradients.values()), self.settings.gradient_clip / norm)
        factor = schedule_factor(number, self.settings)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self._root.zero_grad()
        line = {"step": number, "loss": loss / weight, "learning_rate": self._rates[0] * factor}
        line |= {"gradient_norm": norm if math.isfinite(norm) else None} | self._values
        self._lines.append(files.to_json(line, f"step {number}") + "\n")
        if time.monotonic() - self._flushed > 1:  # for those who watch; a resumed run cuts off what has no checkpoint
            self._flush()
        return loss / weight

    def _gradients(self, scale: float) -> dict[str, Tensor]:
        """The gradients by name, scaled and summed over processes; zero where only another process has one."""
        if self._world > 1 and not self._sharded:
            used = self.sum(torch.tensor([float(parameter.grad is not None) for parameter in self._names]))
            for parameter, count in zip(self._names, used.tolist(), strict=True):
                parameter.grad = torch.zeros_like(parameter) if count and parameter.grad is None else parameter.grad
        gradients = {name: parameter.grad for parameter, name in self._names.items() if parameter.grad is not None}
        if gradients:
            torch._foreach_mul_(list(gradients.values()), scale)
        for gradient in gradients.values() if self._world > 1 and not self._sharded else ():
            torch.distributed.all_reduce(gradient)
        return gradients

    def _weights(self) -> dict[str, Tensor]:
        """What a checkpoint holds of the modules, read anew because rooms may replace a buffer."""
        persistent = self._root.state_dict().keys()
        buffers = {name: buffer for name, buffer in self._root.named_buffers() if name in persistent}
        return {name: parameter.detach() for parameter, name in self._names.items()} | buffers

    def _flush(self) -> None:
        if self._rank == 0:
            data = files.encode("".join(self._lines))
            self._written = files.append(self._path / "metrics.jsonl", data, at=self._written)
        self._lines, self._flushed = [], time.monotonic()

    def _checkpoint(self) -> None:
        """Write a checkpoint whole or not at all, then drop the oldest."""
        self._flush()
        entries = self.optimizer.state_dict()["state"].items()
        flat = {f"{self._order[i]}.{key}": value for i, entry in entries for key, value in entry.items()}
        tensors = {key: whole(value) for key, value in flat.items() if isinstance(value, Tensor)}
        weights = {name: whole(tensor) for name, tensor in self._weights().items()}
        if self._rank > 0:
            return
        state = {"identity": self._identity, "done": self.done, "stopped": self.stopped, "metrics": self._written}
        state |= {"scaler": self._scaler.state_dict(), "optimizer": {k: v for k, v in flat.items() if k not in tensors}}
        with files.atomic_directory(self._path / f"checkpoint-{self.done:08}") as temporary:
            files.save_tensors(temporary / "model.safetensors", weights)
            files.save_tensors(temporary / "optimizer.safetensors", tensors)
            files.write_json(temporary / "state.json", state)
        for old in sorted(self._path.glob("checkpoint-*"))[: -self.settings.keep_checkpoints]:
            shutil.rmtree(old.rename(self._path / f".{old.name}.tmp"))

    def _restore(self) -> int:
        """Load the newest checkpoint, if there is one, and return the length of the metrics up to it."""
        found = sorted(self._path.glob("checkpoint-*"))
        if not self.resume and self._rank == 0 and (found or (self._path / "metrics.jsonl").exists()):
            raise RunError(f"{self._path} already holds a training; add --resume or choose another --output-dir")
        if not found:
            return 0
        state = files.read_json(found[-1] / "state.json")
        for name, before, now in differences(state["identity"], self._identity):
            remedy = "repeat its settings or choose another --output-dir"
            raise RunError(f"{self._path} holds a training whose {name} is {before!r}, not {now!r}; {remedy}")
        stored = files.load_tensors(found[-1] / "model.safetensors")
        for name, tensor in self._weights().items():
            tensor.copy_(like(stored[name], tensor))
        parameters = {name: parameter for parameter, name in self._names.items()}
        entries: dict[int, dict[str, Any]] = {}
        for key, value in (state["optimizer"] | files.load_tensors(found[-1] / "optimizer.safetensors")).items():
            name, _, part = key.rpartition(".")
            spread = like(value, parameters[name]) if isinstance(value, Tensor) else value
            entries.setdefault(self._order.index(name), {})[part] = spread
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": entries})
        self._scaler.load_state_dict(state["scaler"])
        self.done, self.stopped = state["done"], state["stopped"]
        return state["metrics"]
