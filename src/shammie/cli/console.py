"""The one place that prints: lines and tables on standard output, complaints on standard error."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # what a model writes must not steer the terminal
_GAP = "  "
_NARROWEST = 8


def say(text: str = "", *, end: str = "\n") -> None:
    """Print to standard output."""
    print(_CONTROL.sub("�", text), end=end, flush=True)  # noqa: T201


def complain(sentence: str) -> None:
    """Print one sentence to standard error."""
    print(_CONTROL.sub("�", " ".join(sentence.split())), file=sys.stderr, flush=True)  # noqa: T201


def set_up() -> None:
    """Our own messages from INFO up, others from ERROR up, on standard error; trackers and telemetry off."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 still shows every text
    root = logging.getLogger()
    if not any(isinstance(handler, _Complaints) for handler in root.handlers):
        handler = _Complaints()
        handler.setLevel(logging.INFO)
        handler.addFilter(lambda record: record.levelno >= logging.ERROR or record.name.startswith("shammie"))
        root.addHandler(handler)
    logging.getLogger("shammie").setLevel(logging.INFO)


class _Complaints(logging.Handler):
    """Log records as sentences."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message."""
        complain(record.getMessage())


def width() -> int:
    """Columns to fill: those of the terminal, 140 where there is none."""
    return max(40, shutil.get_terminal_size((140, 24)).columns)


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]], *, columns: int | None = None) -> str:
    """Rows under headers, numbers to the right, texts cut so that a line fits `columns`."""
    body = [[show(cell) for cell in row] for row in rows]
    widths = [max(map(_wide, column)) for column in zip(headers, *body, strict=True)]
    room = (columns or width()) - len(_GAP) * (len(widths) - 1)
    while sum(widths) > room and max(widths) > _NARROWEST:
        widths[widths.index(max(widths))] -= 1
    right = [_numeric(column) for column in zip(*rows, strict=True)] if rows else [False] * len(headers)
    lines = [list(headers), ["─" * size for size in widths], *body]
    return "\n".join(
        _GAP.join(_fit(cell, size, at_right) for cell, size, at_right in zip(line, widths, right, strict=True)).rstrip()
        for line in lines
    )


def facts(mapping: Mapping[str, Any]) -> str:
    """A mapping as two columns."""
    size = max((len(name) for name in mapping), default=0)
    return "\n".join(f"{name.replace('_', ' '):<{size}}{_GAP}{show(value)}" for name, value in mapping.items())


def side_by_side(left: tuple[str, str], right: tuple[str, str], *, columns: int | None = None) -> str:
    """Two titled texts in two columns."""
    size = ((columns or width()) - 3) // 2
    halves = [[title, "─" * size, *_wrap(text, size)] for title, text in (left, right)]
    pairs = zip_longest(*halves, fillvalue="")
    return "\n".join(f"{_fit(one, size, False)} │ {two}".rstrip() for one, two in pairs)


def show(value: Any) -> str:
    """A value in a table: numbers short, estimates with their interval, line breaks marked."""
    if isinstance(value, Mapping) and {"value", "low", "high"} <= value.keys():
        low, high = ("?" if value[end] is None else f"{value[end]:.3g}" for end in ("low", "high"))
        return f"{show(value['value'])} [{low}, {high}]"
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("\r", "").replace("\n", "\\n").replace("\t", "\\t")


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _wrap(text: str, size: int) -> list[str]:
    return [line for part in text.split("\n") for line in (textwrap.wrap(part, size) or [""])]


def _numeric(column: Sequence[Any]) -> bool:
    return all(isinstance(cell, int | float | None) and not isinstance(cell, bool) for cell in column)


def _wide(text: str) -> int:
    """Columns that a text takes: two for the wide letters of East Asia, none for combining marks."""
    return len(text) if text.isascii() else sum(_letter(letter) for letter in text)


def _letter(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def _fit(text: str, size: int, at_right: bool) -> str:
    if _wide(text) > size:
        while _wide(text) >= size:
            text = text[:-1]
        text += "…"
    space = " " * (size - _wide(text))
    return space + text if at_right else text + space
