"""Records from every source: what is read, what is refused and in which words."""

import json
import sys
from dataclasses import asdict, dataclass
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shammie.core.data import Dataset, PromptRecord, TextRecord, load_records
from shammie.core.errors import BackendError, DataError, MissingFileError, NonFiniteError, ShammieError


@dataclass(frozen=True)
class Mixed:
    name: str
    count: int
    score: float
    right: bool
    tags: tuple[str, ...]
    note: str | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class QuestionRecord:
    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class ChoiceRecord:
    question: str
    choices: tuple[str, ...]
    answer: int

    def __post_init__(self):
        if not 0 <= self.answer < len(self.choices):
            raise ShammieError(f"answer {self.answer} is no index into {len(self.choices)} choices; count from 0")


mixed = st.builds(
    Mixed,
    name=st.text(),
    count=st.integers(-(2**40), 2**40),
    score=st.floats(allow_nan=False, allow_infinity=False),
    right=st.booleans(),
    tags=st.lists(st.text(max_size=3), max_size=3).map(tuple),
    note=st.none() | st.text(max_size=3),
    weight=st.floats(0, 1),
)
GOOD = Mixed("a", 1, 2.0, True, ("x",))


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@settings(deadline=None)
@given(records=st.lists(mixed, min_size=1, max_size=5), extra=st.text(max_size=2))
def test_records_round_trip(tmp_path_factory, records, extra):
    base = tmp_path_factory.getbasetemp()
    rows = [asdict(record) | {"extra": extra} for record in records]
    jsonl(base / "a.jsonl", *rows)
    loaded = load_records(base / "a.jsonl", Mixed)
    assert loaded.records == tuple(records)
    changed = jsonl(base / "b.jsonl", *rows[:-1], rows[-1] | {"count": rows[-1]["count"] + 1})
    assert load_records(changed, Mixed).sha256 != loaded.sha256


def test_parquet_agrees_with_jsonl(tmp_path):
    rows = [asdict(Mixed(f"é{i}", i, i / 3, i % 2 == 0, ("t",) * (i % 3), None if i % 2 else "n")) for i in range(3000)]
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([row | {"extra": {"x": 1}} for row in rows]), tmp_path / "a.parquet"
    )
    one, two = load_records(tmp_path / "a.parquet", Mixed), load_records(jsonl(tmp_path / "a.jsonl", *rows), Mixed)
    assert one.records == two.records
    assert one.sha256 == two.sha256
    assert len(load_records(tmp_path / "a.parquet", Mixed, limit=7).records) == 7


def test_text_lines_blank_lines_marks_and_limit(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone \r\n\n  \ntwo\u2028x\nthree".encode())
    assert load_records(path, TextRecord).records == tuple(map(TextRecord, ["one ", "two\u2028x", "three"]))
    few = load_records(str(path), TextRecord, limit=1)
    assert few == Dataset((TextRecord("one "),), str(path), few.sha256, None)
    assert few.sha256 != load_records(path, TextRecord).sha256
    rows = jsonl(tmp_path / "b.jsonl", {"prompt": "p\u2028q"})
    rows.write_bytes(b"\n" + rows.read_bytes() + b'{"prompt": broken')
    assert load_records(rows, PromptRecord, limit=1).records == (PromptRecord("p\u2028q"),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 3}, r"Mixed\.name must be str, but is 3 \(int\); the keys of Mixed are name, count, "),
        ({"count": "3"}, r"Mixed\.count must be int, but is '3'"),
        ({"count": 3.0}, r"Mixed\.count must be int, but is 3\.0"),
        ({"count": True}, r"Mixed\.count must be int, but is True"),
        ({"count": None}, r"Mixed\.count must be int, but is None"),
        ({"score": "high"}, r"Mixed\.score must be float, but is 'high'"),
        ({"score": 10**400}, r"Mixed\.score must be float, but is 1000"),
        ({"right": 1}, r"Mixed\.right must be bool, but is 1"),
        ({"tags": "x"}, r"Mixed\.tags must be tuple\[str, \.\.\.\], but is 'x' \(str\)"),
        ({"tags": ["x", 3]}, r"Mixed\.tags must be tuple\[str, \.\.\.\], but is \['x', 3\]"),
        ({"note": 3}, r"Mixed\.note must be str \| None, but is 3"),
        ({"name": ["long"] * 50}, r"Mixed\.name must be str, but is \['long', .{48}\.\.\. \(list"),
    ],
)
def test_ill_typed_fields_name_file_line_field_and_type(tmp_path, change, message):
    path = jsonl(tmp_path / "bad.jsonl", asdict(GOOD), asdict(GOOD) | change)
    with pytest.raises(DataError, match=r"bad\.jsonl, line 2: " + message):
        load_records(path, Mixed)


@pytest.mark.parametrize(
    ("name", "content", "kind", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n\n{"txt": "y"}\n', TextRecord, r"line 3: TextRecord\.text is missing; the keys .* are text$"),
        ("a.jsonl", b"{}", TextRecord, r"line 1: TextRecord\.text is missing"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', TextRecord, r"a\.jsonl, line 2: invalid JSON"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "\xff"}\n', TextRecord, r"a\.jsonl, line 2: the bytes are not UTF-8"),
        ("a.jsonl", b"[1, 2]\n", TextRecord, r"line 1: expected an object with the fields text, got \[1, 2\]"),
        ("a.jsonl", b"", TextRecord, r"a\.jsonl holds no records"),
        ("a.jsonl", b"\n \n", TextRecord, r"a\.jsonl holds no records"),
        ("a.txt", b"", TextRecord, r"a\.txt holds no records"),
        ("a.txt", b"x\n", QuestionRecord, r"plain text cannot fill the fields question, answers; use \.jsonl"),
        ("a.txt", b"x\n", PromptRecord, r"plain text cannot fill the fields prompt"),
        ("a.txt", b"ok\n\xff\n", TextRecord, r"a\.txt, line 2: the bytes are not UTF-8"),
        ("a.parquet", b"", TextRecord, r"a\.parquet is not a readable Parquet file"),
        ("a.parquet", b"PAR1 noise", TextRecord, r"a\.parquet is not a readable Parquet file"),
        ("a.csv", b"x", TextRecord, r"a\.csv is no data file that shammie reads; give \.jsonl, \.parquet"),
        ("a.jsonl", b'{"question": "q", "choices": ["a"], "answer": 1}', ChoiceRecord, r"line 1: answer 1 is no index"),
        ("a.jsonl", b'{"question": "q", "choices": ["a"], "answer": -1}', ChoiceRecord, r"line 1: answer -1 is no"),
        ("a.jsonl", b'{"question": "q", "answers": "a"}', QuestionRecord, r"answers must be tuple\[str, \.\.\.\], but is 'a'"),
    ],
)  # fmt: skip
def test_bad_files_are_one_sentence(tmp_path, name, content, kind, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_records(tmp_path / name, kind)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "txt"])
def test_missing_files_and_directories(tmp_path, suffix):
    with pytest.raises(MissingFileError, match=rf"a\.{suffix} does not exist"):
        load_records(tmp_path / f"a.{suffix}", TextRecord)
    (tmp_path / f"d.{suffix}").mkdir()
    with pytest.raises(DataError, match=rf"cannot read .*d\.{suffix}"):
        load_records(tmp_path / f"d.{suffix}", TextRecord)


def test_parquet_records_are_checked_too(tmp_path):
    def write(**columns):
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
        return tmp_path / "a.parquet"

    with pytest.raises(DataError, match=r"a\.parquet, record 2: TextRecord\.text must be str, but is None"):
        load_records(write(text=["x", None]), TextRecord)
    with pytest.raises(DataError, match=r"a\.parquet, record 1: TextRecord\.text is missing"):
        load_records(write(other=["x"]), TextRecord)
    full = {"name": ["a"], "count": [1], "right": [True], "tags": [["x"]]}
    with pytest.raises(NonFiniteError, match=r"a\.parquet, record 1: score is nan"):
        load_records(write(**full, score=[float("nan")]), Mixed)


def test_limits_and_revisions_that_make_no_sense(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", {"text": "x"})
    for limit in (0, -1):
        with pytest.raises(DataError, match=f"a limit of {limit} leaves no records"):
            load_records(path, TextRecord, limit=limit)
    with pytest.raises(DataError, match="revision 'main' does not apply"):
        load_records(path, TextRecord, revision="main")


def hub(monkeypatch, rows, commit="c0ffee", error=None):
    calls = []

    def load_dataset(name, **options):
        calls.append((name, options))
        if error:
            raise error
        return rows

    def dataset_info(name, revision):
        if commit is None:
            raise OSError("offline")
        return SimpleNamespace(sha=commit)

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setitem(
        sys.modules, "huggingface_hub", SimpleNamespace(HfApi=lambda: SimpleNamespace(dataset_info=dataset_info))
    )
    return calls


def test_the_hub_is_read_at_a_resolved_commit(monkeypatch, tmp_path):
    rows = [{"text": f"t{i}", "extra": i} for i in range(5)]
    calls = hub(monkeypatch, rows)
    found = load_records("hf:owner/some-name:validation", TextRecord, limit=3, revision="main")
    assert calls == [("owner/some-name", {"split": "validation", "revision": "c0ffee"})]
    assert (found.revision, found.source, len(found.records)) == ("c0ffee", "hf:owner/some-name:validation", 3)
    assert found.sha256 == load_records(jsonl(tmp_path / "a.jsonl", *rows), TextRecord, limit=3).sha256
    calls = hub(monkeypatch, rows, commit=None)
    assert load_records("hf:owner/name", TextRecord, revision="v1").revision == "v1"
    assert calls == [("owner/name", {"split": "train", "revision": "v1"})]
    hub(monkeypatch, [{"text": 3}])
    with pytest.raises(DataError, match=r"hf:owner/name, record 1: TextRecord\.text must be str, but is 3"):
        load_records("hf:owner/name", TextRecord)


def test_hub_errors_are_one_sentence(monkeypatch):
    hub(monkeypatch, [], error=ConnectionError("Couldn't reach the Hub\nlong trace"))
    with pytest.raises(BackendError, match=r"^cannot load hf:a/b \(Couldn't reach the Hub\); check name, split"):
        load_records("hf:a/b", TextRecord)
    with pytest.raises(DataError, match="'hf:' names no data set"):
        load_records("hf:", TextRecord)
    with pytest.raises(DataError, match="names no data set"):
        load_records("hf:a/b/c", TextRecord)


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        ("pyarrow", "a.parquet", r"pyarrow is not installed; run: pip install 'shammie\[train\]'"),
        ("datasets", "hf:a/b", r"datasets is not installed; run: pip install 'shammie\[train\]'"),
    ],
)
def test_libraries_that_are_not_installed(monkeypatch, module, source, message):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendError, match=message):
        load_records(source, TextRecord)
