"""What a chapter can be made of: prose, headline numbers, tables, figures, texts side by side, and folds."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shammie.core.errors import DataError
from shammie.report.figures.bars import whiskers
from shammie.report.markup import Markup, clean, element, empty, escape, join, shorten
from shammie.report.numerals import (
    Number,
    as_number,
    bare_value,
    fixed,
    is_estimate,
    is_number,
    plain,
    with_doubt,
)

_INLINE = re.compile(r"(`[^`\n]+`|\*\*(?=\S)[^\n]+?(?<=\S)\*\*)")
_DIFF_WORDS = 800


class Block(Protocol):
    """Anything that a section of the page can show."""

    def html(self) -> Markup:
        """Draw this block as one well-formed HTML element."""
        ...


def inline(text: str) -> Markup:
    """Escape text and render its **bold** and `code`, the only two marks there are."""
    pieces: list[Markup] = []
    for piece in _INLINE.split(text):
        if len(piece) > 2 and piece[0] == piece[-1] == "`":
            pieces.append(element("code", piece[1:-1]))
        elif len(piece) > 4 and piece.startswith("**") and piece.endswith("**"):
            pieces.append(element("strong", piece[2:-2]))
        else:
            pieces.append(escape(piece))
    return join(pieces)


@dataclass(frozen=True)
class Prose:
    """Paragraphs, separated by blank lines, with **bold** and `code`."""

    text: str

    def html(self) -> Markup:
        """Draw one <p> a paragraph."""
        paragraphs = [part.strip() for part in re.split(r"\n\s*\n", clean(self.text)) if part.strip()]
        return element("div", *(element("p", inline(part)) for part in paragraphs), class_="prose")


@dataclass(frozen=True)
class Numbers:
    """Headline figures, each with its interval and its control beside it, drawn to one scale within a card."""

    items: Sequence[Number | Sequence[Any]]

    def html(self) -> Markup:
        """Draw one card a figure; raises what `as_number` raises."""
        if not self.items:
            return empty("No figures were measured.")
        return element("div", *(self._card(as_number(item)) for item in self.items), class_="numbers")

    def _card(self, number: Number) -> Markup:
        value, interval = with_doubt(number.value, number.low, number.high)
        doubt = " · ".join(
            part for part in (interval, f"n = {plain(number.n)}" if number.n is not None else "") if part
        )
        parts = [
            element("div", number.label, class_="number-label"),
            element("div", value, class_="number-value"),
            element("div", doubt, class_="number-doubt") if doubt else Markup(),
            self._whisker(number),
        ]
        if number.control is not None:
            middle, bounds = with_doubt(number.control.value, number.control.low, number.control.high)
            reading = element("span", f"{middle} {bounds}".strip(), class_="nums")
            mark = element("i", class_="mark-control", aria_hidden="true")
            parts.append(element("div", mark, number.control.label, " ", reading, class_="number-control"))
        return element("div", *parts, class_="number")

    def _whisker(self, number: Number) -> Markup:
        if number.low is None or number.high is None:
            return Markup()
        return element("div", whiskers(number), class_="whisker", aria_hidden="true")


@dataclass(frozen=True)
class Table:
    """A table that scrolls inside its own box on small screens; columns of numbers are aligned by their digits.

    A cell is text, a number, a boolean, None, or an estimate {"value", "low", "high"}.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""

    def html(self) -> Markup:
        """Draw the table; raises DataError when a row's length is not that of the header."""
        for index, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise DataError(
                    f"Row {index} of table {shorten(self.caption, 60)!r} has {len(row)} cells for "
                    f"{len(self.columns)} columns: give one cell a column."
                )
        if not self.columns or not self.rows:
            nothing = f"{self.caption.rstrip('.')}: no rows." if self.caption else "No rows."
            return empty(nothing)
        rows = [[bare_value(cell) for cell in row] for row in self.rows]
        columns = [_Column([row[index] for row in rows]) for index in range(len(self.columns))]
        head = [
            element("th", name, scope="col", class_="nums" if column.numeric else None)
            for name, column in zip(self.columns, columns, strict=True)
        ]
        body = [
            element("tr", *(column.cell(value) for column, value in zip(columns, row, strict=True))) for row in rows
        ]
        table = element(
            "table",
            element("caption", inline(self.caption)) if self.caption else Markup(),
            element("thead", element("tr", *head)),
            element("tbody", *body),
        )
        name = self.caption or "table"
        return element("div", table, class_="table scroll", tabindex="0", role="region", aria_label=name)


class _Column:
    """One table column: decides once whether its cells are numbers and how many decimals they share."""

    def __init__(self, cells: Sequence[Any]) -> None:
        known = [cell for cell in cells if cell is not None]
        self.numeric = bool(known) and all(is_number(cell) or is_estimate(cell) for cell in known)
        floats = [cell for cell in known if isinstance(cell, float)]
        sizes = [abs(cell) for cell in floats if cell and 1e-4 <= abs(cell) < 1e9]
        self.decimals: int | None = None
        if self.numeric and sizes and len(sizes) == sum(cell != 0 for cell in floats) and max(sizes) < 1e3 * min(sizes):
            self.decimals = max(len(plain(cell).partition(".")[2]) for cell in floats)

    def cell(self, value: Any) -> Markup:
        """Draw one <td>."""
        if is_estimate(value):
            middle, bounds = with_doubt(value["value"], value["low"], value["high"])
            return element("td", middle, " ", element("span", bounds, class_="doubt"), class_="nums")
        if is_number(value):
            shared = self.decimals is not None and isinstance(value, float)
            text = fixed(value, self.decimals or 0) if shared else plain(value)
            return element("td", text, class_="nums" if self.numeric else None)
        if isinstance(value, Markup):
            return element("td", value)
        if isinstance(value, dict | list | tuple):
            value = json.dumps(value, ensure_ascii=False, default=str)
        text = plain(value)
        classes = " ".join(
            name for name, on in (("nums", value is None and self.numeric), ("long", len(text) > 36)) if on
        )
        return element("td", text, class_=classes or None)


@dataclass(frozen=True)
class Figure:
    """A drawing from `report.figures` under its title; a plain string in place of a drawing is shown as text."""

    drawing: Markup | str
    caption: str
    note: str = ""

    def html(self) -> Markup:
        """Draw the <figure> with its title above and its note below."""
        return element(
            "figure",
            element("figcaption", inline(self.caption)),
            element("div", self.drawing, class_="drawing"),
            element("p", inline(self.note), class_="note") if self.note else Markup(),
        )


@dataclass(frozen=True)
class TextPair:
    """Two texts side by side, such as a generation before and after an edit; what differs is marked."""

    before: str
    after: str
    before_label: str = "before"
    after_label: str = "after"
    prompt: str = ""

    def html(self) -> Markup:
        """Draw two panes that stack on a phone, under the prompt that they answer."""
        left, right = _difference(self.before, self.after)
        panes = [
            element(
                "div",
                element("div", label, class_="pane-label"),
                element("div", text or element("span", "(empty)", class_="ws"), class_="pane-text", dir="auto"),
                class_=f"pane {side}",
            )
            for side, label, text in (("before", self.before_label, left), ("after", self.after_label, right))
        ]
        prompt = element("div", self.prompt, class_="pair-prompt", dir="auto") if self.prompt else Markup()
        return element("div", prompt, element("div", *panes, class_="panes"), class_="pair")


def _difference(before: str, after: str) -> tuple[Markup, Markup]:
    """Mark the words that one text has and the other has not, unless they share too little for that to help."""
    left, right = (re.findall(r"\s+|\w+|[^\w\s]", text) for text in (before, after))
    if before == after or max(len(left), len(right)) > _DIFF_WORDS:
        return escape(before), escape(after)
    matcher = difflib.SequenceMatcher(None, left, right, autojunk=False)
    if matcher.ratio() < 0.3:
        return escape(before), escape(after)
    sides: tuple[list[Markup], list[Markup]] = ([], [])
    for kind, i, j, k, m in matcher.get_opcodes():
        for side, words in zip(sides, (left[i:j], right[k:m]), strict=True):
            text = "".join(words)
            side.append(element("mark", text) if kind != "equal" and text.strip() else escape(text))
    return join(sides[0]), join(sides[1])


@dataclass(frozen=True)
class Details:
    """Blocks folded behind a summary line."""

    summary: str
    blocks: Sequence[Block]

    def html(self) -> Markup:
        """Draw a closed <details>."""
        body = element("div", *(block.html() for block in self.blocks), class_="fold")
        return element("details", element("summary", inline(self.summary)), body)
