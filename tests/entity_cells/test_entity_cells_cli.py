"""The commands as a user types them, killed and resumed, and what is refused in one sentence."""

import json
import subprocess
import sys

import pytest

from pico import build
from records import results

LOCALIZE = ("entity-cells", "localize", "model", "--entities", "entities.csv", "--templates", "8", "--anonymous", "12")
SMALL = ("--scales", "-1", "--strengths", "4", "--group", "2", "--chunk", "12", "--depth", "4")


@pytest.fixture(scope="module")
def found(place):
    line = [sys.executable, "-m", "shammie.cli.main", *LOCALIZE, "--output-dir", "found"]
    done = subprocess.run(line, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return place / "found"


def test_localize_records_every_entity_and_draws_a_page(found, world):
    records = results(found)
    assert [r["kind"] for r in records] == ["localization", *["cell"] * 24]
    cells = {r["entity"]: r for r in records[1:]}
    for number in world.wired:
        assert cells[f"Entity{number}"]["cell"] == f"L1-N{world.neurons[number]}"
    page = (found / "report.html").read_text()
    assert "Entity0" in page
    assert (found / "artifacts" / "cells" / "config.json").exists()


def test_ablate_writes_a_patch_that_apply_takes(shammie, found, tmp_path):
    line = ("entity-cells", "ablate", "found", "--entity", "Entity4", "--output-dir", tmp_path / "a")
    assert shammie(*line)[0] == 0
    amnesia = next(r for r in results(tmp_path / "a") if r["kind"] == "amnesia")
    assert amnesia["known_facts"] == 3
    assert amnesia["loss"] > 0.5 > 0.1 > amnesia["others"]["value"]
    assert shammie("apply", tmp_path / "a" / "artifacts" / "patch", "model", "--output", tmp_path / "out")[0] == 0


def test_inject_recalls_beside_controls(shammie, found, tmp_path):
    line = (
        "entity-cells",
        "inject",
        "found",
        "--entity",
        "Entity4",
        "--output-dir",
        tmp_path / "i",
        "--strengths",
        "4",
    )
    assert shammie(*line)[0] == 0
    rows = [r for r in results(tmp_path / "i") if r["kind"] == "injected"]
    mean = {arm: sum(r["p"] for r in rows if r["arm"] == arm) / 3 for arm in ("own", "other", "mean_entity")}
    assert mean["own"] > 0.5 > max(mean["other"], mean["mean_entity"])


def test_report_is_the_same_after_a_kill(shammie, found, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    line = ("entity-cells", "report", "found", *SMALL)
    assert shammie(*line, "--output-dir", whole)[0] == 0
    records = results(whole)
    assert {"fact", "ablated", "injected", "depth", "form", "trust", "injection", "entity"} <= {
        r["kind"] for r in records
    }
    trusted = next(r for r in records if r["kind"] == "trust")
    assert trusted["another_entitys_cell"]["value"] == 0
    assert len(trusted["entities"]) == 12
    assert "popularity" in (whole / "report.html").read_text()
    assert shammie(*line, "--output-dir", cut)[0] == 0
    progress = (cut / "progress.jsonl").read_text().splitlines(keepends=True)
    (cut / "progress.jsonl").write_text("".join(progress[:1]))  # what a kill after the first item leaves
    record = json.loads((cut / "run.json").read_text())
    (cut / "run.json").write_text(json.dumps(record | {"status": "running", "finished": None, "completed": 0}))
    assert shammie(*line, "--output-dir", cut, "--resume")[0] == 0
    assert (cut / "results.jsonl").read_bytes() == (whole / "results.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("entity,prompt,answers\nA,The capital of B is,x\nB,The capital of B is,y\n", "does not name its entity 'A'"),
        ("entity,prompt,answers\nA,The capital of A is, | \nB,The capital of B is,y\n", "the list of answers is empty"),
        ("entity,prompt,answers\nA,The capital of A is,\nB,The capital of B is,y\n", "line 2: the column 'answers'"),
        ("entity,prompt,answers\nA,The capital of A is,x\n", "give at least two"),
        ("entity,prompt,answers,popularity\nA,The capital of A is,x,many\nB,B is,y,2\n", "'many' is not a number"),
    ],
)
def test_a_bad_set_of_entities_is_one_sentence(shammie, tmp_path, text, says):
    (tmp_path / "bad.csv").write_text(text)
    code, _, err = shammie(
        "entity-cells", "localize", "model", "--entities", tmp_path / "bad.csv", "--output-dir", tmp_path / "r"
    )
    assert code == 2
    assert says in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "r" / "results.jsonl").exists()


def test_answers_that_all_share_a_first_token_are_refused(shammie, place, tmp_path):
    text = "entity,prompt,answers\nEntity0,Question: What is the river of Entity0 ?,river1\n"
    text += "Entity2,Question: What is the river of Entity2 ?,river1\n"
    (tmp_path / "same.csv").write_text(text)
    line = (
        "entity-cells",
        "localize",
        "model",
        "--entities",
        tmp_path / "same.csv",
        "--templates",
        "4",
        "--output-dir",
        tmp_path / "l",
    )
    assert shammie(*line)[0] == 0
    code, _, err = shammie("entity-cells", "report", tmp_path / "l", "--output-dir", tmp_path / "r")
    assert code == 2
    assert "begin with the same token" in err


def test_fused_experts_are_refused(shammie, place, tmp_path):
    sparse = build("mixtral")
    sparse.module.save_pretrained(tmp_path / "sparse")
    sparse.tokenizer.save_pretrained(tmp_path / "sparse")
    code, _, err = shammie(
        "entity-cells", "localize", tmp_path / "sparse", "--entities", "entities.csv", "--output-dir", tmp_path / "r"
    )
    assert code == 2
    assert "fused experts" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("report", "nowhere", "--output-dir", "r"), "nowhere"),
        (("ablate", "found", "--entity", "Nobody", "--output-dir", "r"), "no entity 'Nobody'"),
        (("report", "found", "--choose-on", "sport", "--output-dir", "r"), "'sport' is not one of the relations"),
        (("report", "found", "--relations", "sport", "--output-dir", "r"), "no relation 'sport'"),
    ],
)
def test_mistakes_are_one_sentence(shammie, found, words, says):
    code, _, err = shammie("entity-cells", *words)
    assert code == 2
    assert says in err
    assert len(err.strip().splitlines()) == 1


def test_a_dry_run_writes_nothing(shammie, found, place):
    code, out, _ = shammie(*LOCALIZE, "--output-dir", "never", "--dry-run")
    assert code == 0
    assert "entities" in out
    assert shammie("entity-cells", "report", "found", "--output-dir", "never", "--dry-run")[0] == 0
    assert not (place / "never").exists()
