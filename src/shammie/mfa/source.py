"""Where activations come from while fitting: a tensor, shards on disk, or the model itself; never all at once.

Every source cuts off the same held-out texts for the same seed and hands out its training tokens in an order that is a
function of seed and pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from shammie.core.errors import DataError, MismatchError, NonFiniteError
from shammie.core.harvest import Activations, stream
from shammie.core.model import LanguageModel
from shammie.core.position import Span
from shammie.core.site import Site

Part = Literal["train", "held_out"]
_MIXED = 4  # shards that are shuffled together
_TEXTS = 64  # texts that the model reads at a time


class Source(Protocol):
    """What fits read."""

    @property
    def width(self) -> int:
        """D."""
        ...

    def blocks(self, part: Part, number: int) -> Iterator[Float[Tensor, "B D"]]:
        """Float32 activations of a part in the order of pass `number`; blocks of unequal length."""
        ...


def held_out_texts(texts: int, share: float, seed: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which texts are held out; at least one is not, and at least one is unless the share is 0."""
    count = min(max(1, round(share * texts)), texts - 1) if share else 0
    chosen = np.zeros(texts, dtype=bool)
    chosen[np.random.default_rng((seed, 7)).permutation(texts)[:count]] = True
    return chosen


def _permuted(count: int, seed: int, *more: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng((seed, *more)).permutation(count))


@dataclass(frozen=True, eq=False)
class TensorSource:
    """Activations in memory; each is a text of its own unless `text` tells otherwise."""

    x: Float[Tensor, "N D"]
    held_out: float = 0.05
    seed: int = 0
    text: Int[Tensor, " N"] | None = None

    def __post_init__(self) -> None:
        check(self.x, "the activations")

    @property
    def width(self) -> int:
        """D."""
        return int(self.x.shape[1])

    def blocks(self, part: Part, number: int) -> Iterator[Float[Tensor, "B D"]]:
        """One block."""
        text = torch.arange(len(self.x)) if self.text is None else self.text
        held = torch.from_numpy(held_out_texts(int(text.max()) + 1, self.held_out, self.seed))[text]
        own = self.x[held if part == "held_out" else ~held]
        if len(own):
            yield own[_permuted(len(own), self.seed, number)] if part == "train" else own


@dataclass(frozen=True, eq=False)
class ShardSource:
    """A harvest on disk; a few shards are in memory at a time, in another order each pass."""

    activations: Activations
    site: Site
    held_out: float = 0.05
    seed: int = 0
    limit: int | None = None
    """Use only the first shards."""

    def __post_init__(self) -> None:
        if self.site not in self.activations.sites:
            known = ", ".join(map(str, self.activations.sites))
            raise MismatchError(
                f"{self.activations.directory} holds states of {known}, not of {self.site}; name one of these"
            )

    @property
    def width(self) -> int:
        """D."""
        return int(self.activations[0].states[self.site].shape[1])

    def blocks(self, part: Part, number: int) -> Iterator[Float[Tensor, "B D"]]:
        """One block for every few shards."""
        count = min(len(self.activations), self.limit or len(self.activations))
        held = torch.from_numpy(held_out_texts(int(self.activations.index["texts"]), self.held_out, self.seed))
        order = _permuted(count, self.seed, 11, number).tolist() if part == "train" else list(range(count))
        mixed = _MIXED if part == "train" else 1
        for group in (order[i : i + mixed] for i in range(0, count, mixed)):
            parts = []
            for index in group:
                shard = self.activations[index]
                state, own = shard.states[self.site], held[shard.text]
                check(state, f"shard {index} of {self.activations.directory}")
                parts.append(state[own if part == "held_out" else ~own].float())
            block = torch.cat(parts)
            if len(block):
                yield block[_permuted(len(block), self.seed, group[0], number)] if part == "train" else block


@dataclass(frozen=True, eq=False)
class ModelSource:
    """The model itself, read anew in every pass: no disk, at the price of a forward pass over the texts each time."""

    model: LanguageModel
    texts: Sequence[str]
    site: Site
    skip_first: int = 0
    max_tokens: int = 512
    held_out: float = 0.05
    seed: int = 0

    @property
    def width(self) -> int:
        """D."""
        return self.model.anatomy.site_width(self.site)

    def blocks(self, part: Part, number: int) -> Iterator[Float[Tensor, "B D"]]:
        """One block for some texts."""
        held = held_out_texts(len(self.texts), self.held_out, self.seed)
        own = np.flatnonzero(held if part == "held_out" else ~held)
        order = own[_permuted(len(own), self.seed, number).numpy()] if part == "train" else own
        for chosen in (order[i : i + _TEXTS] for i in range(0, len(order), _TEXTS)):
            texts = [self.texts[index] for index in chosen]
            read = stream(self.model, texts, [self.site], positions=Span(self.skip_first), max_tokens=self.max_tokens)
            parts = [captured[self.site].float() for captured in read]
            if parts:
                block = torch.cat(parts)
                yield block[_permuted(len(block), self.seed, number)] if part == "train" else block


def check(x: Tensor, place: str) -> None:
    """Refuse activations that are not finite, naming the first."""
    if not bool(x.isfinite().all()):
        row = int((~x.isfinite()).any(-1).nonzero()[0, 0])
        raise NonFiniteError(f"{place} hold NaN or infinity at token {row}; harvest again in float32 or bfloat16")


def sample(source: Source, count: int) -> Float[Tensor, "n D"]:
    """The first `count` training tokens of a pass of its own; an order at random makes them a random sample.

    Errors: DataError where the activations are constant, or there are none.
    """
    parts, have = [], 0
    for block in source.blocks("train", -1 % 2**31):
        parts.append(block[: count - have])
        have += len(parts[-1])
        if have >= count:
            break
    if not parts:
        raise DataError("there are no training tokens; give more texts or a smaller --held-out")
    x = torch.cat(parts)
    if float((x - x[0]).abs().max()) == 0:
        raise DataError("the activations are constant; check the site and the texts")
    return x
