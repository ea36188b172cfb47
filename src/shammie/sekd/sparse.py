"""What a teacher says at each position, on few classes: counts of sampled tokens, ragged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class SparseTargets:
    """Counts of sampled classes at N positions; those of position i stand at offsets[i]:offsets[i + 1], ids rising."""

    offsets: Int[Tensor, " N_and_1"]
    ids: Int[Tensor, " n"]
    counts: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def rows(self) -> Int[Tensor, " n"]:
        """The position of each entry."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.offsets.device), self.offsets.diff())

    def take(self, which: Int[Tensor, " k"]) -> SparseTargets:
        """Some positions, in the given order."""
        sizes = self.offsets.diff()[which]
        offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        start = torch.repeat_interleave(self.offsets[which] - offsets[:-1], sizes)
        entries = start + torch.arange(int(offsets[-1]), device=start.device)
        return SparseTargets(offsets, self.ids[entries], self.counts[entries])

    def to(self, device: torch.device) -> SparseTargets:
        """The same on a device."""
        return SparseTargets(self.offsets.to(device), self.ids.to(device), self.counts.to(device))


def join(parts: Sequence[SparseTargets]) -> SparseTargets:
    """The positions of several, one after another."""
    sizes = torch.cat([part.offsets.diff() for part in parts])
    offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    return SparseTargets(offsets, torch.cat([part.ids for part in parts]), torch.cat([part.counts for part in parts]))


def sample_classes(log_probs: Tensor, draws: int, generator: torch.Generator) -> SparseTargets:
    """RS-KD: `draws` classes of each position with replacement from log_probs [N, V], as counts (2503.16870)."""
    # The running sum is double: in float32 it would lose tail classes of a large vocabulary.
    below = log_probs.double().exp().cumsum(-1)
    levels = torch.rand(len(below), draws, dtype=torch.float64, generator=generator).to(below.device).sort(-1).values
    drawn = torch.searchsorted(below, levels * below[:, -1:], right=True).clamp(max=below.shape[-1] - 1)
    first = torch.ones_like(drawn, dtype=torch.bool)
    first[:, 1:] = drawn[:, 1:] != drawn[:, :-1]
    starts = first.flatten().nonzero()[:, 0]
    ends = torch.cat([starts[1:], starts.new_tensor([drawn.numel()])])
    sizes = first.sum(-1)
    offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    return SparseTargets(offsets, drawn.flatten()[starts], ends - starts)
