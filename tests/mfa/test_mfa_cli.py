"""The commands as a user types them, on a tiny model: harvest, fit, describe, find, steer, localize; and what is refused."""

import json
import os
from pathlib import Path

import pytest
import torch

from pico import build
from records import results
from shammie.cli.main import main
from shammie.core import files
from shammie.core.batch import make_batch
from shammie.core.capture import capture
from shammie.core.edit import edited
from shammie.core.harvest import Activations
from shammie.core.judge import Judge, RegexCompleter
from shammie.core.model import load
from shammie.core.site import Site
from shammie.mfa.describe import name, parse_regions
from shammie.mfa.find import find
from shammie.mfa.fitting import load_mixture
from shammie.mfa.judged import judge_continuations, score, summarize
from shammie.mfa.packing import pack
from shammie.mfa.steer import steer

HARVEST = (
    "mfa",
    "harvest",
    "model",
    "--site",
    "residual:1",
    "--texts",
    "texts.jsonl",
    "--window",
    "96",
    "--skip-first",
    "4",
)
FIT = (
    "mfa",
    "fit",
    "states",
    "--components",
    "8",
    "--rank",
    "2",
    "--screen",
    "8",
    "--candidates",
    "4",
    "--held-out",
    "0.2",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny model, its states over some texts, and a fit of them."""
    place = tmp_path_factory.mktemp("mfa")
    model = build("gemma", hidden_size=32)
    model.module.save_pretrained(place / "model")
    model.tokenizer.save_pretrained(place / "model")
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
    lines = [" ".join(words[(i * j + j) % 8] for j in range(1, 12)) for i in range(60)]
    (place / "texts.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    pairs = [
        {
            "base": f"{a} is", "source": f"{b} is", "base_part": a, "source_part": b, "answers": ["x", "y"],
            "base_answer": "x", "expected": "y" if number % 2 else "x",
        }
        for number, (a, b) in enumerate(zip(words, reversed(words), strict=True))
    ]  # fmt: skip
    (place / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    here = Path.cwd()
    os.chdir(place)
    try:
        assert main([*HARVEST, "--texts-per-shard", "8", "--store-dtype", "float32", "--output-dir", "states"]) == 0
        assert main([*FIT, "--output-dir", "fit"]) == 0
    finally:
        os.chdir(here)
    return place


def test_windows_hold_whole_passages_and_fit(place):
    model = load(str(place / "model"))
    texts = [record["text"] for record in map(json.loads, (place / "texts.jsonl").read_text().splitlines())]
    windows = pack(model, texts, 96)
    assert [part for window in windows for part in window.split("\n\n")] == texts
    assert all(len(model.tokenizer(window)["input_ids"]) <= 96 for window in windows if "\n\n" in window)


def test_states_drop_the_front_and_keep_the_map(place):
    states = Activations(place / "states" / "artifacts" / "states")
    shard = states[0]
    assert int(shard.position.min()) == 4
    assert states.index["model_hash"] == load(str(place / "model")).hash


def test_a_fit_records_its_passes_and_keeps_the_best(place):
    records = results(place / "fit")
    passes = [r for r in records if r["kind"] == "pass"]
    final = records[-1]
    assert final["held_out"] == min(r["held_out"] for r in passes)
    assert not (place / "fit" / "artifacts" / "passes").exists()
    mixture = load_mixture(place / "fit")
    assert mixture.means.shape == (8, 32)
    assert mixture.weights.tolist() == sorted(mixture.weights.tolist(), reverse=True)


def test_a_killed_fit_goes_on_to_the_same_bytes(shammie, place, tmp_path, monkeypatch):
    from shammie.mfa import fitting

    once, calls = fitting.save_artifact, []

    def killed(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return once(*args, **kwargs)

    monkeypatch.setattr(fitting, "save_artifact", killed)
    assert shammie(*FIT, "--output-dir", tmp_path / "again")[0] != 0
    monkeypatch.setattr(fitting, "save_artifact", once)
    assert shammie(*FIT, "--output-dir", tmp_path / "again", "--resume")[0] == 0
    assert results(tmp_path / "again") == results(place / "fit")
    name_ = "artifacts/mixture/model.safetensors"
    assert files.sha256_file(tmp_path / "again" / name_) == files.sha256_file(place / "fit" / name_)


def test_fitting_straight_from_the_model_finds_the_same(shammie, place, tmp_path):
    line = [*FIT, "--output-dir", tmp_path / "direct", "--texts", "texts.jsonl", "--site", "residual:1"]
    line[2] = "model"
    code, _, err = shammie(*line, "--window", 96, "--skip-first", 4)
    assert code == 0, err
    ours, direct = results(place / "fit")[-1]["held_out"], results(tmp_path / "direct")[-1]["held_out"]
    assert abs(ours - direct) < 0.1 * abs(ours)


def test_the_papers_trainer_fits_too(shammie, tmp_path):
    code, _, err = shammie(*FIT, "--trainer", "paper", "--passes", 2, "--output-dir", tmp_path / "paper")
    assert code == 0, err
    passes = [r["held_out"] for r in results(tmp_path / "paper") if r["kind"] == "pass"]
    assert passes[-1] < passes[0]


def test_describe_shows_contexts_around_their_token_and_draws_a_page(shammie, tmp_path):
    code, out, err = shammie(
        "mfa", "describe", "fit", "--states", "states", "--regions", "0:3", "--output-dir", tmp_path / "d"
    )
    assert code == 0, err
    regions = [r for r in results(tmp_path / "d") if r["kind"] == "region"]
    assert [r["region"] for r in regions] == [0, 1, 2]
    assert all("[[" in context for r in regions for context in r["contexts"])
    assert "region" in out
    page = (tmp_path / "d" / "report.html").read_text()
    assert "map of regions" in page


def test_a_judge_names_a_region_from_its_contexts():
    assert name(["a [[b]] c"], RegexCompleter([(r"\[\[b\]\]", "the letter b")])) == "the letter b"


def test_find_agrees_with_the_states_on_disk(place):
    model, mixture = load(str(place / "model")), load_mixture(place / "fit")
    shard = Activations(place / "states" / "artifacts" / "states")[0]
    texts = [record["text"] for record in map(json.loads, (place / "texts.jsonl").read_text().splitlines())]
    window = pack(model, texts, 96)[0]
    lines = {line["position"]: line for line in find(model, mixture, window)}
    own = shard.text == 0
    components, _ = mixture.regions(shard.states[mixture.at()][own].float())
    for position, component in zip(shard.position[own].tolist(), components[:, 0].tolist(), strict=True):
        assert lines[position]["region"] == component


def test_find_on_the_command_line_names_the_token(shammie):
    code, out, _ = shammie("mfa", "find", "fit", "alpha beta gamma", "--token", "beta")
    assert code == 0
    assert "token (4)" in out


def test_steering_moves_exactly_with_and_without_a_cache(place):
    model, mixture = load(str(place / "model")), load_mixture(place / "fit")
    batch = make_batch(model, ["alpha beta"])
    site = mixture.at()
    before = capture(model, batch, [site])[site]
    with edited(model, [steer(mixture, 2, 0.0)]):
        torch.testing.assert_close(capture(model, batch, [site])[site], before)
    with edited(model, [steer(mixture, 2, 1.0)]):
        moved = capture(model, batch, [site])[site]
    torch.testing.assert_close(moved, mixture.means[2].expand_as(moved))
    with edited(model, [steer(mixture, 2, 0.5, (3.0,))]):
        part = capture(model, batch, [site])[site] - 0.5 * before - 0.5 * mixture.means[2]
    widest = torch.linalg.matrix_norm(mixture.loadings[2], 2)
    torch.testing.assert_close(part.norm(dim=-1), (3 * widest).expand(1, part.shape[1]), rtol=1e-4, atol=1e-4)


def test_steer_on_the_command_line(shammie, tmp_path):
    line = ("mfa", "steer", "fit", "--region", 1, "--prompt", "alpha", "beta", "--alpha", 0.9, "--max-new-tokens", 6)
    code, _, err = shammie(*line, "--output-dir", tmp_path / "s")
    assert code == 0, err
    found = results(tmp_path / "s")
    assert {(r["prompt"], r["steered"]) for r in found} == {(p, s) for p in ("alpha", "beta") for s in (True, False)}


def test_a_judge_scores_steered_texts_beside_plain_ones(shammie, tmp_path):
    line = ("mfa", "steer", "fit", "--region", 1, "--prompt", "alpha", "--max-new-tokens", 4, "--concept", "letters")
    code, _, err = shammie(*line, "--judge", "model", "--output-dir", tmp_path / "j")
    assert code == 0, err
    *texts, plain, steered = results(tmp_path / "j")
    assert all(r["score"] is None for r in texts)  # the tiny model states no verdict, so nothing is counted as one
    assert (plain["texts"], plain["judged"], steered["judged"]) == (2, 0, 0)
    judge = Judge(
        RegexCompleter([("about letters[^$]*alpha", "much"), ("fluent is[^$]*alpha", "fluent"), ("", "none")])
    )
    lines = [
        {"kind": "continuation", "prompt": "p", "steered": word == "alpha", "text": word} for word in ("alpha", "beta")
    ]
    judged = judge_continuations(judge, "letters", lines)
    assert [(r["concept"], r["fluency"], r["score"]) for r in judged] == [("much", "fluent", 2.0), ("none", None, None)]
    assert summarize(judged)[1]["score"]["value"] == 2.0


@pytest.mark.parametrize(
    ("concept", "fluency", "expected"),
    [
        ("much", "fluent", 2.0),
        ("some", "fluent", 4 / 3),
        ("none", "fluent", 0.0),
        ("much", "broken", 0.0),
        (None, "fluent", None),
    ],
)
def test_a_score_is_the_harmonic_mean_of_both_ratings(concept, fluency, expected):
    assert score(concept, fluency) == expected


def test_localize_scores_every_featurizer_on_the_same_pairs(shammie, tmp_path):
    line = (
        "mfa",
        "localize",
        "fit",
        "--task",
        "pairs.jsonl",
        "--states",
        "states",
        "--train-pairs",
        4,
        "--test-pairs",
        4,
    )
    every = ("mfa", "centroids", "full", "neurons", "pca", "sae", "das")
    code, _, err = shammie(*line, "--epochs", 1, "--featurizers", *every, "--output-dir", tmp_path / "l")
    assert code == 0, err
    found = {r["featurizer"]: r for r in results(tmp_path / "l")}
    assert list(found) == ["untouched", *every]
    assert all(r["n"] == 4 for r in found.values())


def test_regions_are_parsed():
    assert parse_regions("0:3,7", 10) == [0, 1, 2, 7]
    assert parse_regions("all", 3) == [0, 1, 2]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("mfa", "fit", "states", "--components", "5000", "--output-dir", "x1"), "cannot fill 5000 components"),
        (
            ("mfa", "fit", "states", "--components", "4", "--rank", "40", "--output-dir", "x2"),
            "rank 40 leaves no noise",
        ),
        (("mfa", "fit", "states", "--site", "residual:0", "--output-dir", "x3"), "not of residual:0"),
        (("mfa", "fit", "nowhere", "--output-dir", "x4"), "holds no harvest"),
        (("mfa", "find", "fit", "beta", "--token", "omega"), "does not contain"),
        (("mfa", "steer", "fit", "--region", "8"), "regions 0 to 7"),
        (("mfa", "steer", "fit", "--region", "1", "--alpha", "2"), "between 0 and 1"),
        (("mfa", "steer", "fit", "--region", "1", "--judge", "model"), "belong together"),
        (("mfa", "steer", "fit", "--region", "1", "--local", "1", "1", "1"), "2 directions"),
        (("mfa", "describe", "fit", "--states", "states", "--regions", "9"), "regions 0 to 7"),
        (
            ("mfa", "localize", "fit", "--task", "nothing", "--featurizers", "full", "--output-dir", "x5"),
            "neither a task",
        ),
    ],
)
def test_a_mistake_is_one_sentence(shammie, line, said):
    code, _, err = shammie(*line)
    assert code == 2
    assert said in err
    assert "Traceback" not in err


def test_damaged_and_foreign_states_are_refused(shammie, place, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(place / "states" / "artifacts" / "states", copy)
    shard = copy / "shard-00000.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    assert shammie(*FIT[:2], copy, *FIT[3:], "--output-dir", tmp_path / "f")[0] == 2
    tensors = files.load_tensors(place / "states" / "artifacts" / "states" / "shard-00000.safetensors")
    tensors["residual:1"][3, 5] = float("nan")
    files.save_tensors(shard, tensors)
    code, _, err = shammie(*FIT[:2], copy, *FIT[3:], "--output-dir", tmp_path / "g")
    assert code == 2
    assert "at token 3" in err
    other = build("gemma", seed=1, hidden_size=32)
    other.module.save_pretrained(tmp_path / "other")
    other.tokenizer.save_pretrained(tmp_path / "other")
    code, _, err = shammie("mfa", "find", place / "fit", "beta", "--model", tmp_path / "other")
    assert code == 2
    assert "fitted on" in err


def test_site_is_read_back(place):
    assert load_mixture(place / "fit").at() == Site("residual", 1)


def test_dry_runs_say_time_memory_and_disk(shammie):
    code, out, _ = shammie(*FIT, "--output-dir", "unused", "--dry-run")
    assert code == 0
    assert "K=32,000, 100,000,000 tokens" in out
    code, out, _ = shammie(*HARVEST, "--output-dir", "unused", "--dry-run")
    assert code == 0
    assert "100 million tokens" in out
    assert not Path("unused").exists()
