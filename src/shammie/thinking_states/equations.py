"""Every equation of the room, on tensors alone. Sources: Thinking States, arXiv 2602.08332 (sections 3.1 to 3.3).

B rows, T positions, K chunks of a row, N chunks of a batch, C slots of a chunk, M tokens of a thought, D model width.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def chunk_counts(lengths: Int[Tensor, " B"], chunk: int) -> Int[Tensor, " B"]:
    """Chunks of each question; the last one may be partial."""
    return (lengths + chunk - 1) // chunk


def places(
    lengths: Int[Tensor, " B"], start: Int[Tensor, " B"], chunk: int, positions: int
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """(chunk, slot) of each of `positions` tokens from token `start` on: whose state is added there, and which vector of it.

    A question's token belongs to the chunk that it lies in. What comes after the question gets the state after the last chunk, a
    vector a token, as long as there are vectors; then the chunk is -1.
    """
    token = start[:, None] + torch.arange(positions, device=lengths.device)
    after = token - lengths[:, None]
    inside = after < 0
    number = torch.where(inside, token // chunk, chunk_counts(lengths, chunk)[:, None])
    slot = torch.where(inside, token % chunk, after)
    return torch.where(slot < chunk, number, -1), slot.clamp(max=chunk - 1)


def added(
    states: Float[Tensor, "B K C D"], number: Int[Tensor, "B T"], slot: Int[Tensor, "B T"]
) -> Float[Tensor, "B T D"]:
    """What is added at each token: its chunk's vector for its slot, nothing where the chunk is -1 (paper: X + S)."""
    rows = torch.arange(len(states), device=states.device)[:, None]
    return states[rows, number.clamp(min=0), slot] * (number >= 0)[..., None]


def chunk_states(
    hidden: Float[Tensor, "B T D"], row: Int[Tensor, " N"], first: Int[Tensor, " N"], size: Int[Tensor, " N"], chunk: int
) -> tuple[Float[Tensor, "N C D"], Bool[Tensor, "N C"]]:  # fmt: skip
    """The states of some chunks, and which slots are filled (paper: H). Empty slots hold the chunk's last state and are masked."""
    slot = torch.arange(chunk, device=hidden.device)
    filled = slot < size[:, None]
    token = first[:, None] + slot.minimum((size - 1)[:, None])
    return hidden[row[:, None], token], filled


def thinking_mask(filled: Bool[Tensor, "N C"], tokens: int) -> Bool[Tensor, "N 1 S S"]:
    """Who sees whom in the thinking block: each what stands before it, empty slots nobody but themselves. S = C + tokens."""
    total = filled.shape[1] + tokens
    keys = torch.cat([filled, filled.new_ones(len(filled), tokens)], 1)
    causal = torch.ones(total, total, dtype=torch.bool, device=filled.device).tril()
    own = torch.eye(total, dtype=torch.bool, device=filled.device)
    return ((causal & keys[:, None]) | own)[:, None]


def compressing_mask(real: Bool[Tensor, "N M"]) -> Bool[Tensor, "N 1 M M"]:
    """Who sees whom in the compression block: everybody the whole thought, nobody its padding."""
    return real[:, None, None, :].expand(-1, 1, real.shape[1], -1)


def last_real(states: Float[Tensor, "N M D"], lengths: Int[Tensor, " N"], chunk: int) -> Float[Tensor, "N C D"]:
    """The last C outputs of each thought; of one with fewer tokens, its outputs and those of the padding behind them.

    Each row's own length decides, never the longest of the batch.
    """
    first = (lengths - chunk).clamp(min=0)
    at = first[:, None] + torch.arange(chunk, device=states.device)
    return states.gather(1, at[..., None].expand(-1, -1, states.shape[-1]))


def first_thinking(empty: Bool[Tensor, "B K"], counts: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
    """The first of each row's first `counts` chunks whose thought is not empty; `counts` where all are (paper: speculation)."""
    chunk = torch.arange(empty.shape[1], device=empty.device)
    ends = empty | (chunk >= counts[:, None])
    found = torch.where(ends, counts[:, None], chunk).amin(1) if empty.shape[1] else counts
    return torch.minimum(found, counts)


def jumped(mask: Int[Tensor, "B T"], size: float, generator: torch.Generator, jumps: int = 2) -> Int[Tensor, "B T"]:
    """Position ids with some random jumps forward in each row, so that larger distances than a text's own are learned.

    Each of `jumps` happens with probability 1/2, anywhere in the row, and skips size u² positions, u uniform. Rotary positions are
    relative: an offset of a whole row would teach nothing. 0 leaves positions as they are.
    """
    rows, positions = mask.shape
    found = torch.arange(positions).expand(rows, -1).clone()
    if size > 0:
        for _ in range(jumps):
            length = (
                size * torch.rand(rows, generator=generator).square() * (torch.rand(rows, generator=generator) < 0.5)
            )
            at = (torch.rand(rows, generator=generator) * positions).long()
            found += length.long()[:, None] * (torch.arange(positions) >= at[:, None])
    return found.to(mask.device)
