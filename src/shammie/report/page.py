"""One self-contained HTML page: it opens offline, asks the network for nothing, and follows the reader's theme."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

from shammie.core.errors import DataError
from shammie.report.blocks import Block
from shammie.report.figures.scales import ramp_css
from shammie.report.markup import Markup, clean, join, shorten

if TYPE_CHECKING:
    import jinja2

MAX_BYTES = 5_000_000
"""A page over this is refused: it would no longer open at once on a phone or pass as an attachment."""


@dataclass(frozen=True)
class Section:
    """One part of a page: a chapter of the tour, or a group of results."""

    name: str
    """Becomes the anchor; unique within the page."""
    title: str
    question: str
    """What a person learns here, in one sentence; may be empty."""
    command: str
    """The command line that makes this section alone; may be empty."""
    blocks: Sequence[Block]


class _Part(NamedTuple):
    """A section as the template takes it."""

    section: Section
    anchor: str
    body: Markup


def render_page(
    title: str,
    subtitle: str,
    facts: Sequence[tuple[str, str]],
    sections: Sequence[Section],
    footer: str = "",
    *,
    eyebrow: str = "",
) -> str:
    """Render a page.

    Args:
        title: the page's heading.
        subtitle: a sentence or two under it; **bold** and `code` are rendered.
        facts: (label, value) pairs that every reader needs: model, command, seed, date.
        sections: in reading order.
        footer: a closing line; **bold** and `code` are rendered.
        eyebrow: a few words above the title.

    Raises:
        DataError: two sections of one name, or a page over MAX_BYTES (names the largest section).
    """
    parts: list[_Part] = []
    for section in sections:
        anchor = _slug(section.name)
        if any(part.anchor == anchor for part in parts):
            raise DataError(f"Two sections of the page are named {section.name!r}: give each its own name.")
        parts.append(_Part(section, anchor, join(block.html() for block in section.blocks)))
    script = _asset("page.js")
    page = _template().render(
        title=clean(title),
        subtitle=subtitle,
        eyebrow=eyebrow,
        facts=facts,
        parts=parts,
        footer=footer,
        style=Markup(_style()),
        script=Markup(script),
        policy=_policy(script),
        icon=Markup(_icon()),
    )
    size = len(page.encode())
    if size > MAX_BYTES:
        largest = max(parts, key=lambda part: len(part.body), default=None)
        culprit = f", most of it in section {shorten(largest.section.name, 40)!r}" if largest else ""
        raise DataError(
            f"The page would be {size / 1e6:.1f} MB, over {MAX_BYTES / 1e6:g} MB{culprit}: draw fewer rows or cells."
        )
    return page


def _slug(name: str) -> str:
    return "at-" + (re.sub(r"[^a-z0-9]+", "-", clean(name).lower()).strip("-") or "section")


@cache
def _asset(name: str) -> str:
    return (files("shammie.report") / "templates" / name).read_text(encoding="utf-8").strip() + "\n"


@cache
def _style() -> str:
    dark = f"@media screen and (prefers-color-scheme:dark){{{ramp_css('dark')}}}"
    return f"{_asset('page.css')}{ramp_css('light')}\n{dark}\n"


def _policy(script: str) -> str:
    """A policy under which the browser runs our one script and fetches nothing, whatever a model has written."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def _icon() -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(_asset("icon.svg").encode()).decode()


@cache
def _template() -> jinja2.Template:
    import jinja2

    from shammie.report.blocks import inline

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["inline"] = inline
    environment.filters["clean"] = clean
    return environment.from_string(_asset("page.html"))
