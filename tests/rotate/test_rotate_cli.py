"""The commands, as a user types them: fit, describe, find, ablate, apply; and what is refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from pico import build
from records import results
from shammie.cli.main import main
from shammie.core.judge import RegexCompleter
from shammie.core.model import load
from shammie.rotate import paper
from shammie.rotate.describe import describe, in_plain_words
from shammie.rotate.neurons import read_rows, weight_slice
from shammie.rotate.tokens import token_space

SOURCE = Path(__file__).parents[2] / "src"
FIT = ("rotate", "fit", "model", "--layers", "1", "--neurons", "0:8", "--part", "out", "--channels", "2")
NOISE = ("--null-draws", "40")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model whose neuron 2 of layer 1 promotes a cluster, and a finished fit of it."""
    place = tmp_path_factory.mktemp("rotate")
    model = build("gemma", hidden_size=64, intermediate_size=256)
    space = token_space(model, "output")
    token = model.tokenizer("k", add_special_tokens=False)["input_ids"][0]
    direction = space.centroid(space.nearest((space.tokens[token] - space.mean)[None], 10))[0]
    rows = weight_slice(model, 1, "out").view(model.module)
    rows[2] = rows[2].norm() * normalize(0.95 * direction + 0.2 * normalize(rows[2], dim=0), dim=0)
    model.module.save_pretrained(place / "model")
    model.tokenizer.save_pretrained(place / "model")
    here = Path.cwd()
    os.chdir(place)
    try:
        assert main([*FIT, *NOISE, "--output-dir", "fit"]) == 0
    finally:
        os.chdir(here)
    return place


def test_a_fit_records_every_channel_with_its_evidence_and_draws_a_page(place):
    records = results(place / "fit")
    channels = [r for r in records if r["kind"] == "channel"]
    assert len(channels) == 16
    found = next(r for r in channels if r["neuron"] == 2 and r["channel"] == 0)
    assert found["significant"]
    assert found["p_value"] < 1e-3
    layer = next(r for r in records if r["kind"] == "layer")
    assert layer["null"]["significant"]["value"] <= 0.05
    assert "stand" in layer["says"]
    page = (place / "fit" / "report.html").read_text()
    assert "noise" in page
    assert not (place / "fit" / "artifacts" / "shards").exists()


def test_describe_names_the_neuron_that_says_something(shammie, tmp_path):
    code, out, _ = shammie("rotate", "describe", "fit", "--output-dir", tmp_path / "d")
    assert code == 0
    rows = {r["neuron"]: r for r in results(tmp_path / "d") if r["kind"] == "neuron"}
    assert rows[2]["description"].startswith("promotes ")
    silent = [r for r in rows.values() if not r["channels"]]
    assert all(r["description"] == "nothing that noise does not reach" for r in silent)
    assert len(silent) >= 6
    assert "promotes" in out
    shown = [r for r in results(tmp_path / "d") if r["kind"] == "channel"]
    assert all(r["significant"] for r in shown)
    shammie("rotate", "describe", "fit", "--insignificant", "--neurons", "2", "--output-dir", tmp_path / "all")
    assert len([r for r in results(tmp_path / "all") if r["kind"] == "channel"]) == 2


def test_find_searches_neurons_and_fitted_channels(shammie, tmp_path):
    code, _, _ = shammie(
        "rotate", "find", "model", "k", "--fit", "fit", "--insignificant", "--output-dir", tmp_path / "f"
    )
    assert code == 0
    kinds = [r["kind"] for r in results(tmp_path / "f")]
    assert kinds.count("search") == 1
    assert kinds.count("neuron") == 20
    assert "channel" in kinds


def test_ablate_writes_a_patch_that_apply_takes(shammie, place, tmp_path):
    line = ("rotate", "ablate", "fit", "--layer", "1", "--neuron", "2", "--part", "out", "--output-dir", tmp_path / "a")
    assert shammie(*line)[0] == 0
    record = results(tmp_path / "a")[0]
    assert record["removed_share_of_squared_norm"] > 0.5
    assert shammie("apply", tmp_path / "a" / "artifacts" / "patch", "model", "--output", tmp_path / "patched")[0] == 0
    before, after = (read_rows(load(path), 1, "out") for path in (place / "model", tmp_path / "patched"))
    assert (before != after).any(-1).nonzero()[:, 0].tolist() == [2]
    assert after[2].norm() < 0.8 * before[2].norm()


def test_a_description_reads_as_a_sentence_and_a_judge_may_write_one():
    channel = {"part": "gate", "side": -1, "tokens": [" cat", "Cat", " dog"], "evidence": 7.0}
    other = {"part": "out", "side": 1, "tokens": [" x"], "evidence": 9.0}
    assert describe([channel, other]) == "promotes 'x'; closes on 'cat', 'dog'"
    assert describe([]) == "nothing that noise does not reach"
    writer = RegexCompleter([("promotes 'x'\ncloses on 'cat', 'dog'", "About pets.")])
    assert in_plain_words([channel, other], writer) == "About pets."


def test_a_model_may_put_it_in_words(shammie, tmp_path):
    line = ("rotate", "describe", "fit", "--neurons", "2:4", "--judge", "model", "--output-dir", tmp_path / "j")
    assert shammie(*line)[0] == 0
    rows = {r["neuron"]: r for r in results(tmp_path / "j") if r["kind"] == "neuron"}
    assert isinstance(rows[2]["in_plain_words"], str)
    assert "in_plain_words" not in rows[3]


def test_a_dry_run_writes_nothing(shammie, place):
    code, out, _ = shammie(*FIT, *NOISE, "--output-dir", "never", "--dry-run")
    assert code == 0
    assert "noise_rows" in out.replace(" ", "_")
    assert not (place / "never").exists()


def test_a_dry_run_of_the_papers_optimizer_takes_few_of_its_steps(shammie, monkeypatch):
    taken = []
    solve = paper.solve

    def counted(*arguments):
        taken.append(arguments[-1].max_steps)
        return solve(*arguments)

    monkeypatch.setattr(paper, "solve", counted)
    line = ("rotate", "fit", "model", "--layers", "0:2", "--recipe", "gemma-2-2b", "--output-dir", "never", "--dry-run")
    code, out, _ = shammie(*line)
    assert code == 0
    assert "at most" in out
    assert sum(taken) <= 400  # the fit itself takes 50 channels of 10,000 steps


def test_a_layer_of_noise_is_said_to_be_one(shammie, place, tmp_path):
    shammie(
        "rotate",
        "fit",
        "model",
        "--layers",
        "0",
        "--neurons",
        "0:8",
        "--part",
        "in",
        *NOISE,
        "--output-dir",
        tmp_path / "n",
    )
    layer = next(r for r in results(tmp_path / "n") if r["kind"] == "layer")
    assert layer["says"].startswith("none of 64 channels stands out from noise")


ABLATE = ["rotate", "ablate", "fit", "--part", "out", "--output-dir", "x"]
BAD_FIT = [*FIT, *NOISE, "--output-dir", "x"]
MISTAKES = [
    ([*BAD_FIT, "--layers", "7"], "layer 7 does not exist; there are layers 0 to 2"),
    ([*BAD_FIT, "--neurons", "250:300"], "neuron 299 does not exist; there are neurons 0 to 255"),
    ([*BAD_FIT, "--neurons", "a"], "'a' names no neuron"),
    ([*BAD_FIT, "--part", "up"], "'up' is no part of a neuron"),
    ([*BAD_FIT, "--channels", "0"], "must be at least 1"),
    ([*BAD_FIT, "--null-draws", "2"], "2 noise rows calibrate nothing"),
    ([*BAD_FIT, "--recipe", "gemma-2-2b"], "--recipe brings its own settings"),
    ([*FIT[:-2], "--output-dir", "x", "--recipe", "zzz"], "'zzz' is no recipe of rotate"),
    ([*BAD_FIT, "--shard", "0"], "--shard must be at least 1"),
    (["rotate", "describe", "nowhere"], "holds no run"),
    (["rotate", "describe", "fit", "--neurons", "4000"], "does not exist"),
    (["rotate", "describe", "fit", "--layer", "0"], "holds no channels of that layer"),
    (["rotate", "find", "model", "no such thing"], "no form of 'no such thing' is a single token"),
    (["rotate", "find", "model", "k", "--fit", "nowhere"], "nowhere holds no channels"),
    (["rotate", "find", "model", "k", "--top", "0"], "--top must be at least 1"),
    ([*ABLATE, "--layer", "0", "--neuron", "2"], "holds no channels of layer 0 out"),
    ([*ABLATE, "--layer", "1", "--neuron", "99"], "neuron 99 is not among the 8"),
    ([*ABLATE, "--layer", "1", "--neuron", "2", "--channel", "9"], "channel 9 does not exist"),
    ([*ABLATE, "--layer", "1", "--neuron", "2", "--model", "other"], "fitted on weights"),
    (["rotate", "fit", "bare", "--layers", "0", "--part", "gate", "--output-dir", "x"], "two matrices and no gate"),
    (["rotate", "fit", "broken", "--layers", "0", "--part", "in", "--output-dir", "x"], "neuron 3 of layer 0 has a in"),
]  # fmt: skip


@pytest.fixture(scope="module")
def others(place):
    """An other model of the same shape, one without gates, one with a row of zeros."""
    for name, model in (
        ("other", build("gemma", hidden_size=64, intermediate_size=256, seed=8)), ("bare", build("gpt2")),
        ("broken", build("llama")),
    ):  # fmt: skip
        if name == "broken":
            weight_slice(model, 0, "in").view(model.module)[3] = torch.zeros(32)
        model.module.save_pretrained(place / name)
        model.tokenizer.save_pretrained(place / name)


@pytest.mark.parametrize(("line", "sentence"), MISTAKES, ids=[sentence[:30] for _, sentence in MISTAKES])
def test_mistakes_are_one_sentence(shammie, place, others, line, sentence):
    code, _, err = shammie(*line)
    assert code == 2
    assert sentence in err
    assert err.count("\n") == 1
    left = place / "x"
    assert not left.exists() or not (left / "results.jsonl").exists() or not (left / "results.jsonl").read_text()


def test_the_command_line_runs_in_its_own_process(place):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "shammie.cli.main", "rotate", "describe", "fit", "--neurons", "2"],
        cwd=place, env=os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "promotes" in done.stdout
