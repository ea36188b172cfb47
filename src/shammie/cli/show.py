"""shammie show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from shammie.cli.console import facts, say


@dataclass(frozen=True)
class Show:
    """Draw a run's report.html afresh from its records, and print its results."""

    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The --output-dir of a run, finished or not."""

    def run(self) -> int:
        """Write the page and print the tables."""
        from shammie.cli.running import summary, write_page
        from shammie.core.run import read_run

        record = read_run(self.directory)
        page = write_page(self.directory)
        about = {"command": f"shammie {record.command}", "status": record.status, "started": record.started}
        say(facts({**about, "finished": record.finished, "results": len(record.results)}))
        say(f"\n{summary(record.results)}\n\n{page}")
        return 0
