"""shammie replay."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from shammie.cli.console import say

_LISTED = 20


@dataclass(frozen=True)
class Replay:
    """Execute a finished run again from its record and compare results.jsonl; exits with 1 where they differ."""

    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The --output-dir of a finished run."""
    output_dir: Path | None = None
    """Where to keep the new run; thrown away when not given."""
    tolerance: float = 0.0
    """Relative or absolute difference up to which two numbers count as equal; 0 asks for identical bytes."""

    def run(self) -> int:
        """Replay and compare."""
        from shammie.cli.running import execute, place, restore
        from shammie.core.errors import RunError
        from shammie.core.run import read_run

        if not self.tolerance >= 0:
            raise RunError(f"a tolerance of {self.tolerance} makes no sense; give 0 or more")
        old = read_run(self.directory)
        if old.status != "finished":
            raise RunError(f"{self.directory} is not finished ({old.status}); finish it with --resume first")
        with place(self.output_dir) as directory, _threads(old.machine.get("threads")):
            execute(old.command, restore(old, directory), directory)
            new = read_run(directory)
            for line in _circumstances(vars(old), vars(new)):
                say(line)
            same = _read(self.directory) == _read(directory)
        return _verdict(same, old.results, new.results, self.tolerance)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """As many threads as the recorded run had, where this machine has them: sums depend on it in their last bits."""
    import torch

    before = torch.get_num_threads()
    if count and count <= (os.cpu_count() or 1):
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _read(directory: Path) -> bytes:
    from shammie.core import files
    from shammie.core.run import RESULTS

    return files.read_bytes(directory / RESULTS)


def _circumstances(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """What else has changed since the recorded run, and may explain a difference."""
    from shammie.core.plain import differences

    for part in ("inputs", "versions", "machine"):
        for place, before, now in differences({part: old[part]}, {part: new[part]}):
            yield f"note: {place} was {before}, is now {now}"


def _verdict(same: bool, old: list[dict[str, Any]], new: list[dict[str, Any]], tolerance: float) -> int:
    from shammie.core.run import compare

    if same:
        say(f"identical: {len(old):,} records, byte for byte")
        return 0
    lines = compare(old, new, tolerance)
    if not lines and tolerance:
        say(f"equal: {len(old):,} records, numbers within {tolerance:g}")
        return 0
    for line in lines[:_LISTED]:
        say(line)
    if len(lines) > _LISTED:
        say(f"… and {len(lines) - _LISTED:,} more differences")
    say(f"different: {len(lines):,} values" if lines else "different: the same values in other bytes")
    return 1
