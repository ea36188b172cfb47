"""Fits on several processes: each reads its share of the blocks, and sums are shared."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from shammie.core.errors import BackendError

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among those that accelerate or torchrun launched."""

    rank: int = 0
    world: int = 1

    @classmethod
    def launched(cls) -> Processes:
        """One process alone unless a launcher says otherwise."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        try:
            from accelerate import PartialState
        except ImportError:
            raise BackendError(
                "several processes need accelerate, which is not installed; pip install 'shammie[train]'"
            ) from None
        state = PartialState(cpu=not torch.accelerator.is_available())
        return cls(state.process_index, state.num_processes)

    def share(self, items: Iterable[T]) -> Iterator[T]:
        """Every world-th item."""
        return (item for number, item in enumerate(items) if number % self.world == self.rank)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.world > 1:
            torch.distributed.all_reduce(tensor)
        return tensor
