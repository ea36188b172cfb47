"""The commands as a user types them, killed and resumed, and what is refused in one sentence."""

import json
import subprocess
import sys

import pytest

from records import results

RUN = (
    "recall",
    "run",
    "model",
    "--questions",
    "questions.jsonl",
    "--knowledge",
    "triples.jsonl",
    "--samples",
    "4",
    "--more",
    "6",
)
SMALL = ("--limit", "6", "--trace-tokens", "16", "--answer-tokens", "3", "--rows", "8")
CONDITIONS = ("off", "on", "single", "dummy", "dummy-16", "on-facts", "on-dummy-facts", "on-corrupted-facts")


@pytest.fixture(scope="module")
def made(place, tmp_path_factory):
    output = tmp_path_factory.mktemp("made") / "run"
    line = [sys.executable, "-m", "shammie.cli.main", *RUN, *SMALL, "--conditions", *CONDITIONS, "--output-dir", output]
    done = subprocess.run(line, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return output


def test_run_records_every_sample_and_draws_a_page(made):
    records = results(made)
    assert sum(r["kind"] == "question" for r in records) == 6
    for condition in CONDITIONS:
        keys = [(r["question"], r["sample"]) for r in records if r.get("condition") == condition and r["sample"] < 4]
        assert sorted(keys) == [(q, s) for q in range(6) for s in range(4)]
    assert "own reasoning" in (made / "report.html").read_text()


@pytest.mark.parametrize("kept", [1, 4, 9])
def test_run_is_the_same_after_a_kill(shammie, made, tmp_path, kept):
    line = (*RUN, *SMALL, "--conditions", *CONDITIONS, "--output-dir", tmp_path / "cut")
    assert shammie(*line)[0] == 0
    progress = (tmp_path / "cut" / "progress.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "cut" / "progress.jsonl").write_text("".join(progress[:kept]))  # what a kill after some items leaves
    record = json.loads((tmp_path / "cut" / "run.json").read_text())
    (tmp_path / "cut" / "run.json").write_text(
        json.dumps(record | {"status": "running", "finished": None, "completed": 0})
    )
    assert shammie(*line, "--resume")[0] == 0
    assert (tmp_path / "cut" / "results.jsonl").read_bytes() == (made / "results.jsonl").read_bytes()


def test_report_answers_the_four_questions(shammie, made, tmp_path):
    assert shammie("recall", "report", made, "--output-dir", tmp_path / "r")[0] == 0
    records = results(tmp_path / "r")
    found = {r["name"]: r["difference"]["value"] for r in records if r["kind"] == "contrast"}
    assert found["reasoning"] > 0.4
    assert found["facts in reasoning, beyond their length"] > 0.4
    assert found["true facts, beyond one that is false"] > 0.4
    assert {"curve", "omega", "audit", "selection", "traces", "listed", "length"} <= {r["kind"] for r in records}
    page = (tmp_path / "r" / "report.html").read_text()
    for heading in (
        "Does reasoning help?",
        "The computation, or the facts?",
        "Do false facts hurt?",
        "What would filtering gain?",
    ):
        assert heading in page


def test_report_compares_models(shammie, made, tmp_path):
    other = tmp_path / "other"
    assert shammie(*RUN, *SMALL, "--seed", "1", "--conditions", "off", "on", "--output-dir", other)[0] == 0
    assert shammie("recall", "report", made, other, "--output-dir", tmp_path / "r")[0] == 0
    assert {r["run"] for r in results(tmp_path / "r")} == {"run", "other"}
    assert "Whom does reasoning help most?" in (tmp_path / "r" / "report.html").read_text()


def test_select_writes_an_answer_a_question_and_policy(shammie, made, tmp_path):
    assert shammie("recall", "select", made, "--output-dir", tmp_path / "s")[0] == 0
    rows = [r for r in results(tmp_path / "s") if r["kind"] == "selected"]
    assert len(rows) == 6
    assert all(r["only correct facts"].startswith("Val") for r in rows)


def test_dry_run_counts(shammie, tmp_path):
    code, out, _ = shammie(*RUN, *SMALL, "--dry-run", "--output-dir", tmp_path / "d")
    assert code == 0
    assert "24 of at most 16 tokens" in out
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ((*RUN, "--switch.kind", "template"), "no enable_thinking"),
        ((*RUN, "--conditions", "off", "on", "dummy-x"), "no condition"),
        ((*RUN[:5], "--conditions", "off", "on", "on-corrupted-facts"), "--knowledge"),
        ((*RUN, "--relations", "age"), "relation 'age'"),
        (("recall", "run", "http://127.0.0.1:9/v1#m", "--questions", "questions.jsonl"), "--tokenizer"),
    ],
)
def test_refused_in_one_sentence(shammie, tmp_path, line, said):
    code, _, error = shammie(*line, "--output-dir", tmp_path / "x")
    assert code == 2
    assert said in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1


def test_reports_that_cannot_be(shammie, made, tmp_path):
    code, _, error = shammie("recall", "report", made, "--ks", "5", "--output-dir", tmp_path / "r")
    assert code == 2
    assert "pass@5 needs at least 5 samples" in error
    bare = tmp_path / "bare"
    assert (
        shammie(*RUN[:5], *SMALL, "--samples", "2", "--more", "0", "--conditions", "off", "on", "--output-dir", bare)[0]
        == 0
    )
    code, _, error = shammie("recall", "select", bare, "--output-dir", tmp_path / "s")
    assert code == 2
    assert "no facts to select by" in error
