"""Run directories: resolved config, versions and append-only results that survive a kill at any moment."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

from shammie.core import files
from shammie.core.errors import DataError, MissingFileError, RunError
from shammie.core.plain import ABSENT, differences, from_plain, to_plain

__all__ = ["Run", "RunRecord", "compare", "from_plain", "read_run", "to_plain"]

SCHEMA = 1
RECORD, RESULTS, PROGRESS = "run.json", "results.jsonl", "progress.jsonl"


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What a run directory holds; `results` are the committed records, `completed` the keys of a finished run."""

    directory: Path
    command: str
    config: dict[str, Any]
    inputs: dict[str, Any]
    versions: dict[str, str | None]
    machine: dict[str, Any]
    status: str
    started: str
    finished: str | None
    completed: int
    resumed: list[dict[str, Any]]
    results: list[dict[str, Any]]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _session() -> dict[str, Any]:
    """When, with which versions and on what machine; never imports torch for it."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("shammie", "torch", "transformers", "numpy"):
        versions[package] = None
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else os.cpu_count()
    cpu = platform.processor() or platform.machine()
    machine = {"platform": platform.platform(), "cpu": cpu, "cpus": os.cpu_count(), "threads": threads}
    return {"started": _now(), "versions": versions, "machine": machine}


def _load(directory: Path) -> dict[str, Any]:
    path = directory / RECORD
    record = files.read_json(path)
    names = {field.name for field in dataclasses.fields(RunRecord)} - {"directory", "results"}
    if not isinstance(record, dict) or record.pop("schema", None) != SCHEMA or record.keys() != names:
        raise DataError(
            f"{path} is no record of this version of shammie; use the one that wrote it, or another directory"
        )
    return record


def _progress(directory: Path) -> tuple[dict[str, int], int]:
    """Each finished key with the length of results.jsonl after it, and the length of those lines of progress.jsonl.

    What a kill tore is left out: a last line without its end, and keys whose results are not all there.
    """
    path, results = directory / PROGRESS, directory / RESULTS
    data = files.read_bytes(path) if path.exists() else b""
    available = results.stat().st_size if results.exists() else 0
    done: dict[str, int] = {}
    length = committed = 0
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        entry = files.parse_json(line, path, number)
        key, size = (entry.get("key"), entry.get("bytes")) if isinstance(entry, dict) else (None, None)
        if not isinstance(key, str) or type(size) is not int or size < committed or key in done:
            raise DataError(f"{path}, line {number}: not a new finished key; run again in another --output-dir")
        if size > available:
            break
        done[key] = committed = size
        length += len(line) + 1
    return done, length


def _results(directory: Path, done: dict[str, int]) -> list[dict[str, Any]]:
    path, committed = directory / RESULTS, next(reversed(done.values()), 0)
    lines = files.read_bytes(path)[:committed].removesuffix(b"\n").split(b"\n") if committed else []
    return [files.parse_json(line, path, number) for number, line in enumerate(lines, 1)]


def read_run(directory: files.PathLike) -> RunRecord:
    """Read a run directory, finished or not; one sentence when it holds no run or a corrupt line."""
    directory = Path(directory)
    if not (directory / RECORD).exists():
        raise MissingFileError(f"{directory} holds no run ({RECORD} is missing); name a run's --output-dir")
    record, (done, _) = _load(directory), _progress(directory)
    if record["status"] == "finished" and len(done) < record["completed"]:
        raise DataError(f"{directory / RESULTS} has lost results of a finished run; make them again with --resume")
    return RunRecord(directory=directory, **record, results=_results(directory, done))


class Run:
    """One run directory, held by this process; made by `Run.open`.

    `results.jsonl` holds the records alone; a line of `progress.jsonl` commits a key and the bytes up to its records.
    """

    def __init__(self, directory: Path, fresh: dict[str, Any], resume: bool) -> None:
        self.directory, self._record = directory, fresh
        for torn in directory.glob(f".{RECORD}.*.tmp"):
            torn.unlink()
        if self.path(RECORD).exists():
            self._continue(resume)
        elif self.path(RESULTS).exists() or self.path(PROGRESS).exists():
            raise RunError(f"{directory} holds results but no {RECORD}; choose another --output-dir")
        self._done, self._length = _progress(directory)
        self.finished = self._record["status"] == "finished" and len(self._done) == self._record["completed"]
        if not self.finished:
            self._save("running", None)
            files.append(self.path(RESULTS), b"", at=self._committed)
            files.append(self.path(PROGRESS), b"", at=self._length)

    def _continue(self, resume: bool) -> None:
        fresh, old, parts = self._record, _load(self.directory), ("command", "config", "inputs")
        if not resume:
            remedy = "add --resume to continue it or choose another --output-dir"
            raise RunError(f"{self.directory} already holds a run; {remedy}")
        for place, before, now in differences({p: old[p] for p in parts}, {p: fresh[p] for p in parts}):
            remedy = "repeat its settings or choose another --output-dir"
            raise RunError(f"{self.directory} holds a run whose {place} is {before!r}, not {now!r}; {remedy}")
        session = {key: fresh[key] for key in ("started", "versions", "machine")}
        self._record = old | {"resumed": [*old["resumed"], session]}

    @classmethod
    @contextmanager
    def open(
        cls,
        command: str,
        config: Any,
        directory: files.PathLike,
        *,
        inputs: Mapping[str, Any] | None = None,
        resume: bool = False,
    ) -> Iterator[Run]:
        """Hold `directory` for a fresh run, or for the rest of one with the same command, config and inputs.

        Raises:
            RunError: another process holds it, it holds a run and `resume` is off, or it holds a different run.
        """
        directory = Path(directory)
        named = {"command": command, "config": to_plain(config), "inputs": to_plain(inputs or {})}
        named = files.parse_json(files.to_json(named, str(directory / RECORD)), directory / RECORD)
        fresh = named | _session() | {"status": "running", "finished": None, "completed": 0, "resumed": []}
        with files.lock(directory / ".lock"):
            run = cls(directory, fresh, resume)
            try:
                yield run
            except BaseException:
                with suppress(RunError):
                    run._close("failed")
                raise
            run._close("finished")

    def _close(self, status: str) -> None:
        if not self.finished:
            self._save(status, _now())

    def _save(self, status: str, finished: str | None) -> None:
        self._record |= {"status": status, "finished": finished, "completed": len(self._done)}
        files.write_json(self.path(RECORD), {"schema": SCHEMA, **self._record})

    @property
    def _committed(self) -> int:
        return next(reversed(self._done.values()), 0)

    def record(self, key: str, records: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
        """Durably add the records of one finished item; NaN or infinity is a NonFiniteError naming key and field."""
        assert key not in self._done, f"{key} is recorded twice"
        assert not self.finished, "the run is finished"
        rows = [records] if isinstance(records, Mapping) else records
        lines = [files.to_json(dict(row), f"item {key!r}, record {i}") + "\n" for i, row in enumerate(rows)]
        size = files.append(self.path(RESULTS), files.encode("".join(lines)), at=self._committed)
        line = files.to_json({"key": key, "bytes": size}, key) + "\n"
        self._length = files.append(self.path(PROGRESS), files.encode(line), at=self._length)
        self._done[key] = size

    def pending(self, keys: Iterable[str]) -> list[str]:
        """The keys still to do, in their order; none when the run was already finished."""
        return [key for key in keys if not self.finished and key not in self._done]

    def reopen(self) -> None:
        """Take further items although the run had finished: a series of measurements may grow."""
        self.finished = False
        self._save("running", None)

    def items(self, keys: Sequence[str], description: str) -> Iterator[str]:
        """Yield the pending keys under a progress bar that counts the finished ones; no bar without a terminal."""
        from tqdm import tqdm

        pending = self.pending(keys)
        done = len(keys) - len(pending)
        yield from tqdm(pending, desc=description, total=len(keys), initial=done, unit="item", disable=None)

    def results(self) -> list[dict[str, Any]]:
        """All committed records, those of earlier sessions included."""
        return _results(self.directory, self._done)

    def path(self, name: str) -> Path:
        """A file of this run."""
        return self.directory / name

    @property
    def artifacts(self) -> Path:
        """The directory for what the run makes besides records, created when first asked for."""
        directory = self.path("artifacts")
        directory.mkdir(exist_ok=True)
        return directory


def compare(left: Sequence[Any], right: Sequence[Any], tolerance: float = 0.0) -> list[str]:
    """One line a difference between two lists of records: index, field path and both values."""
    lines = []
    for index, (before, after) in enumerate(zip_longest(left, right, fillvalue=ABSENT)):
        for place, one, other in differences(before, after, tolerance):
            lines.append(f"record {index}{place and ', ' + place}: {one!r} is not {other!r}")
    return lines
