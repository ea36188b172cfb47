"""Durable files: nothing half-written, identical bytes, one sentence an error."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shammie.core import files
from shammie.core.errors import DataError, MissingFileError, NonFiniteError, RunError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def fails(number):
    def call(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    return call


def interrupt(_):
    raise KeyboardInterrupt


def python(code, *arguments, **options):
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


@settings(deadline=None)
@given(value=JSON)
def test_json_round_trip(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "value.json"
    files.write_json(path, value)
    assert files.read_json(path) == value
    assert path.read_bytes().endswith(b"\n")


def test_json_keeps_order_and_letters_and_survives_lone_surrogates(tmp_path):
    files.write_json(tmp_path / "a.json", {"z": "שלום", "a": "\ud800x"})
    assert (tmp_path / "a.json").read_text("utf-8") == '{\n  "z": "שלום",\n  "a": "\\ud800x"\n}\n'
    assert files.read_json(tmp_path / "a.json") == {"z": "שלום", "a": "\ud800x"}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_json_names_file_and_field_and_writes_nothing(tmp_path, bad):
    with pytest.raises(NonFiniteError, match=r"a\.json: scores\[1\]\.mean is (nan|inf|-inf);"):
        files.write_json(tmp_path / "a.json", {"scores": [1.0, {"mean": bad}]})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"line 1: invalid JSON \(Expecting value\)"),
        (b'{"a": 1,\n "b": }\n', r"line 2: invalid JSON"),
        (b'{"a": "\xff"}', r"line 1: .*not UTF-8"),
        (b'[1,\n"\xff"]', r"line 2: .*not UTF-8"),
        (b'{"a": NaN}', r"line 1: .*NaN is not a number"),
        (b"[" * 100_000, r"line 1: invalid JSON"),
        (b"1" * 5000, r"line 1: invalid JSON"),
    ],
)
def test_bad_json_is_one_sentence_with_file_and_line(tmp_path, content, message):
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"bad\.json, {message}"):
        files.read_json(path)


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(MissingFileError, match=r"none\.json does not exist"):
        files.read_json(tmp_path / "none.json")
    with pytest.raises(DataError, match=r"cannot read .*Is a directory"):
        files.read_json(tmp_path)
    with pytest.raises(MissingFileError, match="none"):
        files.sha256_file(tmp_path / "none")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free space, then continue with --resume"),
        (errno.EDQUOT, "free space, then continue with --resume"),
        (errno.EROFS, "choose a writable --output-dir"),
        (errno.EACCES, "choose a writable --output-dir"),
        (errno.EIO, "choose another --output-dir"),
    ],
)
@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch, call, number, remedy):
    path = tmp_path / "kept.json"
    files.write_json(path, "old")
    monkeypatch.setattr(os, call, fails(number))
    with pytest.raises(RunError, match=rf"cannot write .*kept\.json: .*; {remedy}$"):
        files.write_json(path, "new")
    monkeypatch.undo()
    assert files.read_json(path) == "old"
    assert [inner.name for inner in tmp_path.iterdir()] == ["kept.json"]


def test_write_makes_parents_follows_links_and_honours_umask(tmp_path):
    target, link = tmp_path / "deep" / "target.txt", tmp_path / "link.txt"
    old = os.umask(0o027)
    try:
        files.write_atomic(target, "one")
        link.symlink_to(target)
        files.write_atomic(link, b"two")
        files.save_tensors(tmp_path / "a.safetensors", {"x": torch.ones(1)})
    finally:
        os.umask(old)
    assert link.is_symlink()
    assert target.read_text() == "two"
    assert target.stat().st_mode & 0o777 == (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o640
    with pytest.raises(RunError, match=r"Not a directory|File exists"):
        files.write_atomic(target / "below.txt", "x")


def test_short_writes_are_completed(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    files.write_atomic(tmp_path / "a", b"0123456789")
    assert files.append(tmp_path / "a", b"abcdefg", at=10) == 17
    assert (tmp_path / "a").read_bytes() == b"0123456789abcdefg"


@settings(deadline=None)
@given(old=st.binary(max_size=30), new=st.binary(max_size=30), data=st.data())
def test_append_cuts_then_adds(tmp_path_factory, old, new, data):
    path = tmp_path_factory.getbasetemp() / "appended"
    path.write_bytes(old)
    at = data.draw(st.integers(0, len(old)))
    assert files.append(path, new, at=at) == at + len(new)
    assert path.read_bytes() == old[:at] + new


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_failed_append_leaves_what_was_there(tmp_path, monkeypatch, call):
    path = tmp_path / "results.jsonl"
    path.write_bytes(b"one\n")
    monkeypatch.setattr(os, call, fails(errno.ENOSPC))
    with pytest.raises(RunError, match=r"results\.jsonl: No space left on device; free space, then .*--resume"):
        files.append(path, b"two\n", at=4)
    assert path.read_bytes() == b"one\n"
    with pytest.raises(RunError, match="was shortened by another program"):
        files.append(path, b"two\n", at=9)


def test_directory_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "made"
    with pytest.raises(KeyboardInterrupt), files.atomic_directory(target) as temporary:
        interrupt((temporary / "half").write_text("x"))
    assert list(tmp_path.iterdir()) == []
    with files.atomic_directory(target) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "a").write_text("one")
        assert not target.exists()
    assert (target / "inner" / "a").read_text() == "one"
    with pytest.raises(RunError, match="made already exists and is not empty"), files.atomic_directory(target):
        pass
    with files.atomic_directory(target, overwrite=True) as temporary:
        (temporary / "b").write_text("two")
    assert [inner.name for inner in target.iterdir()] == ["b"]
    rename = Path.rename
    monkeypatch.setattr(
        Path, "rename", lambda self, to: fails(errno.EIO)() if (self / "c").exists() else rename(self, to)
    )
    with (
        pytest.raises(RunError, match="made: Input/output"),
        files.atomic_directory(target, overwrite=True) as temporary,
    ):
        (temporary / "c").write_text("three")
    assert (target / "b").read_text() == "two"
    assert [inner.name for inner in tmp_path.iterdir()] == ["made"]


def test_directory_errors_name_the_final_path(tmp_path):
    target = tmp_path / "made"
    with pytest.raises(RunError, match="made: No space left"), files.atomic_directory(target):
        fails(errno.ENOSPC)()
    with pytest.raises(NonFiniteError, match=r"made/a\.json: x is nan"), files.atomic_directory(target) as temporary:
        files.write_json(temporary / "a.json", {"x": float("nan")})
    with pytest.raises(FileNotFoundError), files.atomic_directory(target):
        fails(errno.ENOENT)()
    target.write_text("a file")
    with pytest.raises(RunError, match="made already exists"), files.atomic_directory(target, overwrite=True):
        pass
    assert [inner.name for inner in tmp_path.iterdir()] == ["made"]


def test_disk_full_leaves_nothing_half_written(tmp_path):
    code = """
    import resource, signal, sys, torch
    from pathlib import Path
    from shammie.core import files
    from shammie.core.errors import RunError
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    base, big = Path(sys.argv[1]), torch.zeros(4096)
    def in_directory():
        with files.atomic_directory(base / "directory") as temporary:
            files.save_tensors(temporary / "c.safetensors", {"x": big})
    for write in (
        lambda: files.write_atomic(base / "a.txt", "x" * 10000),
        lambda: files.save_tensors(base / "b.safetensors", {"x": big}),
        lambda: files.append(base / "kept.jsonl", b"y" * 10000, at=5),
        in_directory,
    ):
        try:
            write()
        except RunError as error:
            print(error)
    """
    (tmp_path / "kept.jsonl").write_bytes(b"kept\n")
    process = python(code, tmp_path)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    lines = out.splitlines()
    assert len(lines) == 4
    for line, name in zip(lines, ["a.txt", "b.safetensors", "kept.jsonl", "directory/c.safetensors"], strict=True):
        assert line == f"cannot write {tmp_path}/{name}: File too large; free space, then continue with --resume"
    assert [inner.name for inner in tmp_path.iterdir()] == ["kept.jsonl"]
    assert (tmp_path / "kept.jsonl").read_bytes() == b"kept\n"


def test_lock_refuses_waits_and_dies_with_its_holder(tmp_path):
    code = """
    import sys, time
    from shammie.core import files
    with files.lock(sys.argv[1]):
        print("held", flush=True)
        time.sleep(60)
    """
    path = tmp_path / "run" / ".lock"
    holder = python(code, path)
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(RunError, match="run is in use by another process; wait for it or choose another"),
        files.lock(path),
    ):
        pass
    holder.send_signal(signal.SIGKILL)
    start = time.monotonic()
    with files.lock(path, blocking=True), pytest.raises(RunError, match="in use"), files.lock(path):
        pass
    assert time.monotonic() - start < 10
    holder.communicate()
    with files.lock(path):
        pass


def test_lock_in_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"), files.lock(tmp_path / "file" / ".lock"):
        pass


def test_hashes_and_cache(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.sha256_file(tmp_path / "a") == files.sha256_bytes(b"abc") == known
    monkeypatch.setenv("SHAMMIE_CACHE", str(tmp_path))
    assert files.cache_directory() == tmp_path
    monkeypatch.delenv("SHAMMIE_CACHE")
    assert files.cache_directory() == Path.home() / ".cache" / "shammie"


def test_importing_is_light():
    code = """
    import sys, shammie.core.data, shammie.core.run
    print({"torch", "cattrs", "numpy", "tqdm", "pyarrow", "filelock"} & set(sys.modules))
    """
    out, _ = python(code).communicate(timeout=30)
    assert out == "set()\n"
