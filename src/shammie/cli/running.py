"""What every command that writes a run has in common: the directory, resuming, the dry run, the page, the table."""

from __future__ import annotations

import dataclasses
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shammie.cli.commands import COMMANDS, config_class
from shammie.cli.console import facts, say, table
from shammie.core import files
from shammie.core.errors import RunError
from shammie.core.plain import from_plain, to_plain
from shammie.core.run import RECORD, Run, RunRecord, read_run
from shammie.core.task import Task

PLACE = ("output_dir", "resume", "dry_run")  # where and how a run is made: no part of what defines its results
_SHOWN = 12
_TORN = re.compile(r"\..*\.[0-9a-f]{8}\.tmp")


def carry_out(name: str, config: Any) -> int:
    """Execute a config that has `prepare` into its output_dir, or into a temporary one that is thrown away."""
    if config.dry_run:
        say(facts(config.prepare().estimate()))
        return 0
    with place(config.output_dir) as directory:
        if not config.resume and (directory / RECORD).exists():  # said before a model is loaded
            remedy = "add --resume to continue it or choose another --output-dir"
            raise RunError(f"{directory} already holds a run; {remedy}")
        code = execute(name, config, directory)
        record = read_run(directory)
        say(summary(record.results))
        if config.output_dir is not None:
            say(f"\n{directory / 'report.html'}")
        return code


def execute(name: str, config: Any, directory: Path) -> int:
    """Write the run and its page, and print nothing."""
    task: Task = dataclasses.replace(config, output_dir=directory).prepare()
    with Run.open(name, recorded(config), directory, inputs=task.inputs, resume=config.resume) as run:
        _sweep(directory)
        code = task.execute(run)
    write_page(directory)
    return code


def recorded(config: Any) -> dict[str, Any]:
    """The part of a config that defines its results: what run.json holds and a resumed run must repeat."""
    return {key: value for key, value in to_plain(config).items() if key not in PLACE}


@contextmanager
def place(directory: Path | None) -> Iterator[Path]:
    """The directory of a run, or one that is thrown away afterwards."""
    if directory is not None:
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="shammie-") as temporary:
        yield Path(temporary) / "run"


def _sweep(directory: Path) -> None:
    """Remove what a killed process was about to write; the run's lock is held."""
    for path in sorted(directory.rglob(".*.tmp")):
        if _TORN.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def write_page(directory: Path) -> Path:
    """Draw report.html from the records: by the command's own `page(record)`, or the page of any run."""
    from shammie.report import run_report

    record = read_run(directory)
    own = getattr(config_class(record.command), "page", None) if record.command in COMMANDS else None
    path = directory / "report.html"
    files.write_atomic(path, own(record) if own else run_report(vars(record)))
    return path


def summary(results: Sequence[Mapping[str, Any]]) -> str:
    """The first records of each kind as tables."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        groups.setdefault(str(result.get("kind", "results")), []).append(result)
    parts = []
    for kind, group in groups.items():
        names = [name for name in dict.fromkeys(key for result in group for key in result) if name != "kind"]
        names = [name for name in names if any(result.get(name) is not None for result in group)]
        more = f"\n… and {len(group) - _SHOWN:,} more in results.jsonl" if len(group) > _SHOWN else ""
        rows = [[result.get(name) for name in names] for result in group[:_SHOWN]]
        parts.append(f"{kind.replace('_', ' ')} ({len(group):,})\n{table(names, rows)}{more}")
    return "\n\n".join(parts) or "no results yet"


def restore(record: RunRecord, directory: Path) -> Any:
    """The config of a recorded run, to be executed into `directory`."""
    return from_plain(config_class(record.command), {**record.config, "output_dir": directory})
