"""The one small interface by which a room adds its chapter to `shammie tour`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shammie.core.errors import ShammieError
from shammie.report.blocks import Block

Record = dict[str, Any]
"""One line of results.jsonl."""


def of_kind(records: Sequence[Record], kind: str, **wanted: Any) -> list[Record]:
    """The records of a kind whose fields are as wanted, in order."""
    return [r for r in records if r.get("kind") == kind and all(r.get(name) == value for name, value in wanted.items())]


class Context(Protocol):
    """What the tour gives its chapters."""

    model: Any
    """The `core.model.LanguageModel`, which `report` does not know."""
    seed: int
    limit: int | None

    def size(self, reduced: int, full: int) -> int:
        """How many items a measurement takes."""
        ...


@dataclass(frozen=True)
class Chapter:
    """A chapter of the tour: what it measures and how its records become a page.

    Measuring and drawing are apart, so that the page can be drawn again from `results.jsonl` without the model.
    """

    name: str
    """Slug: lower-case letters, digits and hyphens; the chapter's anchor and the argument of `--only`."""
    title: str
    question: str
    """What a person learns here, in one sentence."""
    command: str
    """The command line that makes this chapter alone."""
    measure: Callable[..., Iterator[Record]]
    """(context, settings) -> records; called by the tour, never by `report`."""
    draw: Callable[[list[Record]], list[Block]]
    """The chapter's own records, in the order written -> blocks."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.name):
            raise ShammieError(f"Chapter name {self.name!r} is not a slug: use lower-case letters, digits and hyphens.")
