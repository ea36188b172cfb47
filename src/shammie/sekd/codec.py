"""The counts of a window in few bytes: a range coder under tables that are counted once, on a pilot, for a whole cache.

Ids are ranked by how often the pilot drew them, and the ranks cut into about 256 buckets of equal mass. What is coded of
a position: how many classes were drawn; how often the true next token was (the reader knows which it is); for the others
the steps from bucket to bucket, rising, so that no bit is spent on their order; the place within the bucket; and the
counts, each given how many classes and draws are left. Classes that the pilot never drew share a last bucket, by id.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from shammie.core import files
from shammie.core.errors import DataError
from shammie.sekd.sparse import SparseTargets

Ints: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.bool_]

MAX_DRAWS = 255
_BUCKETS = 256
_DIGIT = 1 << 16  # the coder's uniform law ends below 2^24, ids at 2^31
_EDGES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192)
_LEVELS = len(_EDGES) + 1
_LEVEL = np.digitize(np.arange(MAX_DRAWS + 1), _EDGES)  # the magnitude of a number of draws, in half octaves
_PRIOR = 30.0  # what a context borrows, in observations, from the law over all contexts
_CHECK = 4  # bytes of the checksum before each code


@dataclass(frozen=True, eq=False)
class Tables:
    """How often each symbol came in each context of a pilot, in integers, so that all machines code alike."""

    limits: Int[Tensor, " 2"]
    """Draws a position, and the number of classes."""
    ids: Int[Tensor, " I"]
    """The pilot's classes, most frequent first."""
    starts: Int[Tensor, " B"]
    """Bucket b holds ids[starts[b]:starts[b + 1]]."""
    size: Int[Tensor, "1 S"]
    """Positions by how many classes they have."""
    right: Int[Tensor, "S S"]
    """Draws of the true next token, by the number of classes."""
    gap: Int[Tensor, "C G"]
    """Steps between buckets, by the magnitude of the number of other classes."""
    extra: Int[Tensor, "CC S"]
    """Draws of a class beyond one, by the magnitudes of the numbers of classes and of such draws left."""


def fit_tables(pilot: SparseTargets, targets: Int[Tensor, " n"], vocabulary: int, draws: int) -> Tables:
    """Tables from the draws at n positions and the tokens that follow them.

    16,000 positions come within 3% of the bytes that 80,000 give; without any, all content can be coded, at twice those.

    Raises:
        DataError: as `Codec.encode`; draws outside 1 to 255, or a vocabulary outside 1 to 2^31.
    """
    if not (1 <= draws <= MAX_DRAWS and 1 <= vocabulary <= 1 << 31):
        raise DataError(f"cannot code {draws} draws of {vocabulary} classes; at most 255 of 2^31, and one of each")
    drawn = _entries(pilot, targets, vocabulary, draws)
    ids, counts = np.unique(drawn.ids[~drawn.right], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    ids, counts = ids[order], counts[order]
    _, starts = np.unique((counts.cumsum() - counts) * _BUCKETS // max(1, counts.sum()), return_index=True)
    shapes = {
        "size": (1, draws + 1),
        "right": (draws + 1, draws + 1),
        "gap": (_LEVELS, _BUCKETS + 1),
        "extra": (_LEVELS * _LEVELS, draws + 1),
    }
    tallies = {name: np.zeros(shape, np.int64) for name, shape in shapes.items()}
    buckets = _Buckets(ids, starts, vocabulary)
    _walk(_Tally(_symbols(drawn, buckets), tallies), len(pilot), draws, buckets)
    fields = {"ids": ids, "starts": starts, **tallies}
    narrow = {name: torch.from_numpy(value.astype(np.int32)) for name, value in fields.items()}
    return Tables(limits=torch.tensor([draws, vocabulary]), **narrow)


class Codec:
    """Codes windows under tables; the bytes of a window depend on its content and the tables, on nothing else.

    Raises:
        BackendError: the package constriction is not installed.
    """

    def __init__(self, tables: Tables) -> None:
        self.draws, self.vocabulary = tables.limits.tolist()
        self._buckets = _Buckets(tables.ids.long().numpy(), tables.starts.long().numpy(), self.vocabulary)
        self._models = _Models({name: getattr(tables, name).numpy() for name in ("size", "right", "gap", "extra")})

    def encode(self, drawn: SparseTargets, targets: Int[Tensor, " P"]) -> bytes:
        """The bytes of P positions, each of which has `draws` draws or none at all; `targets` are their next tokens.

        Raises:
            DataError: another number of positions or draws, or classes out of order or outside the vocabulary.
        """
        entries = _entries(drawn, targets, self.vocabulary, self.draws)
        encoder = _Encoder(_symbols(entries, self._buckets), self._models)
        _walk(encoder, len(drawn), self.draws, self._buckets)
        return _check(drawn) + encoder.data

    def decode(self, data: bytes, targets: Int[Tensor, " P"]) -> SparseTargets:
        """The P positions whose (intact) bytes these are; `targets` are their next tokens.

        Raises:
            DataError: the result is not what was encoded: other targets, other tables or another version of the coder.
        """
        try:
            right, others = _walk(_Decoder(data[_CHECK:], self._models), len(targets), self.draws, self._buckets)
            found = _merge(right, targets.numpy(), others)
        except (AssertionError, IndexError, ValueError):  # symbols that cannot be: the coder's own error, or ours
            found = None
        if found is None or _check(found) != data[:_CHECK]:
            raise DataError("the counts are not those that were encoded; decode with the tables and tokens they are of")
        return found


@dataclass(frozen=True)
class _Entries:
    """Classes and counts at some positions, in their order; `right` marks those that are the position's next token."""

    positions: int
    rows: Ints
    ids: Ints
    counts: Ints
    right: Flags


def _entries(drawn: SparseTargets, targets: Tensor, vocabulary: int, draws: int) -> _Entries:
    rows, ids, counts = drawn.rows.numpy(), drawn.ids.numpy(), drawn.counts.numpy()
    if len(drawn) != len(targets):
        raise DataError(f"draws at {len(drawn)} positions, but {len(targets)} next tokens; give one for each")
    rising = (np.diff(rows) > 0) | (np.diff(ids) > 0)
    if not (rising.all() and (counts > 0).all() and ((ids >= 0) & (ids < vocabulary)).all()):
        raise DataError(f"classes must rise, lie below {vocabulary} and be drawn at least once; draw the window again")
    totals = np.bincount(rows, weights=counts, minlength=len(drawn))
    if (wrong := np.flatnonzero((totals != draws) & (totals != 0))).size:
        raise DataError(f"position {wrong[0]} has {totals[wrong[0]]:.0f} draws, not {draws}; draw the window again")
    return _Entries(len(drawn), rows, ids, counts, ids == targets.numpy()[rows])


class _Buckets:
    """Where the ranks of ids are cut; one more bucket holds every id, for those without a rank."""

    def __init__(self, ids: Ints, starts: Ints, vocabulary: int) -> None:
        self.ids, self.starts = ids, starts
        self.widths = np.append(np.diff(starts, append=len(ids)), vocabulary)
        self._order = np.argsort(ids)

    def find(self, ids: Ints) -> tuple[Ints, Ints]:
        """The bucket of each id, and its place there."""
        bucket, place = np.full_like(ids, len(self.starts)), ids.copy()
        if len(self.ids):
            rank = self._order[np.searchsorted(self.ids, ids, sorter=self._order).clip(max=len(self.ids) - 1)]
            known = self.ids[rank] == ids
            bucket[known] = np.searchsorted(self.starts, rank[known], side="right") - 1
            place[known] = rank[known] - self.starts[bucket[known]]
        return bucket, place

    def ids_at(self, bucket: Ints, place: Ints) -> Ints:
        """The inverse of `find`."""
        ids, known = place.copy(), bucket < len(self.starts)
        ids[known] = self.ids[self.starts[bucket[known]] + place[known]]
        return ids


def _symbols(entries: _Entries, buckets: _Buckets) -> dict[str, Ints]:
    """All symbols by name, each in the order of its places."""
    bucket, place = buckets.find(entries.ids)
    order = np.lexsort((place, bucket, entries.rows))
    order = order[~entries.right[order]]
    rows, bucket, place = entries.rows[order], bucket[order], place[order]
    right = np.zeros(entries.positions, np.int64)
    right[entries.rows[entries.right]] = entries.counts[entries.right]
    return {
        "size": np.bincount(entries.rows, minlength=entries.positions),
        "right": right,
        "gap": bucket - np.where(np.diff(rows, prepend=-1) > 0, 0, np.roll(bucket, 1)),
        "high": place // _DIGIT,
        "low": place % _DIGIT,
        "extra": entries.counts[order] - 1,
    }


def _merge(right: Ints, targets: Ints, others: tuple[Ints, Ints, Ints]) -> SparseTargets:
    """The next token's count at each position and the rows, ids and counts of other classes, as they were drawn."""
    hit = np.flatnonzero(right)
    rows, ids, counts = (np.append(*pair) for pair in zip(others, (hit, targets[hit], right[hit]), strict=True))
    order = np.argsort(rows << 31 | ids)  # one sort by one key takes a quarter of np.lexsort's time
    offsets = np.append(0, np.bincount(rows, minlength=len(right)).cumsum())
    return SparseTargets(*(torch.from_numpy(part) for part in (offsets, ids[order], counts[order])))


Coder: TypeAlias = Callable[[str, Ints, Ints], Ints]
"""Codes symbols (their name, their places among all of that name, the context of each) and says which they are."""


def _walk(code: Coder, positions: int, draws: int, buckets: _Buckets) -> tuple[Ints, tuple[Ints, Ints, Ints]]:
    """All symbols of some positions in the code's order: the same steps count, encode and decode them.

    Returns the next token's count at each position, and the rows, ids and counts of the other classes.
    """
    every = np.arange(positions)
    sizes = code("size", every, np.zeros_like(every))
    right, some = np.zeros_like(every), np.flatnonzero(sizes)
    right[some] = code("right", some, sizes[some])
    others = sizes - (right > 0)
    rows = np.repeat(every, others)
    steps = code("gap", np.arange(len(rows)), _LEVEL[others][rows])
    reached, first = steps.cumsum(), (others.cumsum() - others)[rows]
    bucket = reached - (reached - steps)[first]
    ids = buckets.ids_at(bucket, _places(code, buckets.widths[bucket]))
    return right, (rows, ids, 1 + _extras(code, others, draws - right - others))


def _places(code: Coder, widths: Ints) -> Ints:
    """A place below each width, in two digits."""
    place = np.zeros_like(widths)
    wide, some = np.flatnonzero(widths > _DIGIT), np.flatnonzero(widths > 1)
    place[wide] += _DIGIT * code("high", wide, (widths[wide] - 1) // _DIGIT + 1)
    place[some] += code("low", some, widths[some].clip(max=_DIGIT))
    return place


def _extras(code: Coder, others: Ints, excess: Ints) -> Ints:
    """Draws of each class beyond one, `excess` at a position in all, from its rarest class to its commonest."""
    first, left, excess = others.cumsum() - others, others.copy(), excess.copy()
    extra = np.zeros(others.sum(), np.int64)
    while len(unsure := np.flatnonzero((left > 1) & (excess > 0))):
        where = first[unsure] + left[unsure] - 1
        extra[where] = code("extra", where, _LEVEL[left[unsure]] * _LEVELS + _LEVEL[excess[unsure]])
        excess[unsure] -= extra[where]
        left[unsure] -= 1
    some = np.flatnonzero(left)
    extra[first[some] + left[some] - 1] = excess[some]  # the last class has all that is left
    return extra


class _Tally:
    """Counts symbols that are known."""

    def __init__(self, symbols: dict[str, Ints], tallies: dict[str, Ints]) -> None:
        self.symbols, self.tallies = symbols, tallies

    def __call__(self, name: str, where: Ints, context: Ints) -> Ints:
        found = self.symbols[name][where]
        if name in self.tallies:
            np.add.at(self.tallies[name], (context, found), 1)
        return found


class _Models:
    """A law for each context: its own tally and a little of all contexts', nothing being impossible."""

    def __init__(self, tallies: dict[str, NDArray[Any]]) -> None:
        self.stream = files.package("constriction", "sekd").stream
        model = self.stream.model
        self.laws = {name: _law(tally) for name, tally in tallies.items()}
        self.models = {
            name: [model.Categorical(row, perfect=False) for row in self.laws[name]]
            for name in ("size", "right", "gap")
        }
        self.categorical, self.uniform = model.Categorical(perfect=False), model.Uniform()

    def parts(self, name: str, context: Ints) -> Iterator[tuple[Flags, Any, Any]]:
        """How some symbols are coded: which of them, their model, and its parameters where they differ."""
        everything = np.ones(len(context), np.bool_)
        if name in self.models:  # few contexts, many symbols of each: a model for each is many times faster
            for value in np.flatnonzero(np.bincount(context)):
                yield context == value, self.models[name][value], None
        elif name in self.laws:
            yield everything, self.categorical, self.laws[name][context]
        elif len(context):
            yield everything, self.uniform, context.astype(np.int32)


def _law(tally: NDArray[Any]) -> NDArray[np.float32]:
    prior = tally.sum(0) + 1 / np.arange(1, tally.shape[1] + 1)
    return (tally + _PRIOR * prior / prior.sum()).astype(np.float32)


class _Encoder:
    """Writes symbols that are known."""

    def __init__(self, symbols: dict[str, Ints], models: _Models) -> None:
        self.symbols, self.models, self.coder = symbols, models, models.stream.queue.RangeEncoder()

    def __call__(self, name: str, where: Ints, context: Ints) -> Ints:
        found = self.symbols[name][where]
        for which, model, given in self.models.parts(name, context):
            self.coder.encode(found[which].astype(np.int32), model, *([] if given is None else [given]))
        return found

    @property
    def data(self) -> bytes:
        """What was written."""
        return self.coder.get_compressed().astype("<u4").tobytes()


class _Decoder:
    """Reads symbols."""

    def __init__(self, data: bytes, models: _Models) -> None:
        words = np.frombuffer(data, "<u4").astype(np.uint32)
        self.models, self.coder = models, models.stream.queue.RangeDecoder(words)

    def __call__(self, name: str, where: Ints, context: Ints) -> Ints:
        found = np.zeros(len(where), np.int64)
        for which, model, given in self.models.parts(name, context):
            found[which] = self.coder.decode(model, int(which.sum()) if given is None else given)
        return found


def _check(drawn: SparseTargets) -> bytes:
    parts = (drawn.offsets, drawn.ids, drawn.counts)
    return zlib.crc32(b"".join(part.numpy().astype("<i8").tobytes() for part in parts)).to_bytes(_CHECK, "little")
