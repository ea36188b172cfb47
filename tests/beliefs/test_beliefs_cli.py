"""The commands as a user types them, killed and resumed, and what is refused in one sentence."""

import json
import subprocess
import sys

import pytest

from records import results
from shammie.beliefs.config import BeliefsSettings
from shammie.beliefs.data import load_cases
from shammie.beliefs.verdict import verdicts
from shammie.cli.running import recorded
from shammie.core.model import load
from shammie.core.run import Run

LENS = ("--reader", "lens", "--lens-rank", "1", "--first-layer", "0.7", "--last-layer", "0.8")
ASK = ("--max-new-tokens", "24", "--closing", " Answer:")
SETTINGS = ("beliefs", "settings", "model", "--cases", "cases.jsonl", "--limit", "8", *LENS, *ASK)


@pytest.fixture(scope="module")
def made(place, tmp_path_factory):
    output = tmp_path_factory.mktemp("made") / "run"
    line = [sys.executable, "-m", "shammie.cli.main", *SETTINGS, "--output-dir", output]
    done = subprocess.run(line, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return output


def test_settings_tell_sources_apart(made):
    records = results(made)
    frames = {r["frame"]: r for r in records if r["kind"] == "frame"}
    assert (
        frames["credible"]["favours_counter"]["value"] > 0.9 > 0.1 > frames["non-credible"]["favours_counter"]["value"]
    )
    assert frames["credible"]["counter"]["value"] > 0.9
    assert frames["non-credible"]["counter"]["value"] < 0.1
    pairs = {(r["frame"], r["score"]): r["difference"] for r in records if r["kind"] == "pair"}
    assert pairs["non-credible", "difference"]["low"] > 1.5
    assert abs(pairs["credible", "difference"]["value"]) < 0.2
    link = next(
        r for r in records if r["kind"] == "choice" and r["frames"] == "all frames" and r["score"] == "difference"
    )
    assert link["auroc"]["value"] > 0.95
    assert "What is answered" in (made / "report.html").read_text()


def test_settings_are_the_same_after_a_kill(shammie, made, tmp_path):
    line = (*SETTINGS, "--output-dir", tmp_path / "cut")
    assert shammie(*line)[0] == 0
    progress = (tmp_path / "cut" / "progress.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "cut" / "progress.jsonl").write_text("".join(progress[:2]))  # what a kill after two items leaves
    record = json.loads((tmp_path / "cut" / "run.json").read_text())
    (tmp_path / "cut" / "run.json").write_text(
        json.dumps(record | {"status": "running", "finished": None, "completed": 0})
    )
    assert shammie(*line, "--resume")[0] == 0
    assert (tmp_path / "cut" / "results.jsonl").read_bytes() == (made / "results.jsonl").read_bytes()


def test_trace_draws_a_map_of_one_prompt(shammie, tmp_path):
    line = (
        "beliefs",
        "trace",
        "model",
        "--question",
        "What is Ent3 ?",
        "--base",
        "Val3",
        "--counter",
        "Val7",
        "--claim",
        "Ent3 is Val7 .",
    )
    assert shammie(*line, *LENS, *ASK, "--frame", "credible", "--output-dir", tmp_path / "t")[0] == 0
    kinds = {r["kind"]: r for r in results(tmp_path / "t")}
    assert kinds["dominance"]["counter"] > 0.9
    assert kinds["grid"]["layers"] == [2]
    assert "Where the beliefs surface" in (tmp_path / "t" / "report.html").read_text()


def test_intervene_moves_margins_beside_controls(shammie, tmp_path):
    line = (
        "beliefs",
        "intervene",
        "model",
        "--cases",
        "cases.jsonl",
        *LENS,
        *ASK,
        "--strengths",
        "0.5",
        "1",
        "--limit",
        "8",
    )
    assert shammie(*line, "--output-dir", tmp_path / "i")[0] == 0
    found = {(r["arm"], r["strength"]): r for r in results(tmp_path / "i") if r["kind"] == "intervention"}
    assert abs(found["zero", 0.0]["move"]["value"]) < 1e-3
    assert {"inject", "inject another entity", "inject at random", "remove the favoured"} <= {arm for arm, _ in found}
    assert "What each change does" in (tmp_path / "i" / "report.html").read_text()


def dominances_of(place, output, model_hash):
    """A finished run of settings in which dominance is spread over its range."""
    config = BeliefsSettings("model", output, "cases.jsonl", ("neutral",), dtype="float32")
    with Run.open("beliefs settings", recorded(config), output, inputs={"model": model_hash}) as run:
        for number, case in enumerate(load_cases(str(place / "cases.jsonl")).cases):
            told = {
                "kind": "told",
                "case": case.id,
                "frame": "neutral",
                "text": f"It is {case.base[0]} .",
                "popularity": 1.0 + number,
            }
            level = (number % 3) / 2 + 0.01 * number / 16
            run.record(
                case.id,
                [told, {"kind": "dominance", "case": case.id, "frame": "neutral", "counter": level, "base": 0.5}],
            )


def test_monitor_reports_beside_its_controls(shammie, place, world, tmp_path):
    dominances_of(place, tmp_path / "s", load(str(place / "model")).hash)
    line = (
        "beliefs",
        "monitor",
        tmp_path / "s",
        "--targets",
        "counter",
        "base",
        "--seeds",
        "2",
        "--changed",
        "2",
        "--held-out",
        "6",
    )
    assert shammie(*line, "--output-dir", tmp_path / "m")[0] == 0
    records = results(tmp_path / "m")
    balanced = {r["arm"]: r["accuracy"] for r in records if r["kind"] == "balanced"}
    assert set(balanced) == {"examples", "permuted examples", "names alone", "popularity alone"}
    assert next(r for r in records if r["kind"] == "always one")["balanced"] == pytest.approx(1 / 3)
    moved = {r["arm"] for r in records if r["kind"] == "moved"}
    assert moved == {"inject", "inject another entity", "inject at random", "words that say so"}
    assert "Levels that the model names" in (tmp_path / "m" / "report.html").read_text()
    (left_out,) = [r for r in records if r["kind"] == "left out"]
    assert (left_out["frame"], left_out["target"]) == ("neutral", "base")
    assert "fewer than 3 values" in left_out["why"]
    assert "takes fewer than 3 values; read more cases" in (tmp_path / "m" / "report.html").read_text()
    code, _, error = shammie(*line[:3], "--targets", "base", "--output-dir", tmp_path / "n")
    assert code == 2
    assert "fewer than 3 values" in error


def test_report_gives_a_verdict_a_clause(shammie, made, tmp_path):
    line = (
        "beliefs",
        "intervene",
        "model",
        "--cases",
        "cases.jsonl",
        *LENS,
        *ASK,
        "--limit",
        "8",
        "--strengths",
        "0.5",
    )
    assert shammie(*line, "--output-dir", tmp_path / "i")[0] == 0
    assert shammie("beliefs", "report", made, tmp_path / "i", "--output-dir", tmp_path / "r")[0] == 0
    found = {r["clause"]: r["verdict"] for r in results(tmp_path / "r") if r["kind"] == "verdict"}
    assert found["dominance of the claim over knowledge falls under a source that errs"] == "supported"
    assert found["how often states hold the claim is less where nothing is claimed"] == "supported"
    assert found["dominance tells the favoured belief"] == "supported"
    assert "the other belief at strength 0.5 moves the margin" in found
    assert "The verdict" in (tmp_path / "r" / "report.html").read_text()
    code, _, error = shammie("beliefs", "report", made, made, "--output-dir", tmp_path / "x")
    assert code == 2
    assert "same command" in error


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ((*SETTINGS, "--frames", "loud"), "'loud' is no frame"),
        ((*SETTINGS, "--limit", "0"), "a limit of 0 leaves no cases"),
        ((*SETTINGS[:5], "--first-layer", "0.55", "--last-layer", "0.6"), "no layer of 4"),
        (("beliefs", "intervene", "model", "--cases", "cases.jsonl", "--strengths", "0"), "--strengths"),
        (("beliefs", "monitor", "nowhere"), "nowhere"),
        (
            ("beliefs", "trace", "model", "--question", "Q ?", "--base", "Val1", "--counter", "Val1"),
            "same name for both",
        ),
    ],
)
def test_refused_in_one_sentence(shammie, tmp_path, line, said):
    code, _, error = shammie(*line, "--output-dir", tmp_path / "x")
    assert code == 2
    assert said in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1


def test_a_control_that_does_worse_than_one_level_always_supports_nothing():
    def accuracy(arm, value, target):
        return {"kind": "balanced", "frame": "none", "target": target, "arm": arm, "accuracy": {"value": value}}

    targets = ("base", "counter", "difference", "other", "another")
    records = [accuracy("examples", 0.34, t) for t in targets] + [accuracy("names alone", 0.2, t) for t in targets]
    always = [{"kind": "always one", "balanced": 1 / 3}]
    (without,) = verdicts({"monitor": records})
    (held,) = verdicts({"monitor": [*records, *always]})
    assert without["estimate"]["value"] == pytest.approx(0.14)
    assert held["estimate"]["value"] == pytest.approx(0.34 - 1 / 3)
