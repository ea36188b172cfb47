"""shammie power."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from shammie.core.task import Task

if TYPE_CHECKING:
    from shammie.core.power import PowerTest
    from shammie.core.run import Run


@dataclass(frozen=True)
class Power:
    """Score a room's method where the truth is planted: power against difficulty at a false-positive rate of 0.05.

    Exits with 1 when power at the middle difficulty is under 0.90, or its lower 95 % bound under 0.80.
    """

    room: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ROOM")]
    """The room to score."""
    output_dir: Path | None = None
    """Directory of the run; thrown away when not given."""
    seed: int = 0
    """Seed from which every draw takes its own."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say how many draws and minutes it would take, and stop."""

    def prepare(self) -> Task:
        """Find the room's planted test."""
        from shammie.cli.commands import planted

        test: PowerTest = planted(self.room)
        return Task(test.describe(), lambda: _estimate(test, self.seed), lambda run: _execute(test, self.seed, run))


def _execute(test: PowerTest, seed: int, run: Run) -> int:
    from shammie.core.power import measure_power, summarize

    for key, records in measure_power(test, seed, lambda keys: run.items(keys, "power")):
        run.record(key, records)
    found = summarize(test, run.results())
    if run.pending(["summary"]):
        run.record("summary", found.records())
    return 0 if found.passed else 1


def _estimate(test: PowerTest, seed: int) -> dict[str, Any]:
    from shammie.cli.console import duration
    from shammie.cli.models import seconds

    draws = 2 * test.null_draws + test.draws * len(test.difficulties)
    each = seconds(lambda: test.score(test.middle, seed))
    return {"difficulties": len(test.difficulties), "draws": draws, "time": f"about {duration(each * draws)}"}
