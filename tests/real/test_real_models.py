"""What is promised of the bundled models, on the models themselves."""

import pytest
import torch

from shammie.core.doctor import check
from shammie.core.generate import GenerationSettings, generate
from shammie.core.model import load
from shammie.core.patch import WeightPatch, rows

pytestmark = pytest.mark.real


@pytest.mark.parametrize("name", ["smollm2-135m", "gemma-3-270m"])
def test_every_identity_holds(name):
    assert [finding for finding in check(load(name)) if not finding.ok] == []


def test_bfloat16_holds_within_its_own_bound():
    assert all(finding.ok for finding in check(load("smollm2-135m", dtype="bfloat16")))


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("smollm2-135m", "The capital of France is"),
        ("gemma-3-270m", "Question: What is the capital of France?\nAnswer:"),
    ],
)
def test_known_facts_are_said(name, prompt):
    (completion,) = generate(load(name), [prompt], GenerationSettings(max_new_tokens=6))
    assert "Paris" in completion.text


@pytest.mark.parametrize("tied", ["both", "input", "output"])
def test_patched_tied_embeddings_are_exported_and_read_back(tied, tmp_path):
    model = load("smollm2-135m")
    matrix = model.anatomy.unembedding_weights if tied == "output" else model.anatomy.embedding_weights
    token = model.tokenizer(" Paris")["input_ids"][0]
    patch = WeightPatch.make(model, [rows(matrix, [token], torch.full((1, model.anatomy.width), 0.1))], tied=tied)
    ids = torch.tensor([model.tokenizer("Paris and Rome are")["input_ids"]])
    with torch.no_grad(), patch.applied(model):
        expected = model.module(ids).logits
    patch.export(model, tmp_path / "checkpoint")
    again = load(tmp_path / "checkpoint")
    assert again.anatomy.tied == (tied == "both")
    with torch.no_grad():
        torch.testing.assert_close(again.module(ids).logits, expected)
