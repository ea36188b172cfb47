"""Typed records from JSON Lines, Parquet, plain text or the Hub, with their content hash."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints

from shammie.core import files
from shammie.core.errors import BackendError, DataError, ShammieError
from shammie.core.plain import from_plain, to_plain

T = TypeVar("T")
Rows = Iterator[tuple[str, Any]]


@dataclasses.dataclass(frozen=True)
class TextRecord:
    """A running text."""

    text: str


@dataclasses.dataclass(frozen=True)
class PromptRecord:
    """A prompt to continue."""

    prompt: str


@dataclasses.dataclass(frozen=True)
class Dataset(Generic[T]):
    """Records with where they came from; `sha256` is of the records as read, whatever the file format."""

    records: tuple[T, ...]
    source: str
    sha256: str
    revision: str | None = None


def load_records(
    source: files.PathLike, record_type: type[T], *, limit: int | None = None, revision: str | None = None
) -> Dataset[T]:
    """Read a .jsonl, .parquet or .txt file or `hf:owner/name[:split]` as records of a frozen dataclass.

    Fields of `record_type` are str, int, float, bool, tuple[str, ...] or optional; other fields of a row are ignored.

    Raises:
        MissingFileError: no such file.
        DataError: anything else wrong with the data, naming file, line and field.
        BackendError: the library for this source is not installed, or the Hub cannot be reached.
    """
    if limit is not None and limit < 1:
        raise DataError(f"a limit of {limit} leaves no records of {source}; give at least 1")
    name, hints = str(source), get_type_hints(record_type)
    if name.startswith("hf:"):
        rows, revision = _hub_rows(name, revision)
    elif revision is not None:
        raise DataError(f"revision {revision!r} does not apply to the file {source}; leave it out")
    else:
        rows = _file_rows(Path(source), hints)
    records = tuple(_record(record_type, hints, row, where) for where, row in islice(rows, limit))
    if not records:
        raise DataError(f"{name} holds no records; give a source with at least one")
    lines = [files.to_json(to_plain(record), f"{name}, record {i}") for i, record in enumerate(records, 1)]
    return Dataset(records, name, files.sha256_bytes(files.encode("\n".join(lines))), revision)


def _record(record_type: type[T], hints: dict[str, Any], row: Any, where: str) -> T:
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected an object with the fields {', '.join(hints)}, got {repr(row)[:60]}")
    try:
        return from_plain(record_type, {name: row[name] for name in hints if name in row})
    except ShammieError as error:
        raise DataError(f"{where}: {error}") from error


def _file_rows(path: Path, hints: dict[str, Any]) -> Rows:
    readers = {".jsonl": _json_lines, ".parquet": _parquet, ".txt": _text_lines}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path} is no data file that shammie reads; give {', '.join(readers)} or hf:owner/name")
    return readers[path.suffix.lower()](path, hints)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Non-empty lines with their number; a byte-order mark is dropped."""
    with files.reading(path), path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise DataError(f"{path}, line {number}: the bytes are not UTF-8; save the file as UTF-8") from error
            if text.strip():
                yield number, text


def _json_lines(path: Path, _: dict[str, Any]) -> Rows:
    for number, line in _lines(path):
        yield f"{path}, line {number}", files.parse_json(line, path, number)


def _text_lines(path: Path, hints: dict[str, Any]) -> Rows:
    if hints != {"text": str}:
        raise DataError(f"{path}: plain text cannot fill the fields {', '.join(hints)}; use .jsonl")
    yield from ((f"{path}, line {number}", {"text": line}) for number, line in _lines(path))


def _parquet(path: Path, hints: dict[str, Any]) -> Rows:
    pyarrow, parquet = (files.package(name, "train") for name in ("pyarrow", "pyarrow.parquet"))
    number = 0
    try:
        with files.reading(path), parquet.ParquetFile(path) as table:
            columns = [column for column in table.schema_arrow.names if column in hints]
            for batch in table.iter_batches(batch_size=1024, columns=columns):
                for number, row in enumerate(batch.to_pylist(), number + 1):  # noqa: B020 - counts on across batches
                    yield f"{path}, record {number}", row
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is not a readable Parquet file ({error}); make or download it again") from error


def _hub_rows(source: str, revision: str | None) -> tuple[Rows, str | None]:
    if not (match := re.fullmatch(r"hf:([\w.-]+(?:/[\w.-]+)?)(?::([\w.-]+))?", source)):
        raise DataError(f"{source!r} names no data set of the Hub; write hf:owner/name or hf:owner/name:split")
    name, split = match[1], match[2] or "train"
    import huggingface_hub

    datasets = files.package("datasets", "train")
    with suppress(Exception):  # offline, a copy in the cache still serves, under the revision that was asked for
        revision = huggingface_hub.HfApi().dataset_info(name, revision=revision).sha or revision
    try:
        table = datasets.load_dataset(name, split=split, revision=revision)
    except Exception as error:  # datasets raises everything from OSError to its own and httpx's
        reason = str(error).strip().split("\n")[0]
        raise BackendError(f"cannot load {source} ({reason}); check name, split and network or name a file") from error
    return ((f"{source}, record {number}", row) for number, row in enumerate(table, 1)), revision
