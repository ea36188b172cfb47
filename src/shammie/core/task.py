"""What a command that writes a run hands to the frame that runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shammie.core.run import Run


@dataclass(frozen=True)
class Task:
    """What `prepare` of a config returns: everything is loaded and checked, nothing is written.

    Attributes:
        inputs: hashes of the model and of the data, and whatever else the results depend on.
        estimate: what --dry-run shows: counts, time, memory, disk.
        execute: does what is pending, records it, and returns the exit code.
    """

    inputs: Mapping[str, Any]
    estimate: Callable[[], Mapping[str, Any]]
    execute: Callable[[Run], int]
