"""Keys and values of prompts already read, so that what prompts share is read once.

Rows are kept right-aligned (padding on the left) and new tokens come right-padded: a row's real tokens are then always
adjacent, which keeps sliding windows exact. Every layer keeps all its keys, windowed ones too, so that rows can be cut
back to any length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from shammie.core.batch import pad
from shammie.core.model import LanguageModel
from shammie.core.position import rows_of

_WORTHWHILE = 16  # tokens that sharing must save to be worth a forward pass of its own
_ROOM = 64  # slots allocated ahead of need, so that a decoding step writes one slot instead of copying them all


class _RoomyLayer(DynamicLayer):
    """A cache layer that writes new keys into spare slots instead of concatenating."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[..., :0, :], value_states[..., :0, :]
            self._buffers = [key_states[..., :0, :], value_states[..., :0, :]]
        used, needed = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if needed > self._buffers[0].shape[-2]:
            self._buffers = [_roomy(self.keys, needed + _ROOM), _roomy(self.values, needed + _ROOM)]
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., used:needed, :] = new
        self.keys, self.values = (buffer[..., :needed, :] for buffer in self._buffers)
        return self.keys, self.values

    @classmethod
    def holding(cls, keys: Float[Tensor, "B H S d"], values: Float[Tensor, "B H S d"]) -> _RoomyLayer:
        """A layer that starts with these keys and values."""
        layer = cls()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        layer._buffers = [keys, values]
        return layer

    def rows(self, rows: Int[Tensor, " N"]) -> _RoomyLayer:
        """Chosen rows; views where one row is repeated, since the first write copies into a roomy buffer."""

        def taken(state: Tensor) -> Tensor:
            return state.expand(len(rows), -1, -1, -1) if len(state) == 1 else state.index_select(0, rows)

        return _RoomyLayer.holding(taken(self.keys), taken(self.values))

    def slots(self, slots: Int[Tensor, "B S"] | slice) -> _RoomyLayer:
        """Chosen slots of each row."""

        def taken(state: Tensor) -> Tensor:
            if isinstance(slots, slice):
                return state[:, :, slots]
            return state.gather(2, slots[:, None, :, None].expand(-1, state.shape[1], -1, state.shape[3]))

        return _RoomyLayer.holding(taken(self.keys), taken(self.values))


def _new_cache() -> DynamicCache:
    cache = DynamicCache()
    cache.layer_class_to_replicate = _RoomyLayer
    return cache


def _roomy(state: Tensor, slots: int) -> Tensor:
    buffer = state.new_empty(*state.shape[:-2], slots, state.shape[-1])
    buffer[..., : state.shape[-2], :] = state
    return buffer


@dataclass
class KeyValues:
    """The cache of B rows of which `mask` [B, S] says which slots hold real tokens. Reading more tokens extends it in place."""

    cache: DynamicCache
    mask: Int[Tensor, "B S"]
    ragged: bool = False  # whether any slot is padding

    @classmethod
    def empty(cls, rows: int, device: torch.device) -> KeyValues:
        """Nothing read yet."""
        return cls(_new_cache(), torch.zeros(rows, 0, dtype=torch.long, device=device))

    @property
    def lengths(self) -> Int[Tensor, " B"]:
        """Real tokens of each row."""
        return self.mask.sum(-1)

    def select(self, rows: Int[Tensor, " N"]) -> KeyValues:
        """The given rows, in that order; rows may repeat. Reading on leaves the original as it was."""
        cache = _new_cache()
        cache.layers = [layer.rows(rows) for layer in self.cache.layers]
        return KeyValues(cache, self.mask.index_select(0, rows), self.ragged)

    def truncated(self, lengths: Int[Tensor, " B"]) -> KeyValues:
        """Each row cut back to its first `lengths` tokens."""
        return self._aligned(self.mask * (self.mask.cumsum(-1) <= lengths[:, None]))

    def aligned(self) -> KeyValues:
        """The same rows with padding on the left only, slots that no row uses dropped."""
        return self._aligned(self.mask)

    def _aligned(self, mask: Int[Tensor, "B S"]) -> KeyValues:
        longest = int(mask.sum(-1).max())
        slots: Tensor | slice = mask.argsort(dim=-1, stable=True)[:, mask.shape[1] - longest :]
        used = mask.any(0).nonzero().flatten()
        if len(used) == longest > 0 and int(used[-1] - used[0]) + 1 == longest and bool(mask[:, used].all()):
            slots = slice(int(used[0]), int(used[-1]) + 1)  # every row uses the same run of slots
        cache = _new_cache()
        cache.layers = [layer.slots(slots) for layer in self.cache.layers]
        kept = mask[:, slots] if isinstance(slots, slice) else mask.gather(-1, slots)
        return KeyValues(cache, kept, not bool(kept.all()))


def read(
    model: LanguageModel, past: KeyValues, ids: Int[Tensor, "B T"], mask: Int[Tensor, "B T"] | None,
    row: Int[Tensor, " B"], prompt_length: Int[Tensor, " B"],
) -> Float[Tensor, "B T D"]:  # fmt: skip
    """Read right-padded tokens after what each row has read; extends `past` and returns the final-normed states.

    `mask` None means that every slot is real. A caller that reads on must call `past.aligned()` after ragged tokens.
    """
    new = torch.ones_like(ids) if mask is None else mask
    ragged = past.ragged or not (mask is None or bool(mask.all()))
    start = past.lengths[:, None]
    past.mask = torch.cat([past.mask, new], -1)
    past.ragged = ragged
    position = (start + new.cumsum(-1) - 1).clamp(min=0)
    model.anatomy.check_length(int(position.max()) + 1)
    with rows_of(row, prompt_length), torch.no_grad():
        states: Tensor = model.anatomy.body(
            input_ids=ids,
            attention_mask=past.mask if ragged else None,
            position_ids=position,
            past_key_values=past.cache,
            use_cache=True,
        ).last_hidden_state
    return states


class SharedPrefixes:
    """Prompts of which every shared beginning is read once; then `read` finishes any of them.

    In each group of prompts with a common beginning one is read in full, and the others branch off its cache where they
    part from it; groups that share more among themselves do the same one level down.
    """

    def __init__(
        self,
        model: LanguageModel,
        sequences: Sequence[Sequence[int]],
        row: Sequence[int],
        own: Sequence[int] | None = None,
    ) -> None:
        """Read what is shared.

        Args:
            row: which prompt each sequence belongs to. While edits are in force only sequences of the same row share,
                because an edit may differ between rows.
            own: how many of its last tokens a sequence must read itself (at least 1), because their states are wanted;
                the first of them is the prompt's last token.
        """
        own = [1] * len(sequences) if own is None else own
        self.model, self.sequences, self.row = model, sequences, row
        self._heads = [list(ids[: len(ids) - n]) for ids, n in zip(sequences, own, strict=True)]
        self._levels: list[KeyValues] = []
        # Where each sequence branches off: (level, row in that level's cache, tokens kept); None if it shares nothing.
        self._home: list[tuple[int, int, int] | None] = [None] * len(sequences)
        everyone = range(len(sequences))
        groups = [list(everyone)] if not model.edits_in_force else _partition(everyone, lambda i: row[i])
        todo = [part for group in groups for part in self._worthwhile(group, 0)]
        while todo:
            todo = self._read_level(todo)

    def remaining(self) -> list[int]:
        """Tokens that each sequence has yet to read."""
        return [len(ids) - (home[2] if home else 0) for ids, home in zip(self.sequences, self._home, strict=True)]

    def read(self, members: Sequence[int]) -> tuple[Float[Tensor, "B T D"], Int[Tensor, "B T"], KeyValues]:
        """Finish some sequences: states and mask of the tokens read now, right-padded, and their (unaligned) cache."""
        tokens = [self.sequences[i][self._home[i][2] if self._home[i] else 0 :] for i in members]  # type: ignore[index]
        batch = pad(tokens, device=self.model.device)
        past = self._branches([self._home[i] for i in members])
        states = self._read(past, batch.ids, batch.mask, members)
        return states, batch.mask, past

    def _read(self, past: KeyValues, ids: Tensor, mask: Tensor, members: Sequence[int]) -> Tensor:
        row = torch.tensor([self.row[i] for i in members], device=ids.device)
        length = torch.tensor([len(self._heads[i]) + 1 for i in members], device=ids.device)
        return read(self.model, past, ids, mask, row, length)

    def _branches(self, homes: Sequence[tuple[int, int, int] | None]) -> KeyValues:
        """A cache of copied branches, one row each, in order."""
        device = self.model.device
        parts, order = [], []
        for level in sorted({home[0] if home else -1 for home in homes}):
            here = [i for i, home in enumerate(homes) if (home[0] if home else -1) == level]
            order.extend(here)
            if level < 0:
                parts.append(KeyValues.empty(len(here), device))
                continue
            kept = [homes[i] for i in here]
            rows = torch.tensor([home[1] for home in kept], device=device)  # type: ignore[index]
            lengths = torch.tensor([home[2] for home in kept], device=device)  # type: ignore[index]
            parts.append(self._levels[level].select(rows).truncated(lengths))
        if len(parts) == 1:
            return parts[0]
        return _joined(parts).select(torch.tensor(order, device=device).argsort())

    def _read_level(self, todo: list[tuple[list[int], int]]) -> list[tuple[list[int], int]]:
        leaders = [max(part, key=lambda i: len(self._heads[i])) for part, _ in todo]
        past = self._branches([self._branch(leader, depth) for leader, (_, depth) in zip(leaders, todo, strict=True)])
        batch = pad(
            [self._heads[i][depth:] for i, (_, depth) in zip(leaders, todo, strict=True)], device=self.model.device
        )
        self._read(past, batch.ids, batch.mask, leaders)
        self._levels.append(past.aligned())
        level, finer = len(self._levels) - 1, []
        for index, (leader, (part, _)) in enumerate(zip(leaders, todo, strict=True)):
            kept = {i: _common(self._heads[i], self._heads[leader]) for i in part}
            for i in part:
                self._home[i] = (level, index, kept[i])
            for group in _partition([i for i in part if kept[i] < len(self._heads[i])], kept.__getitem__):
                finer.extend(self._worthwhile(group, kept[group[0]]))
        return finer

    def _branch(self, member: int, depth: int) -> tuple[int, int, int] | None:
        home = self._home[member]
        return (home[0], home[1], depth) if home else None

    def _worthwhile(self, group: Sequence[int], depth: int) -> list[tuple[list[int], int]]:
        """Parts of the group that go on alike after `depth` tokens, long enough to be worth a forward pass."""
        heads = self._heads
        parts = _partition([i for i in group if len(heads[i]) > depth], lambda i: heads[i][depth])
        worth = []
        for part in parts:
            leader = max(part, key=lambda i: len(heads[i]))
            saved = sum(_common(heads[i], heads[leader], depth) - depth for i in part if i != leader)
            if saved >= _WORTHWHILE:
                worth.append((part, depth))
        return worth


def _partition(members: Iterable[int], key: Callable[[int], int]) -> list[list[int]]:
    parts: dict[int, list[int]] = {}
    for member in members:
        parts.setdefault(key(member), []).append(member)
    return list(parts.values())


def _common(left: Sequence[int], right: Sequence[int], start: int = 0) -> int:
    """Length of the common beginning, of which `start` tokens are known to be common."""
    end = min(len(left), len(right))
    while start < end and left[start] == right[start]:
        start += 1
    return start


def _joined(parts: Sequence[KeyValues]) -> KeyValues:
    """Rows of several caches in one, padded on the left to the longest."""
    slots = max(part.mask.shape[1] for part in parts)
    if slots == 0:
        return KeyValues.empty(sum(len(part.mask) for part in parts), parts[0].mask.device)
    template = next(part for part in parts if part.mask.shape[1])
    cache = _new_cache()
    for index, layer in enumerate(template.cache.layers):
        layers = [part.cache.layers[index] if part.mask.shape[1] else None for part in parts]
        keys = [
            _left_padded(own and own.keys, layer.keys, len(part.mask), slots)
            for own, part in zip(layers, parts, strict=True)
        ]
        values = [
            _left_padded(own and own.values, layer.values, len(part.mask), slots)
            for own, part in zip(layers, parts, strict=True)
        ]
        cache.layers.append(_RoomyLayer.holding(torch.cat(keys), torch.cat(values)))
    mask = torch.cat([torch.nn.functional.pad(part.mask, (slots - part.mask.shape[1], 0)) for part in parts])
    return KeyValues(cache, mask, not bool(mask.all()))


def _left_padded(state: Tensor | None, like: Tensor, rows: int, slots: int) -> Tensor:
    padded = like.new_zeros(rows, like.shape[1], slots, like.shape[3])
    if state is not None:
        padded[..., slots - state.shape[2] :, :] = state
    return padded
