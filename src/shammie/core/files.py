"""Durable files: atomic writes and directories, appends, JSON, safetensors, hashes and locks."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from shammie.core.errors import BackendError, DataError, MissingFileError, NonFiniteError, RunError, ShammieError

if TYPE_CHECKING:
    import torch

PathLike: TypeAlias = str | Path

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REMEDIES = dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "choose a writable --output-dir")
_REMEDIES |= dict.fromkeys(_FULL, "free space, then continue with --resume")


@contextmanager
def _writing(path: Path, only: tuple[int, ...] | None = None) -> Iterator[None]:
    """Turn an OSError (of the numbers in `only`) into one sentence with what to do."""
    try:
        yield
    except OSError as error:
        if only and error.errno not in only:
            raise
        remedy = _REMEDIES.get(error.errno or 0, "choose another --output-dir")
        raise RunError(f"cannot write {path}: {error.strerror or error}; {remedy}") from error


@contextmanager
def reading(path: PathLike) -> Iterator[None]:
    """Turn an OSError of the body into one sentence that names `path`."""
    try:
        yield
    except FileNotFoundError as error:
        raise MissingFileError(f"{path} does not exist; check the path") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; name a readable file") from error


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name[:180]}.{secrets.token_hex(4)}.tmp")


@contextmanager
def _descriptor(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    with _descriptor(path, os.O_RDONLY) as descriptor:
        os.fsync(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a new empty file beside `path` that durably takes its place when the body succeeds."""
    temporary = _beside(path)
    try:
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch(exist_ok=False)
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
            _sync(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomic(path: PathLike, data: bytes | str) -> None:
    """Write a whole file durably; on any failure the old file stays and a RunError says why."""
    with _replacing(Path(path).resolve()) as temporary, _descriptor(temporary, os.O_WRONLY) as descriptor:
        _write_all(descriptor, encode(data) if isinstance(data, str) else data)


@contextmanager
def atomic_directory(path: PathLike, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary directory that becomes `path` when the body succeeds and vanishes when it fails.

    RunError when `path` is a file, or holds something and `overwrite` is off, or when the disk is full or read-only.
    """
    path = Path(path).resolve()
    temporary, old = _beside(path), _beside(path)
    with _writing(path):
        if path.exists() and (not path.is_dir() or (not overwrite and any(path.iterdir()))):
            raise RunError(f"{path} already exists and is not empty; choose another --output-dir")
    try:
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
        with _writing(path, only=_FULL):
            yield temporary
        with _writing(path):
            for part in (*temporary.rglob("*"), temporary):
                _sync(part)
            if path.exists():
                path.rename(old)
            temporary.rename(path)
            _sync(path.parent)
    except ShammieError as error:
        error.args = (str(error).replace(str(temporary), str(path)),)
        raise
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)


def append(path: PathLike, data: bytes, *, at: int) -> int:
    """Cut the file to `at` bytes, durably add `data` in one write, and return the new length.

    A failed append leaves `at` bytes. Raises RunError when the disk is full or the file is shorter than `at`.
    """
    path = Path(path)
    with _writing(path), _descriptor(path, os.O_CREAT | os.O_WRONLY) as descriptor:
        if os.fstat(descriptor).st_size < at:
            raise RunError(f"{path} was shortened by another program; continue with --resume")
        os.ftruncate(descriptor, at)
        os.lseek(descriptor, at, os.SEEK_SET)
        try:
            _write_all(descriptor, data)
            os.fsync(descriptor)
        except BaseException:
            with suppress(OSError):
                os.ftruncate(descriptor, at)
            raise
    return at + len(data)


def encode(text: str) -> bytes:
    """UTF-8; a lone surrogate becomes its JSON escape, so any string survives a round trip through JSON."""
    return text.encode("utf-8", "backslashreplace")


def to_json(value: Any, place: str, *, indent: int | None = None) -> str:
    """Valid JSON text of `value`; NaN or infinity raises a NonFiniteError naming `place` and the field."""
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False, indent=indent)
    except ValueError as error:
        found = _non_finite(value)
        raise NonFiniteError(f"{place}: {found or error}; only finite numbers can be saved") from error


def _non_finite(value: Any, place: str = "") -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return f"{place.lstrip('.') or 'the value'} is {value}"
    parts = [(f".{key}", inner) for key, inner in value.items()] if isinstance(value, Mapping) else []
    parts += [(f"[{i}]", inner) for i, inner in enumerate(value)] if isinstance(value, list | tuple) else []
    return next((found for name, inner in parts if (found := _non_finite(inner, place + name))), None)


def parse_json(text: str | bytes, path: PathLike, line: int = 1) -> Any:
    """Parse text that starts at `line` of `path`; anything but strict JSON is a DataError with file and line."""
    try:
        return json.loads(text.decode() if isinstance(text, bytes) else text, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        line, problem = line + error.object[: error.start].count(b"\n"), "the bytes are not UTF-8"
    except json.JSONDecodeError as error:
        line, problem = line + error.lineno - 1, error.msg
    except (ValueError, RecursionError) as error:
        problem = str(error)
    raise DataError(f"{path}, line {line}: invalid JSON ({problem}); mend the line or make the file again")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def write_json(path: PathLike, value: Any) -> None:
    """Write `value` atomically as indented JSON; NaN or infinity is a NonFiniteError naming the file."""
    write_atomic(path, to_json(value, str(path), indent=2) + "\n")


def read_bytes(path: PathLike) -> bytes:
    """The file's bytes; MissingFileError or DataError when it cannot be read."""
    with reading(path):
        return Path(path).read_bytes()


def read_json(path: PathLike) -> Any:
    """Read one JSON file; MissingFileError, or DataError with file and line."""
    return parse_json(read_bytes(path), path)


def save_tensors(path: PathLike, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write safetensors atomically; the same tensors always give the same bytes."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        copy = tensor.detach().cpu().contiguous()
        shared = copy.untyped_storage().data_ptr() in seen  # safetensors refuses shared storage
        plain[name] = copy.clone() if shared else copy
        seen.add(copy.untyped_storage().data_ptr())
    with _replacing(Path(path).resolve()) as temporary:
        mode = temporary.stat().st_mode
        try:
            save_file(plain, temporary, metadata={"format": "pt"})  # as transformers expects it
        except SafetensorError as error:
            number = int((re.findall(r"os error (\d+)", str(error)) or [errno.EIO])[0])
            raise OSError(number, os.strerror(number)) from error
        temporary.chmod(mode)


def load_tensors(path: PathLike) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file, on the CPU; a corrupt or truncated file is a DataError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        with reading(path):
            return load_file(path)
    except SafetensorError as error:
        raise DataError(f"{path} is corrupt or truncated ({error}); copy or make it again") from error


def sha256_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: PathLike) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    with reading(path), Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def lock(path: PathLike, *, blocking: bool = False) -> Iterator[None]:
    """Hold a lock that dies with this process; RunError when another holds it, unless `blocking` waits for it."""
    from filelock import FileLock, Timeout

    path = Path(path)
    held = FileLock(path, timeout=-1 if blocking else 0)
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            held.acquire()
        except Timeout:
            remedy = "wait for it or choose another --output-dir"
            raise RunError(f"{path.parent} is in use by another process; {remedy}") from None
    try:
        yield
    finally:
        held.release()


def package(name: str, extra: str) -> Any:
    """The module `name`, which an extra of shammie installs; BackendError with the command where it is not."""
    try:
        return import_module(name)
    except ImportError:
        raise BackendError(f"the package {name} is not installed; run: pip install 'shammie[{extra}]'") from None


def cache_directory() -> Path:
    """Where shammie keeps what it can make again: $SHAMMIE_CACHE or ~/.cache/shammie."""
    return Path(os.environ.get("SHAMMIE_CACHE") or "~/.cache/shammie").expanduser()
