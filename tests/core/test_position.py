"""Positions against an oracle that looks at one token at a time, and the tokens of a piece of text."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pico
from shammie.core.batch import pad
from shammie.core.errors import SiteError
from shammie.core.position import (
    ALL,
    GENERATED,
    LAST,
    PROMPT,
    Frame,
    FrameTracker,
    Mask,
    Positions,
    RowSpans,
    Span,
    parse_positions,
    rows_of,
    text_spans,
)

# Says whether the token at an absolute position of a prompt is chosen: (position, prompt, prompt length) -> bool.
Oracle = Callable[[int, int, int], bool]


def choices(draw: Callable, prompts: int) -> tuple[Positions, Oracle]:
    """Any kind of positions, with what it means for one token."""
    kind = draw(st.integers(0, 6))
    if kind == 0:
        return ALL, lambda *_: True
    if kind == 1:
        return PROMPT, lambda p, _r, n: p < n
    if kind == 2:
        return GENERATED, lambda p, _r, n: p >= n
    if kind == 3:
        return LAST, lambda p, _r, n: p == n - 1
    if kind == 4:
        spans = draw(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), min_size=prompts, max_size=prompts))
        only_last = draw(st.booleans())
        chosen = RowSpans(tuple(spans)).last() if only_last else RowSpans(tuple(spans))
        return chosen, lambda p, r, _n: (p == spans[r][1] - 1) if only_last else spans[r][0] <= p < spans[r][1]
    if kind == 5:
        width = draw(st.integers(0, 9))
        row = st.lists(st.booleans(), min_size=width, max_size=width)
        table = draw(st.lists(row, min_size=prompts, max_size=prompts))
        return Mask(torch.tensor(table).view(prompts, width).bool()), lambda p, r, _n: p < width and table[r][p]
    start, stop = draw(st.integers(-9, 9)), draw(st.none() | st.integers(-9, 9))
    try:
        span = Span(start, stop)
    except SiteError:
        return ALL, lambda *_: True

    def inside(p: int, r: int, n: int) -> bool:
        first = start if start >= 0 else n + start
        end = (n if start < 0 else 10**6) if stop is None else (stop if stop >= 0 else n + stop)
        return first <= p < end

    return span, inside


def frames(
    lengths: list[int], new: int, pads: list[int], chunks: list[int], order: list[int], left: bool
) -> tuple[Frame, list[Frame], list[list[int | None]]]:
    """One padded batch whole and cut into chunks under a cache, and the position in each slot (None is padding)."""
    total = max(n + extra for n, extra in zip(lengths, pads, strict=True)) + new
    mask, position = [], []
    for n in lengths:
        real = list(range(n + new))
        empty = total - len(real)
        mask.append([0] * empty + [1] * len(real) if left else [1] * len(real) + [0] * empty)
        blank: list[int | None] = [None] * empty
        position.append(blank + real if left else [*real, *blank])
    table, prompt = torch.tensor(mask), torch.tensor(lengths)
    whole = Frame.from_mask(table, None, torch.tensor(order), prompt)
    edges = sorted({0, total, *(c % total for c in chunks)})
    parts = [Frame.from_mask(table[:, :b], b - a, torch.tensor(order), prompt) for a, b in pairwise(edges)]
    return whole, parts, position


@given(st.data())
def test_masks_are_the_oracles_whole_and_in_chunks(data: st.DataObject) -> None:
    """Ragged batches, padded on either side, read at once and chunk by chunk as under a cache."""
    rows = data.draw(st.integers(1, 4))
    lengths = data.draw(st.lists(st.integers(1, 7), min_size=rows, max_size=rows))
    pads = data.draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows))
    new, left = data.draw(st.integers(0, 3)), data.draw(st.booleans())
    order = data.draw(st.permutations(range(4)))[:rows]
    chunks = data.draw(st.lists(st.integers(1, 20), max_size=4))
    chosen, oracle = choices(data.draw, 4)
    whole, parts, position = frames(lengths, new, pads, chunks, order, left)
    expected = [[p is not None and oracle(p, order[i], lengths[i]) for p in slots] for i, slots in enumerate(position)]
    assert chosen.mask(whole).tolist() == expected
    assert torch.cat([chosen.mask(part) for part in parts], -1).tolist() == expected
    assert whole.real.tolist() == [[p is not None for p in slots] for slots in position]
    assert whole.position[whole.real].tolist() == [p for slots in position for p in slots if p is not None]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 3))
def test_tracker_learns_the_prompts_length(lengths: list[int], steps: int) -> None:
    """As a model's body is called by generate: left padding first, then one token at a time."""

    class Cache:
        past = 0

        def get_seq_length(self) -> int:
            return self.past

    tracker, cache, longest = FrameTracker(), Cache(), max(lengths)
    mask = torch.tensor([[0] * (longest - n) + [1] * n for n in lengths])
    tracker(None, (), {"input_ids": torch.zeros_like(mask), "attention_mask": mask, "past_key_values": cache})
    for step in range(steps + 1):
        assert tracker.frame is not None
        assert tracker.frame.prompt_length.tolist() == lengths
        assert tracker.frame.position[:, -1].tolist() == [n - 1 + step for n in lengths]
        assert LAST.mask(tracker.frame)[:, -1].all() == (step == 0)
        assert GENERATED.mask(tracker.frame).any() == (step > 0)
        cache.past = mask.shape[1]
        mask = torch.cat([mask, torch.ones(len(lengths), 1, dtype=torch.long)], -1)
        tracker(None, (torch.zeros(len(lengths), 1),), {"attention_mask": mask, "past_key_values": cache})


def test_rows_of_is_believed_over_the_mask_and_ends() -> None:
    tracker, ids = FrameTracker(), torch.zeros(2, 5, dtype=torch.long)
    with rows_of(torch.tensor([7, 3]), torch.tensor([2, 4])):
        tracker(None, (), {"input_ids": ids})
        assert tracker.frame is not None
        assert tracker.frame.row.tolist() == [7, 3]
        assert LAST.mask(tracker.frame).nonzero().tolist() == [[0, 1], [1, 3]]
    tracker(None, (), {"inputs_embeds": torch.zeros(2, 5, 32)})
    assert tracker.frame.row.tolist() == [0, 1]
    assert tracker.frame.prompt_length.tolist() == [5, 5]


# --- words for positions --------------------------------------------------------------------------------------------


@given(st.integers(-99, 99), st.none() | st.integers(-99, 99))
def test_parsing_spans(start: int, stop: int | None) -> None:
    text = f"{start}:{'' if stop is None else stop}"
    empty = stop is not None and (start < 0) == (stop < 0) and stop <= start
    if empty:
        with pytest.raises(SiteError, match=rf"span {start}:{stop} holds no token"):
            parse_positions(text)
    else:
        assert parse_positions(f" {text} ") == Span(start, stop)


@given(st.integers(-9, 9), st.integers(1, 9))
def test_parsing_one_position(at: int, length: int) -> None:
    """`-2` is the last but one token of the prompt, `4` the fifth."""
    frame = pad([[5] * length]).frame
    wanted = at if at >= 0 else length + at
    expected = [[0, wanted]] if 0 <= wanted < length else []
    assert parse_positions(str(at)).mask(frame).nonzero().tolist() == expected


def test_parsing_words() -> None:
    words = {"all": ALL, "prompt": PROMPT, "generated": GENERATED, "last": LAST}
    assert {word: parse_positions(word) for word in words} == words


@pytest.mark.parametrize("text", ["", "first", "1:2:3", ":", ":3", "1-3", "4.0", "--1", "last:", "1:b", "٣ 4"])
def test_parsing_refuses(text: str) -> None:
    with pytest.raises(SiteError, match=r"are not one of all, prompt, generated, last, a position such as 4") as caught:
        parse_positions(text)
    assert repr(text.strip()) in str(caught.value)


@pytest.mark.parametrize(("start", "stop"), [(3, 3), (3, 1), (-1, -1), (-1, -4), (0, 0)])
def test_empty_spans_are_refused(start: int, stop: int) -> None:
    with pytest.raises(SiteError, match="holds no token"):
        Span(start, stop)


@pytest.mark.parametrize(
    "positions", [RowSpans(((0, 1), (1, 2))), Mask(torch.ones(2, 5, dtype=torch.bool))], ids=["spans", "mask"]
)
def test_prompts_beyond_the_table_are_refused(positions: Positions) -> None:
    frame = pad([[4, 5], [4]], row=[0, 2]).frame
    with pytest.raises(SiteError, match="for 2 prompts, but the batch has prompt 2"):
        positions.mask(frame)
    with pytest.raises(SiteError, match="for 0 prompts, but the batch has prompt 2"):
        RowSpans(()).mask(frame)


def test_masks_tell_themselves_apart_in_text() -> None:
    """What a harvest remembers of its positions must not be a summary that others share."""
    table = torch.zeros(40, 60, dtype=torch.bool)
    table[20, 30] = True
    assert repr(Mask(table)) == repr(Mask(table.clone())) != repr(Mask(torch.zeros_like(table)))
    assert repr(Mask(table)) != repr(Mask(table.view(60, 40)))
    assert len(repr(Mask(table))) < 200


# --- the tokens of a piece of text ----------------------------------------------------------------------------------

ALPHABET = st.text(st.characters(codec="utf-8", exclude_characters="<>"), max_size=12)


@given(ALPHABET, st.text(st.characters(codec="utf-8", exclude_characters="<>"), min_size=1, max_size=4), ALPHABET)
def test_text_spans_are_the_bytes_of_the_part(before: str, part: str, after: str) -> None:
    """With one token a byte: the bytes of the last occurrence."""
    text = before + part + after
    start = len(text[: text.rfind(part)].encode())
    assert text_spans(pico.tokenizer(), [text], [part]).spans == ((start, start + len(part.encode())),)


def test_text_spans_are_rows_of_a_batch() -> None:
    texts, parts = ["Paris, or Paris", "In naïve Tōkyō 🗼 today"], ["Paris", "ō 🗼"]
    spans = text_spans(pico.tokenizer(), texts, parts)
    for text, part, (start, stop) in zip(texts, parts, spans.spans, strict=True):
        ids = pico.tokenizer()(text)["input_ids"]
        assert pico.tokenizer().decode(ids[start:stop]) == part
    assert spans.last().spans == tuple((stop - 1, stop) for _, stop in spans.spans)
    batch = pad([pico.tokenizer()(text)["input_ids"] for text in texts])
    assert spans.mask(batch.frame).sum(-1).tolist() == [5, len("ō 🗼".encode())]


def test_text_spans_overlap_tokens_that_hold_more() -> None:
    """A token that crosses the part's edge belongs to it, and special tokens do not."""

    def words(text: str, **_: object) -> dict[str, list[tuple[int, int]]]:
        return {"offset_mapping": [(0, 0), (0, 4), (4, 9), (9, 15)]}

    assert text_spans(words, ["an old capital"], ["old cap"]).spans == ((1, 4),)


@pytest.mark.parametrize(("text", "part"), [("Rome is old", "Paris"), ("Rome", "rome"), ("", "a"), ("Rome", "")])
def test_missing_parts_are_named(text: str, part: str) -> None:
    with pytest.raises(SiteError) as caught:
        text_spans(pico.tokenizer(), ["Rome Paris rome a", text], ["a", part])
    assert str(caught.value) == f"the text {text!r} does not contain {part!r}"


def test_parts_without_tokens_and_unlike_lists_are_refused() -> None:
    def blind(text: str, **_: object) -> dict[str, list[tuple[int, int]]]:
        return {"offset_mapping": [(0, 2), (3, 5)]}  # a tokenizer that drops blanks

    with pytest.raises(SiteError, match="no token of the text 'ab cd' covers ' '"):
        text_spans(blind, ["ab cd"], [" "])
    with pytest.raises(SiteError, match="2 texts but 1 parts"):
        text_spans(pico.tokenizer(), ["ab", "cd"], ["a"])
