"""Which tokens a capture or an edit touches, in absolute positions that mean the same with cache, padding and batching.

Position 0 is a prompt's first real token. A `Frame` says, for every slot of one forward pass, which absolute position,
which prompt (row) and whether a real token stands there.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from shammie.core.errors import SiteError


@dataclass(frozen=True)
class Frame:
    """The tokens of one forward pass: B rows, T slots."""

    position: Int[Tensor, "B T"]
    real: Bool[Tensor, "B T"]
    row: Int[Tensor, " B"]  # which prompt each row belongs to
    prompt_length: Int[Tensor, " B"]

    @classmethod
    def from_mask(
        cls,
        mask: Int[Tensor, "B S"],
        slots: int | None = None,
        row: Int[Tensor, " B"] | None = None,
        prompt_length: Int[Tensor, " B"] | None = None,
    ) -> Frame:
        """The last `slots` columns of an attention mask that also covers the cache."""
        mask = mask.long()
        slots = mask.shape[1] if slots is None else slots
        position = (mask.cumsum(-1) - 1).clamp(min=0)
        rows = torch.arange(mask.shape[0], device=mask.device) if row is None else row.to(mask.device)
        lengths = mask.sum(-1) if prompt_length is None else prompt_length.to(mask.device)
        return cls(position[:, -slots:], mask[:, -slots:].bool(), rows, lengths)


class Positions(ABC):
    """A choice of tokens; `mask` tells which slots of a frame it takes (never padding)."""

    def mask(self, frame: Frame) -> Bool[Tensor, "B T"]:
        """True where the slot is chosen."""
        return self._choose(frame) & frame.real

    @abstractmethod
    def _choose(self, frame: Frame) -> Bool[Tensor, "B T"]:
        """True where the slot is chosen, if a real token stands there."""


@dataclass(frozen=True)
class AllTokens(Positions):
    """Every real token."""

    def _choose(self, frame: Frame) -> Bool[Tensor, "B T"]:
        return frame.real


@dataclass(frozen=True)
class Prompt(Positions):
    """Tokens of the prompt."""

    def _choose(self, frame: Frame) -> Bool[Tensor, "B T"]:
        return frame.position < frame.prompt_length[:, None]


@dataclass(frozen=True)
class Generated(Positions):
    """Tokens after the prompt, as they are fed back."""

    def _choose(self, frame: Frame) -> Bool[Tensor, "B T"]:
        return frame.position >= frame.prompt_length[:, None]


@dataclass(frozen=True)
class Span(Positions):
    """Tokens start to stop-1; negative numbers count from the prompt's end.

    A missing stop is the prompt's end if start is negative, otherwise there is no end.
    """

    start: int
    stop: int | None = None

    def __post_init__(self) -> None:
        if self.stop is not None and (self.start < 0) == (self.stop < 0) and self.stop <= self.start:
            raise SiteError(f"span {self.start}:{self.stop} holds no token")

    def _choose(self, frame: Frame) -> Bool[Tensor, "B T"]:
        length = frame.prompt_length[:, None]
        start = length + self.start if self.start < 0 else self.start
        chosen = frame.position >= start
        if self.stop is not None:
            return chosen & (frame.position < (length + self.stop if self.stop < 0 else self.stop))
        return chosen & (frame.position < length) if self.start < 0 else chosen


@dataclass(frozen=True)
class RowSpans(Positions):
    """For each prompt its own (start, stop), such as the tokens of the entity it names."""

    spans: tuple[tuple[int, int], ...]

    def _choose(self, frame: Frame) -> Bool[Tensor, "B T"]:
        bounds = torch.tensor(self.spans, device=frame.position.device)
        _check_rows(len(self.spans), frame)
        start, stop = bounds[frame.row].unbind(-1)
        return (frame.position >= start[:, None]) & (frame.position < stop[:, None])

    def last(self) -> RowSpans:
        """Only the last token of each span."""
        return RowSpans(tuple((stop - 1, stop) for _, stop in self.spans))


@dataclass(frozen=True, eq=False)
class Mask(Positions):
    """Free choice: a boolean table by prompt and absolute position; tokens beyond it are not chosen."""

    chosen: Bool[Tensor, "N S"]

    def __repr__(self) -> str:
        table = self.chosen.to("cpu", torch.uint8).contiguous()  # torch's own text leaves out the middle of a large one
        return f"Mask({tuple(table.shape)}, sha256={hashlib.sha256(table.numpy().tobytes()).hexdigest()})"

    def _choose(self, frame: Frame) -> Bool[Tensor, "B T"]:
        _check_rows(len(self.chosen), frame)
        table = torch.nn.functional.pad(self.chosen.to(frame.position.device), (0, 1))  # beyond it nothing is chosen
        return table[frame.row[:, None], frame.position.clamp(max=table.shape[1] - 1)]


def _check_rows(prompts: int, frame: Frame) -> None:
    if int(frame.row.max()) >= prompts:
        raise SiteError(f"positions are given for {prompts} prompts, but the batch has prompt {int(frame.row.max())}")


ALL = AllTokens()
PROMPT = Prompt()
GENERATED = Generated()
LAST = Span(-1)  # the prompt's last token


def parse_positions(text: str) -> Positions:
    """Read `all`, `prompt`, `generated`, `last`, one position such as `4` or `-2`, or a span such as `3:6` or `-3:`."""
    named: dict[str, Positions] = {"all": ALL, "prompt": PROMPT, "generated": GENERATED, "last": LAST}
    text = text.strip()
    if text in named:
        return named[text]
    if number := re.fullmatch(r"-?\d+", text):
        at = int(number[0])
        return Span(at, at + 1 if at != -1 else None)
    if span := re.fullmatch(r"(-?\d+):(-?\d+)?", text):
        return Span(int(span[1]), int(span[2]) if span[2] else None)
    raise SiteError(
        f"positions {text!r} are not one of {', '.join(named)}, a position such as 4 or -1, or a span such as 3:6"
    )


def text_spans(tokenizer: object, texts: Sequence[str], parts: Sequence[str]) -> RowSpans:
    """The tokens of each text that overlap the last occurrence of its part, such as an entity's name.

    Needs a fast tokenizer (character offsets). Raises SiteError naming the text whose part is missing.
    """
    if len(texts) != len(parts):
        raise SiteError(f"{len(texts)} texts but {len(parts)} parts; name one part for each text")
    spans = []
    for text, part in zip(texts, parts, strict=True):
        start = text.rfind(part)
        if start < 0 or not part:
            raise SiteError(f"the text {text!r} does not contain {part!r}")
        offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]  # type: ignore[operator]
        inside = [i for i, (a, b) in enumerate(offsets) if a < start + len(part) and b > start and b > a]
        if not inside:
            raise SiteError(f"no token of the text {text!r} covers {part!r}; this tokenizer drops it")
        spans.append((inside[0], inside[-1] + 1))
    return RowSpans(tuple(spans))


@dataclass(frozen=True)
class _Rows:
    """What a caller that owns the forward pass knows better than the attention mask can tell."""

    row: Int[Tensor, " B"]
    prompt_length: Int[Tensor, " B"]


_ROWS: ContextVar[_Rows | None] = ContextVar("rows of the current forward pass", default=None)


@contextmanager
def rows_of(row: Int[Tensor, " B"], prompt_length: Int[Tensor, " B"]) -> Iterator[None]:
    """Tell the edits in force which prompts the coming forward passes hold."""
    token = _ROWS.set(_Rows(row, prompt_length))
    try:
        yield
    finally:
        _ROWS.reset(token)


@dataclass
class FrameTracker:
    """Works out the frame of each forward pass from what the model's body is called with."""

    frame: Frame | None = None
    _prompt_length: Int[Tensor, " B"] | None = field(default=None, init=False)

    def __call__(self, _module: object, args: tuple[Tensor, ...], kwargs: dict[str, object]) -> None:
        """A forward pre-hook with keyword arguments, for the body."""
        ids = (
            kwargs.get("input_ids")
            if kwargs.get("input_ids") is not None
            else (args[0] if args else kwargs.get("inputs_embeds"))
        )
        assert isinstance(ids, Tensor)
        cache = kwargs.get("past_key_values")
        past = int(cache.get_seq_length()) if cache is not None else 0  # type: ignore[attr-defined]
        mask = kwargs.get("attention_mask")
        if not (isinstance(mask, Tensor) and mask.ndim == 2):
            mask = torch.ones(ids.shape[0], past + ids.shape[1], dtype=torch.long, device=ids.device)
        known = _ROWS.get()
        if known is not None:
            self.frame = Frame.from_mask(mask, ids.shape[1], known.row, known.prompt_length)
            return
        if past == 0 or self._prompt_length is None or len(self._prompt_length) != len(ids):
            self._prompt_length = mask.long().sum(-1)
        self.frame = Frame.from_mask(mask, ids.shape[1], None, self._prompt_length)
