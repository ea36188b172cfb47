"""The room's commands as a user meets them: in a process of their own, killed and resumed, and given nonsense."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ember_planted import FLAGS
from transformers import AutoModelForCausalLM, AutoTokenizer

from shammie.cli.main import main
from shammie.core.model import load
from shammie.core.patch import WeightPatch
from shammie.core.run import read_run
from shammie.ember.recipes import recipe

SOURCE = Path(__file__).parents[2] / "src"
ERASE = ("erase", "model", "--concept", "pack.json", "--formats", "choice", "--deltas", 1, 2, 5, *FLAGS)


@pytest.fixture(scope="session")
def erased(place, shell):
    done = shell(*ERASE, "--method", "graddiff", "--cells", 1, "--output-dir", "run", "--checkpoint", "checkpoint")
    assert done.returncode == 0, done.stderr
    return place


def kinds(directory, kind, **wanted):
    results = read_run(directory).results
    return [r for r in results if r["kind"] == kind and all(r[name] == value for name, value in wanted.items())]


def test_an_erasure_says_what_it_did_beside_its_control(erased):
    run = erased / "run"
    found = kinds(run, "outcome", arm="erased", values="hits")[0]
    control = kinds(run, "outcome", arm="random features", values="hits")[0]
    assert found["efficacy"]["value"] > 0.6
    assert found["specificity"]["value"] > 0.8
    assert control["efficacy"]["value"] < 0.4
    assert [r["delta"] for r in kinds(run, "strength")] == [1, 2, 5]
    assert kinds(run, "chosen")[0]["method"] == "graddiff"
    page = (run / "report.html").read_text()
    assert "Which tokens paid" in page
    assert "c0_0" in page


def test_the_checkpoint_is_the_patched_model_and_needs_no_shammie(erased):
    patch = WeightPatch.from_pretrained(erased / "run" / "artifacts" / "patch")
    stock = AutoModelForCausalLM.from_pretrained(erased / "checkpoint").eval()
    ids = AutoTokenizer.from_pretrained(erased / "checkpoint")("the c0_0 is", return_tensors="pt")["input_ids"]
    model = load(erased / "model")
    with torch.no_grad(), patch.applied(model):
        torch.testing.assert_close(stock(ids).logits, model.module(ids).logits)


def test_a_patch_is_evaluated_and_attacked(erased, monkeypatch):
    monkeypatch.chdir(erased)
    patch = ("model", "--concept", "pack.json", "--patch", "run/artifacts/patch")
    evaluate = ("evaluate", *patch, "--output-dir", "evaluated", "--formats", "choice", "cloze")
    assert main(["ember", *evaluate]) == 0
    ours = kinds(erased / "evaluated", "outcome", format="choice", values="hits")[0]
    assert ours["efficacy"] == kinds(erased / "run", "outcome", arm="erased", values="hits")[0]["efficacy"]
    attack = (
        "--kinds",
        "full",
        "typos",
        "hints",
        "--seeds",
        "2",
        "--epochs",
        "2",
        "--batch-size",
        "6",
        "--points",
        "2",
    )
    assert main(["ember", "attack", *patch, "--output-dir", "attacked", *attack]) == 0
    lines = {r["attack"]: r for r in kinds(erased / "attacked", "regained")}
    assert set(lines) == {"none", "full", "typos", "hints"}
    assert len(lines["full"]["by_seed"]) == 2
    assert lines["full"]["difference"]["high"] < 0
    assert "Relearning (full)" in (erased / "attacked" / "report.html").read_text()
    assert not [path for path in (erased / "attacked" / "artifacts").iterdir() if "full" in path.name]


def test_a_killed_erasure_resumes_to_the_same_bytes(erased):
    words = [*map(str, ERASE), "--method", "graddiff", "--cells", "1", "--output-dir"]
    command = [sys.executable, "-m", "shammie.cli.main", "ember", *words, "killed"]
    quiet = {"cwd": erased, "env": os.environ | {"PYTHONPATH": str(SOURCE)}, "stdout": -3, "stderr": -3}
    process = subprocess.Popen(command, **quiet)
    progress = erased / "killed" / "progress.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (progress.exists() and progress.read_text().count("\n") >= 3):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert subprocess.run([*command, "--resume"], **quiet, check=False).returncode == 0
    assert (erased / "killed" / "results.jsonl").read_bytes() == (erased / "run" / "results.jsonl").read_bytes()


@pytest.fixture
def refused(place, capsys, monkeypatch):
    """Run a line that is a mistake; its one sentence."""
    monkeypatch.chdir(place)

    def run(*words, directory="refused"):
        assert main(["ember", *map(str, words)]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "Traceback" not in said
        assert not (place / "no-checkpoint").exists()
        assert not (place / directory / "artifacts" / "patch").exists()
        return said

    return run


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--deltas", 0), "must be above 0"),
        (("--method", "magic"), "no eraser is called 'magic'"),
        (("--method", "rmu", "--cells", 9), "between 1 and 6"),
        (("--no-ember",), "there is nothing to do"),
        (("--least-tokens", 9999), "no feature of the embeddings passes"),
        (("--least-keyness", 9999), "lower votes or least_keyness"),
        (("--deltas", 1e39), "infinite or NaN"),
        (("--limit", 1), "at least 2"),
        (("--recipe", "gemma-2-2b"), "brings its own settings"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_no_checkpoint(refused, tmp_path, words, says):
    common = ("model", "--concept", "pack.json", "--formats", "choice", "--checkpoint", "no-checkpoint", *FLAGS)
    assert says in refused("erase", *common, *words, "--output-dir", tmp_path / "run")


def test_recipes_are_the_papers_and_others_are_refused(refused, tmp_path):
    line = ("erase", "model", "--concept", "pack.json", "--recipe")
    assert "there are gemma-2-2b, llama-3.1-8b" in refused(*line, "magic", "--output-dir", tmp_path / "run")
    found = {name: recipe(name) for name in ("gemma-2-2b", "llama-3.1-8b")}
    assert [s.factorization.features for s in found.values()] == [100, 200]
    for settings in found.values():
        assert (settings.factorizations, settings.select.criteria, settings.select.ratio) == (1, ("ratio",), 2.0)
        assert (settings.factorization.share, settings.factorization.patience) == (0.01, 500)


def test_unknown_words_and_leaks_are_refused(refused, place, tmp_path):
    content = json.loads((place / "pack.json").read_text())
    (tmp_path / "unknown.json").write_text(json.dumps(content | {"concept_sentences": ["zzz yyy xxx."]}))
    line = ("--formats", "choice", *FLAGS, "--output-dir", tmp_path / "run")
    assert "no token that model knows" in refused("erase", "model", "--concept", tmp_path / "unknown.json", *line)
    content["questions"]["validation"].append(content["questions"]["test"][0])
    (tmp_path / "leaking.json").write_text(json.dumps(content))
    assert "leaks in 1 places, such as" in refused(
        "erase", "model", "--concept", tmp_path / "leaking.json", *line[:-1], tmp_path / "r"
    )
    assert main(["ember", "check", str(tmp_path / "leaking.json")]) == 1
    assert main(["ember", "check", str(place / "pack.json")]) == 0


def test_an_eraser_that_leaves_nothing_is_refused(refused, tmp_path, monkeypatch):
    from shammie.ember.erasers import ERASERS, graddiff

    wild = graddiff.GradDiff(train=graddiff.TrainSettings(steps=8, learning_rate=1e38, batch_size=4, gradient_clip=0.0))
    monkeypatch.setattr(ERASERS["graddiff"], "grid", classmethod(lambda _: [wild]))
    line = ("erase", "model", "--concept", "pack.json", "--formats", "choice", "--deltas", 2, *FLAGS)
    said = refused(
        *line, "--method", "graddiff", "--cells", 1, "--checkpoint", "no-checkpoint", "--output-dir", tmp_path / "run"
    )
    assert "lower the learning rate" in said or "leaves the rest" in said
