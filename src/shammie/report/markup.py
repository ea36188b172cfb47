"""Safe HTML from untrusted text: model output, file names and prompts may hold anything at all."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable

_ILLEGAL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
    "|[" + "".join(chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF) for plane in range(1, 17)) + "]"
)
_SELF_CLOSING = frozenset({"line", "circle", "path", "rect", "polyline", "polygon", "br"})
_WHITE = {" ": "·", "\n": "↵", "\t": "⇥"}
_OTHER_SPACES = re.compile(r"[^\S \n\t]")


class Markup(str):
    """A string that is already safe HTML: templates and blocks pass it through, and escape every other string."""

    __slots__ = ()

    def __html__(self) -> str:
        """Tell jinja2 that this needs no escaping."""
        return self


def clean(text: str) -> str:
    """Make text legal in HTML and XML: control characters become their Unicode pictures, lone surrogates U+FFFD."""

    def picture(match: re.Match[str]) -> str:
        code = ord(match[0])
        if code < 0x20:
            return chr(0x2400 + code)
        return "\u2421" if code == 0x7F else "\ufffd"

    return _ILLEGAL.sub(picture, str(text).replace("\r\n", "\n").replace("\r", "\n"))


def escape(text: object) -> Markup:
    """Escape for element content and for quoted attributes; `Markup` passes unchanged."""
    return text if isinstance(text, Markup) else Markup(html.escape(clean(str(text)), quote=True))


def join(pieces: Iterable[object], separator: str = "") -> Markup:
    """Concatenate pieces, escaping those that are not `Markup`."""
    return Markup(escape(separator).join(escape(piece) for piece in pieces))


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """One well-formed element; `class_` means class, `a_b` means a-b, None drops an attribute."""
    written = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        name = key.rstrip("_").replace("_", "-")
        if isinstance(value, float):
            value = coordinate(value)
        written.append(f' {name}="{escape(name if value is True else value)}"')
    head = f"<{tag}{''.join(written)}"
    if tag in _SELF_CLOSING and not children:
        return Markup(f"{head}/>")
    return Markup(f"{head}>{join(children)}</{tag}>")


def empty(sentence: str) -> Markup:
    """The state of a block or figure that has nothing to show: one quiet sentence."""
    return element("p", sentence, class_="empty")


def coordinate(value: float) -> str:
    """A number for an SVG attribute: two decimals, no trailing zeros, never `-0`."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def percent(fraction: float) -> str:
    """A fraction of the plot as an SVG or CSS percentage."""
    return f"{coordinate(100 * fraction)}%"


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters with an ellipsis; never ends in a dangling joiner or before a combining mark."""
    if len(text) <= limit:
        return text
    cut = limit - 1
    while cut > 1 and (
        unicodedata.combining(text[cut]) or "\u200d" in text[cut - 1 : cut + 1] or text[cut] == "\ufe0f"
    ):
        cut -= 1
    return text[:cut] + "…"


def token(text: str, limit: int = 24) -> Markup:
    """A token as a reader must see it: leading, trailing and odd spaces become faint signs, long ones are cut.

    The whole is isolated against right-to-left neighbours; `limit` counts characters.
    """
    text = clean(text)
    if not text:
        return element("span", "∅", class_="ws")
    core = text.strip(" \n\t")
    start = text.find(core) if core else len(text)
    before, after = text[:start], text[start + len(core) :]
    shown = shorten(core, limit)
    middle = "".join(_WHITE.get(c, c) if c != " " else " " for c in _OTHER_SPACES.sub("␣", shown))
    return element("bdi", _signs(before), middle, _signs(after))


def _signs(spaces: str) -> Markup:
    if not spaces:
        return Markup()
    shown = "".join(_WHITE[c] for c in spaces)
    return element("span", shown if len(shown) <= 4 else f"{shown[:2]}…×{len(shown)}", class_="ws")


def quoted(text: str) -> str:
    """A token in quotation marks for tooltips, with line breaks and tabs escaped."""
    text = clean(text).replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")
    return f"“{shorten(text, 200)}”"
