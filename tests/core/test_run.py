"""Run directories: resume after any truncation, one process at a time, one sentence an error."""

import dataclasses
import os
import signal
import subprocess
import sys
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shammie.core import files
from shammie.core.errors import DataError, MissingFileError, NonFiniteError, RunError
from shammie.core.run import Run, from_plain, read_run


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Config:
    model: str
    steps: int = 3
    inner: Inner = Inner()


KEYS = [f"k{i}" for i in range(6)]


def rows(key):
    return [{"key": key, "part": part, "text": "é" * part} for part in range(int(key[1:]) % 4)]


def work(directory, resume=False, stop=None, before=lambda: None):
    with Run.open("test", Config("m"), directory, inputs={"model": "abc"}, resume=resume) as run:
        before()
        for key in run.items(KEYS, "keys"):
            if key == stop:
                raise KeyboardInterrupt
            run.record(key, rows(key))


def contents(directory):
    return (directory / "results.jsonl").read_bytes(), (directory / "progress.jsonl").read_bytes()


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    directory = tmp_path_factory.mktemp("straight") / "run"
    work(directory)
    return directory


def test_a_run_is_recorded(straight):
    record = read_run(straight)
    assert (record.command, record.status, record.inputs, record.completed) == ("test", "finished", {"model": "abc"}, 6)
    assert from_plain(Config, record.config) == Config("m")
    assert record.results == [row for key in KEYS for row in rows(key)]
    assert {"python", "torch", "numpy", "transformers", "shammie"} == record.versions.keys()
    assert record.machine["threads"] > 0
    assert record.started <= record.finished
    assert record.resumed == []


def test_the_progress_bar_is_silent_without_a_terminal(tmp_path, capfd):
    work(tmp_path / "run")
    assert capfd.readouterr() == ("", "")


@settings(max_examples=60, deadline=None)
@given(results=st.floats(0, 1), progress=st.floats(0, 1), status=st.sampled_from(["running", "failed", "finished"]))
def test_resume_after_any_truncation_is_the_straight_run(tmp_path_factory, straight, results, progress, status):
    directory = tmp_path_factory.mktemp("cut")
    record = files.read_json(straight / "run.json") | {"status": status}
    files.write_json(directory / "run.json", record)
    for name, keep, data in zip(
        ("results.jsonl", "progress.jsonl"), (results, progress), contents(straight), strict=True
    ):
        (directory / name).write_bytes(data[: round(keep * len(data))])
    work(directory, resume=True)
    assert contents(directory) == contents(straight)
    assert read_run(directory).results == read_run(straight).results


@pytest.mark.parametrize("missing", [("results.jsonl",), ("progress.jsonl",), ("results.jsonl", "progress.jsonl")])
def test_resume_makes_lost_files_again(tmp_path, straight, missing):
    work(tmp_path)
    for name in missing:
        (tmp_path / name).unlink()
    work(tmp_path, resume=True)
    assert contents(tmp_path) == contents(straight)


def test_an_interrupted_run_is_failed_and_continues(tmp_path, straight):
    with pytest.raises(KeyboardInterrupt):
        work(tmp_path, stop="k3")
    record = read_run(tmp_path)
    assert (record.status, record.completed) == ("failed", 3)
    assert record.results == [row for key in KEYS[:3] for row in rows(key)]
    (tmp_path / ".run.json.0.tmp").write_text("torn")
    with Run.open("test", Config("m"), tmp_path, inputs={"model": "abc"}, resume=True) as run:
        assert run.pending(KEYS) == KEYS[3:]
        assert not run.finished
        assert not (tmp_path / ".run.json.0.tmp").exists()
        assert read_run(tmp_path).status == "running"
        for key in run.items(KEYS, "keys"):
            run.record(key, rows(key))
        assert run.results() == [row for key in KEYS for row in rows(key)]
    assert contents(tmp_path) == contents(straight)
    record = read_run(tmp_path)
    assert record.status == "finished"
    assert len(record.resumed) == 1


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    work(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with Run.open("test", Config("m"), tmp_path, inputs={"model": "abc"}, resume=True) as run:
        assert run.finished
        assert run.pending([*KEYS, "more"]) == []
        with pytest.raises(AssertionError, match="finished"):
            run.record("more", [])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_finished_run_can_be_reopened_for_more(tmp_path):
    work(tmp_path)
    before = read_run(tmp_path).results
    with Run.open("test", Config("m"), tmp_path, inputs={"model": "abc"}, resume=True) as run:
        run.reopen()
        assert run.pending([*KEYS, "more"]) == ["more"]
        assert read_run(tmp_path).status == "running"
        run.record("more", {"added": 1})
    record = read_run(tmp_path)
    assert (record.status, record.results) == ("finished", [*before, {"added": 1}])


def test_resume_starts_where_nothing_is(tmp_path, straight):
    work(tmp_path / "new" / "deep", resume=True)
    assert contents(tmp_path / "new" / "deep") == contents(straight)


@pytest.mark.parametrize(
    ("command", "config", "inputs", "message"),
    [
        ("other", Config("m"), {"model": "abc"}, "whose command is 'test', not 'other'"),
        ("test", Config("m", steps=4), {"model": "abc"}, "whose config.steps is 3, not 4"),
        ("test", Config("m", inner=Inner(names=("a",))), {"model": "abc"}, r"config\.inner\.names\[0\] is nothing"),
        ("test", Config("m"), {"model": "abd"}, "whose inputs.model is 'abc', not 'abd'"),
        ("test", Config("m"), {}, "whose inputs.model is 'abc', not nothing"),
    ],
)  # fmt: skip
def test_another_run_is_refused(tmp_path, command, config, inputs, message):
    work(tmp_path)
    before = contents(tmp_path)
    with (
        pytest.raises(RunError, match=message),
        Run.open(command, config, tmp_path, inputs=inputs, resume=True),
    ):
        pass
    with pytest.raises(RunError, match="already holds a run; add --resume"), Run.open(command, config, tmp_path):
        pass
    assert contents(tmp_path) == before


def test_records_must_be_finite_and_new(tmp_path):
    with Run.open("test", Config("m"), tmp_path) as run:
        run.record("a", {"score": 1.0})
        with pytest.raises(NonFiniteError, match=r"item 'b', record 1: scores\[1\] is nan"):
            run.record("b", [{"scores": []}, {"scores": [0.0, float("nan")]}])
        with pytest.raises(AssertionError, match="a is recorded twice"):
            run.record("a", {"score": 1.0})
        assert run.pending(["a", "b"]) == ["b"]
        assert run.results() == [{"score": 1.0}]
        (run.artifacts / "x").write_text("y")
        assert run.path("artifacts") == run.artifacts
    assert (tmp_path / "results.jsonl").read_text() == '{"score": 1.0}\n'
    with pytest.raises(NonFiniteError, match=r"run\.json: config\.rate is inf"):
        Run.open("test", Inner(rate=float("inf")), tmp_path / "new").__enter__()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("failing", range(4))
def test_disk_full_while_recording_loses_only_that_item(tmp_path, monkeypatch, straight, failing):
    fsync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > failing:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with pytest.raises(KeyboardInterrupt):
        work(tmp_path, stop="k1")
    with pytest.raises(RunError, match=r"\.jsonl: No space left on device; free space, then continue with --resume"):
        work(tmp_path, resume=True, before=lambda: monkeypatch.setattr(os, "fsync", full))
    monkeypatch.undo()
    assert read_run(tmp_path).results == [row for key in KEYS[: 1 + failing // 2] for row in rows(key)]
    work(tmp_path, resume=True)
    assert contents(tmp_path) == contents(straight)


def test_a_failed_commit_can_be_tried_again(tmp_path, monkeypatch):
    append = files.append
    with Run.open("test", Config("m"), tmp_path) as run:
        monkeypatch.setattr(
            files, "append", lambda path, *a, **k: append(path, *a, **k) if "results" in path.name else 1 / 0
        )
        with pytest.raises(ZeroDivisionError):
            run.record("a", {"x": 1})
        monkeypatch.undo()
        run.record("b", {"x": 2})
    assert (tmp_path / "results.jsonl").read_text() == '{"x": 2}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.json", "{", r"run\.json, line 1: invalid JSON"),
        ("run.json", "[]", r"run\.json is no record of this version of shammie"),
        ("run.json", '{"schema": 1}', r"run\.json is no record of this version of shammie"),
        ("progress.jsonl", '{"key": "k0", "bytes": 0}\nnoise\n', r"progress\.jsonl, line 2: invalid JSON"),
        ("progress.jsonl", '{"key": "k0", "bytes": "0"}\n', r"progress\.jsonl, line 1: not a new finished key"),
        ("progress.jsonl", '{"key": "k0", "bytes": 0}\n' * 2, r"progress\.jsonl, line 2: not a new finished key"),
        ("progress.jsonl", "3\n", r"progress\.jsonl, line 1: not a new finished key"),
        ("progress.jsonl", "", "has lost results of a finished run; .*--resume"),
        ("results.jsonl", "{}\n" + "x" * 2000 + "\n", r"results\.jsonl, line 2: invalid JSON"),
        ("results.jsonl", "", "has lost results of a finished run"),
    ],
)
def test_corrupt_run_is_one_sentence(tmp_path, name, content, message):
    work(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_run(tmp_path)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(MissingFileError, match=r"none holds no run \(run\.json is missing\)"):
        read_run(tmp_path / "none")
    work(tmp_path)
    files.write_json(tmp_path / "run.json", files.read_json(tmp_path / "run.json") | {"schema": 99})
    with pytest.raises(DataError, match="no record of this version of shammie; use the one that wrote it"):
        read_run(tmp_path)
    (tmp_path / "run.json").unlink()
    with pytest.raises(RunError, match=r"holds results but no run\.json"), Run.open("test", Config("m"), tmp_path):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"), Run.open("test", Config("m"), tmp_path / "file"):
        pass


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path):
    code = """if True:
        import sys, time
        from dataclasses import make_dataclass
        from shammie.core.run import Run
        with Run.open("test", make_dataclass("C", [])(), sys.argv[1]) as run:
            run.record("a", {"x": 1})
            print("held", flush=True)
            time.sleep(60)
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    holder = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, env=environment)
    config = dataclasses.make_dataclass("C", [])()
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(RunError, match="is in use by another process"), Run.open("test", config, tmp_path, resume=True):
        pass
    assert read_run(tmp_path).results == [{"x": 1}]
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert read_run(tmp_path).status == "running"
    with Run.open("test", config, tmp_path, resume=True) as run:
        assert run.pending(["a", "b"]) == ["b"]
