"""Training, reading and inspecting: independent oracles on every sparse family, exact resume, and the commands as typed."""

import json
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

import pico
from records import results
from shammie.core.errors import UnsupportedModelError
from shammie.core.loss import token_losses
from shammie.core.model import LanguageModel
from shammie.core.schedule import TrainSettings
from shammie.core.windows import cut_windows
from shammie.routing import equations as eq
from shammie.routing.coupling import activations
from shammie.routing.evaluate import load_records, named
from shammie.routing.geometry import agreement_records, centroids, replacement_records
from shammie.routing.modeling import make_model
from shammie.routing.reading import read_routing, sparse_layers
from shammie.routing.settings import RECIPES, Shape
from shammie.routing.specialization import explained, specialization_records
from shammie.routing.tokens import byte_tokenizer
from shammie.routing.training import balancing, train

FAMILIES = (*pico.SPARSE, "ours")
SMALL = Shape(layers=2, width=16, heads=2, experts=4, chosen=2, neurons=8)
TEXTS = [
    f"The {a} {b} in the {c}."
    for a in ("cat", "dog", "old man")
    for b in ("sat", "ran", "slept")
    for c in ("sun", "rain")
]
SETTINGS = TrainSettings(6, 4, 1e-2, checkpoint_every=2, accumulation=2)


def model_of(family):
    if family == "ours":
        made = make_model(SMALL, RECIPES["kmeans"], pico.tokenizer(), seed=2).eval()
        return LanguageModel(made, pico.tokenizer(), "ours")
    return pico.shared(family)


def windows_of(model, length=12):
    return cut_windows(model.tokenizer, TEXTS, length)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_read_is_what_the_model_did(family):
    model = model_of(family)
    windows = windows_of(model)
    reading = read_routing(model, windows, keep=50)
    assert [layer.layer for layer in reading.layers] == sparse_layers(model)
    assert len(reading.tokens) == windows.ids[:, :-1].numel() == len(reading.layers[0].all("chosen"))
    for layer in reading.layers:
        assert len(layer.all("states")) == len(layer.all("scores")) == 50
        scores = model.anatomy.router_logits(layer.layer, layer.all("states").to(model.dtype))
        torch.testing.assert_close(scores.detach().float(), layer.all("scores"), rtol=1e-3, atol=1e-3)
        if family != "ours":  # whose bias chooses too
            wanted = layer.all("scores").topk(layer.all("chosen").shape[1], dim=-1).indices.sort(-1).values
            assert torch.equal(layer.all("chosen")[:50].sort(-1).values, wanted)
        loads = torch.stack(layer.loads).sum(0)
        assert int(loads.sum()) == layer.all("chosen").numel()
    with torch.no_grad():
        logits = model.module(input_ids=windows.ids[:, :-1]).logits.float()
    losses = functional.cross_entropy(logits.flatten(0, 1), windows.targets.flatten(), reduction="none").view_as(
        windows.valid
    )
    for (total, count), own, valid in zip(reading.losses, losses, windows.valid, strict=True):
        assert total == pytest.approx(float(own[valid].sum()), rel=1e-4)
        assert count == int(valid.sum())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_choice_put_through_the_gate_again_changes_nothing_and_chance_does(family):
    model = model_of(family)
    windows = windows_of(model)
    reading = read_routing(model, windows, keep=10**6)
    found = {r["choice"]: r["perplexity"]["value"] for r in replacement_records(model, reading, windows)}
    plain = sum(total for total, _ in reading.losses) / sum(count for _, count in reading.losses)
    assert found["own"] == pytest.approx(float(torch.tensor(plain).exp()), rel=1e-4)
    assert found["random"] != found["own"] != found["centroids"]
    for r in agreement_records(reading):
        assert 0 <= r["control"]["value"] <= 1
        assert r["agreement"]["value"] > r["chance"]


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "ours"])
def test_activations_and_centroids_against_plain_loops(family):
    model = model_of(family)
    reading = read_routing(model, windows_of(model), keep=30)
    layer = reading.layers[0]
    strength = activations(model, layer.layer, layer.all("states"))
    half = model.anatomy.layers[layer.layer].mlp.experts.gate_up_proj.shape[1] // 2
    gate = model.anatomy.layers[layer.layer].mlp.experts.gate_up_proj[:, :half].float()
    for token in (0, 7):
        for expert in (0, 3):
            wanted = functional.silu(gate[expert] @ layer.all("states")[token]).norm()
            torch.testing.assert_close(strength[token, expert], wanted.detach(), rtol=1e-4, atol=1e-5)
    means, centre = centroids(layer, slice(0, 30))
    chosen = layer.all("chosen")[:30]
    for expert in range(len(means)):
        mine = layer.all("states")[(chosen == expert).any(-1)]
        torch.testing.assert_close(means[expert], mine.mean(0) if len(mine) else centre, rtol=1e-4, atol=1e-5)


def test_a_dense_model_is_refused():
    with pytest.raises(UnsupportedModelError, match="has no experts"):
        read_routing(pico.shared("llama"), windows_of(pico.shared("llama")))


def test_loads_of_batches_and_of_everything():
    model = model_of("ours")
    reading = read_routing(model, windows_of(model))
    *layers, mean = load_records(reading)
    assert mean["layer"] is None
    for r, layer in zip(layers, reading.layers, strict=True):
        assert r["loads"] == torch.bincount(layer.all("chosen").flatten(), minlength=4).tolist()
        assert r["max_violation"] == pytest.approx(max(r["loads"]) / (sum(r["loads"]) / 4) - 1)
    assert mean["worst_violation"] == max(r["max_violation"] for r in layers)


def test_what_is_explained_is_mutual_information():
    first = torch.tensor([0, 0, 1, 1, 2, 2]).numpy()
    assert explained(first, first * 7) == pytest.approx(1.0)
    assert explained(first, [1, 2, 1, 2, 1, 2]) == pytest.approx(0.0)
    model = model_of("ours")
    reading = read_routing(model, windows_of(model))
    topics = ["one" if number % 2 else "two" for number in range(len(reading.losses))]
    found = list(specialization_records(reading, model.tokenizer.decode, topics))
    assert {r["by"] for r in found if r["kind"] == "specialization"} == {"token", "place", "topic"}
    assert all(r["more"] == pytest.approx(r["explained"] - r["control"]) for r in found if "more" in r)


@pytest.mark.parametrize("recipe", ["none", "aux-z", "kmeans"])
def test_pieces_of_a_batch_make_the_same_step(recipe, tmp_path):
    """With loads counted over the batch nothing would differ; the balancing loss of pieces does, so it is left out."""
    tokenizer = byte_tokenizer()
    windows, found = cut_windows(tokenizer, TEXTS, 17), []
    for pieces in (1, 4):
        routing = replace(RECIPES[recipe], aux_weight=0.0, z_weight=0.0)
        made = make_model(SMALL, routing, tokenizer)
        train(made, windows, TrainSettings(3, 4, 1e-2, accumulation=pieces, checkpoint_every=0), tmp_path / str(pieces))
        found.append(made.state_dict())
    for name, tensor in found[0].items():
        torch.testing.assert_close(tensor, found[1][name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("recipe", ["aux", "loss-free", "kmeans"])
def test_a_training_that_was_cut_ends_bit_for_bit_the_same(recipe, tmp_path):
    tokenizer = byte_tokenizer()
    windows = cut_windows(tokenizer, TEXTS, 17)

    def run(place, cut=10**6):
        made, passes = make_model(SMALL, RECIPES[recipe], tokenizer), []

        def count(*_):
            passes.append(0)
            if len(passes) > cut:
                raise KeyboardInterrupt

        made.model.register_forward_pre_hook(count)
        try:
            train(made, windows, SETTINGS, place, resume=True)
        except KeyboardInterrupt:
            return None
        return made

    whole = run(tmp_path / "whole")
    assert run(tmp_path / "cut", cut=9) is None  # in the middle of a step, after two checkpoints
    again = run(tmp_path / "cut")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert (tmp_path / "whole" / "metrics.jsonl").read_text() == (tmp_path / "cut" / "metrics.jsonl").read_text()


@pytest.mark.parametrize("rows", [5, 24])  # of 24: in blocks, and at once
def test_the_loss_is_the_models_own_and_the_vocabulary_is_never_whole(rows, monkeypatch):
    made = make_model(SMALL, RECIPES["none"], byte_tokenizer())
    ids = torch.randint(2, 250, (3, 9), generator=torch.Generator().manual_seed(0))
    states = made.model(input_ids=ids[:, :-1]).last_hidden_state
    monkeypatch.setattr("shammie.core.loss._HEAD_BYTES", 4 * 260 * rows)
    found = token_losses(made.lm_head, states.flatten(0, 1), ids[:, 1:].flatten(), 260).sum()
    wanted = functional.cross_entropy(
        made(input_ids=ids[:, :-1]).logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"
    )
    torch.testing.assert_close(found, wanted)
    a = torch.autograd.grad(found, made.lm_head.weight, retain_graph=True)[0]
    b = torch.autograd.grad(wanted, made.lm_head.weight)[0]
    torch.testing.assert_close(a, b)


def test_balancing_counts_a_piece_or_the_batch_so_far():
    made = make_model(SMALL, RECIPES["aux"], byte_tokenizer())
    made(input_ids=torch.tensor([[5, 6, 7, 8, 9]]))
    routed = list(made.routed())

    class Counted:
        def __init__(self, loads):
            self.loads = loads

    skewed = [Counted(torch.tensor([9.0, 1.0, 0.0, 0.0], dtype=torch.float64)) for _ in routed]
    local = balancing(routed, skewed, replace(RECIPES["aux"]), lambda loads: loads)
    whole = balancing(routed, skewed, replace(RECIPES["aux"], aux_scope="batch"), lambda loads: loads * 2)
    own = [0.01 * eq.balance_loss(r.scores, eq.loads_of(r.chosen, 4).float()) for r in routed]
    all_of_it = [0.01 * eq.balance_loss(r.scores, torch.tensor([18.0, 2.0, 0.0, 0.0])) for r in routed]
    torch.testing.assert_close(local, sum(own) / 2)
    torch.testing.assert_close(whole, sum(all_of_it) / 2)


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS * 4))
    return path


TRAIN = (
    "--window", "16", "--held-out", "6", "--layers", "2", "--width", "16", "--heads", "2", "--experts", "4", "--neurons", "8",
    "--steps", "6", "--batch-size", "4", "--checkpoint-every", "2",
)  # fmt: skip


def test_train_inspect_and_compare_as_typed(shammie, texts, tmp_path):
    for recipe in ("aux", "kmeans"):
        code, said, error = shammie(
            "routing", "train", texts, "--recipe", recipe, *TRAIN, "--output-dir", tmp_path / recipe
        )
        assert code == 0, said + error
    found = results(tmp_path / "kmeans")
    assert {"path", "curve", "perplexity", "load", "score", "alignment", "similarity", "history", "agreement"} <= {
        r["kind"] for r in found
    }
    model = tmp_path / "kmeans" / "artifacts" / "model"
    line = ("routing", "inspect", model, texts, "--window", "16", "--limit", "6", "--keep", "60")
    assert shammie(*line, "--output-dir", tmp_path / "look")[0] == 0
    page = (tmp_path / "look" / "report.html").read_text()
    assert "Favourite tokens" in page
    assert "centroids in every layer" in page
    assert (
        shammie("routing", "compare", tmp_path / "aux", tmp_path / "kmeans", "--output-dir", tmp_path / "both")[0] == 0
    )
    rows = [r for r in results(tmp_path / "both") if r["kind"] == "compared"]
    assert [r["name"] for r in rows] == ["aux", "kmeans"]
    assert "What balance costs" in (tmp_path / "both" / "report.html").read_text()


def test_topics_are_told_apart_where_texts_have_them(shammie, tmp_path):
    model = model_of("ours")
    model.module.save_pretrained(tmp_path / "m")
    model.tokenizer.save_pretrained(tmp_path / "m")
    lines = [{"text": f"{letter * 40} {n}", "topic": letter} for letter in "ab" for n in range(30)]
    path = tmp_path / "topics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    line = ("routing", "inspect", tmp_path / "m", path, "--window", "16", "--limit", "20", "--keep", "60")
    assert shammie(*line, "--output-dir", tmp_path / "look")[0] == 0
    found = [r for r in results(tmp_path / "look") if r["kind"] == "specialization" and r["by"] == "topic"]
    assert [r["kinds"] for r in found] == [2, 2]
    assert max(r["more"] for r in found) > 0.2  # letters go with topics here


def test_a_killed_training_goes_on_along_the_same_path(shammie, texts, tmp_path):
    line = ("routing", "train", texts, "--recipe", "kmeans", *TRAIN, "--experts-path", "padded")
    assert shammie(*line, "--output-dir", tmp_path / "a")[0] == 0
    assert shammie(*line, "--output-dir", tmp_path / "b")[0] == 0
    done = tmp_path / "b"
    progress = (done / "progress.jsonl").read_text().splitlines(keepends=True)
    assert len(progress) == 3
    (done / "progress.jsonl").write_text(progress[0])  # the path is chosen, and the training has its last checkpoint
    record = json.loads((done / "run.json").read_text())
    (done / "run.json").write_text(json.dumps(record | {"status": "running", "finished": None, "completed": 0}))
    assert shammie(*line, "--output-dir", done, "--resume")[0] == 0
    assert results(done) == results(tmp_path / "a")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("--recipe", "magic"), "no recipe 'magic'"),
        (("--recipe", "aux", "--aux-weight", "1"), "brings its own settings"),
        (("--held-out", "100000"), "give more text"),
        (("--experts", "4", "--chosen", "5"), "cannot be taken out of 4"),
        (("--experts-path", "scatter"), "cannot go the path 'scatter'"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_sentence(shammie, texts, tmp_path, line, said):
    code, _, error = shammie(
        "routing",
        "train",
        texts,
        "--window",
        "16",
        "--width",
        "16",
        "--heads",
        "2",
        *line,
        "--output-dir",
        tmp_path / "x",
    )
    assert code == 2
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("recipe", "changed", "name"),
    [
        ("none", {}, "none"),
        ("kmeans", {}, "kmeans"),
        ("aux", {"aux_weight": 0.1}, "aux aux_weight=0.1"),
        ("kmeans", {"bias_rate": 0.003}, "kmeans bias_rate=0.003"),
        ("kmeans-unbiased", {"decay": 0.9}, "kmeans-unbiased decay=0.9"),
        ("aux", {"gate": "softmax"}, "aux gate=softmax"),
    ],
)
def test_runs_are_named_after_the_nearest_recipe(recipe, changed, name):
    assert named(vars(replace(RECIPES[recipe], **changed))) == name
