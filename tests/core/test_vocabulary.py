"""Lens and projections against dense float64 oracles, whatever the size of the blocks."""

from __future__ import annotations

from functools import cache

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pico
from shammie.core import vocabulary
from shammie.core.batch import pad
from shammie.core.capture import capture
from shammie.core.errors import ShammieError
from shammie.core.position import LAST
from shammie.core.site import residual
from shammie.core.vocabulary import (
    lens_log_probs,
    lens_ranks,
    lens_top,
    norm_weight,
    project_top,
    single_token,
    token_text,
    token_vectors,
)

families = pytest.mark.parametrize("family", pico.FAMILIES)
budgets = st.sampled_from([0, 1, 8 * 260, 3 * 8 * 260 + 1, 10**6, 2**28])


@cache
def states(count: int = 13) -> Tensor:
    return 2 * torch.randn(count, 32, generator=torch.Generator().manual_seed(0))


def final_norm(family: str) -> tuple[Tensor, Tensor | None]:
    """Gain and shift of the final norm, from the stored weights in float64."""
    name = {
        "gpt2": "transformer.ln_f",
        "gpt_neox": "gpt_neox.final_layer_norm",
        "opt": "model.decoder.final_layer_norm",
    }
    prefix, stored = name.get(family, "model.norm"), pico.shared(family).module.state_dict()
    weight = stored[f"{prefix}.weight"].double()
    return (1 + weight if family.startswith("gemma") else weight), stored.get(f"{prefix}.bias")


@cache
def dense(family: str) -> Tensor:
    """Log-probabilities of every token at every state: norm, head and cap written out in float64."""
    stored, x = pico.shared(family).module.state_dict(), states().double()
    gain, shift = final_norm(family)
    if shift is not None:
        x = x - x.mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * gain + (0 if shift is None else shift.double())
    logits = x @ stored["lm_head.weight"].double().T
    logits = 3 * torch.tanh(logits / 3) if family == "gemma2" else logits
    return logits.log_softmax(-1)


@families
@settings(max_examples=12)
@given(budget=budgets, k=st.integers(1, 300), data=st.data())
def test_lens(family: str, budget: int, k: int, data: st.DataObject) -> None:
    """Top tokens, log-probabilities and ranks are those of the full table, block by block."""
    model, table = pico.shared(family), dense(family)
    top = lens_top(model, states(), k, budget=budget)
    best = table.topk(min(k, 260), dim=-1)
    assert top.ids.shape == top.scores.shape == best.values.shape
    torch.testing.assert_close(top.scores.double(), best.values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(table.gather(-1, top.ids), top.scores.double(), rtol=1e-4, atol=1e-4)
    assert all(len(row.unique()) == len(row) for row in top.ids)
    width = data.draw(st.integers(1, 3))
    tokens = torch.randint(260, (13, width), generator=torch.Generator().manual_seed(k))
    own = table.gather(-1, tokens)
    found = lens_log_probs(model, states(), tokens, budget=budget)
    torch.testing.assert_close(found.double(), own, rtol=1e-4, atol=1e-4)
    ahead = (table[:, None] > own[..., None] + 1e-4).sum(-1), (table[:, None] > own[..., None] - 1e-4).sum(-1) - 1
    ranks = lens_ranks(model, states(), tokens, budget=budget)
    assert bool(((ranks >= ahead[0]) & (ranks <= ahead[1])).all())
    first = lens_ranks(model, states(), top.ids[:, :1], budget=budget)
    assert not first.any()


@families
def test_lens_of_the_last_residual_is_the_model(family: str) -> None:
    model, batch = pico.shared(family), pad([[5, 6, 7], [8, 9]])
    seen = capture(model, batch, [residual(2)], positions=LAST, logits=True)
    assert seen.logits is not None
    top = lens_top(model, seen[residual(2)], 260)
    expected = seen.logits.log_softmax(-1).gather(-1, top.ids)
    torch.testing.assert_close(top.scores, expected, rtol=1e-4, atol=1e-4)


@families
@settings(max_examples=8)
@given(budget=st.sampled_from([1, 4 * 45 * 7, 4 * 45 * 100, 2**28]), k=st.integers(1, 300), fold=st.booleans())
def test_projection(family: str, budget: int, k: int, fold: bool) -> None:
    """Raw dot products with stored rows: no norm, no cap, blocks of the vocabulary of any size."""
    model = pico.shared(family)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "BYTE_BUDGET", budget)
        for matrix in ("input", "output"):
            rows = model.anatomy.embedding_weights if matrix == "input" else model.anatomy.unembedding_weights
            table = rows.view(model.module).double()
            probes = states().double() * (final_norm(family)[0] if fold else 1.0)
            best = (probes @ table.T).topk(min(k, 260), dim=-1)
            top = project_top(model, states(), k, matrix=matrix, fold_norm=fold)  # type: ignore[arg-type]
            torch.testing.assert_close(top.scores.double(), best.values, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close((probes @ table.T).gather(-1, top.ids), best.values, rtol=1e-4, atol=1e-4)
            assert all(len(row.unique()) == len(row) for row in top.ids)


@families
def test_token_vectors(family: str) -> None:
    model = pico.shared(family)
    inputs, outputs = token_vectors(model, [3, 250, 3], "input"), token_vectors(model, torch.tensor([3, 250, 3]))
    assert inputs.shape == outputs.shape == (3, 32)
    assert torch.equal(inputs, inputs[[2, 1, 0]])
    assert torch.equal(inputs, outputs) == (family in pico.TIED)
    assert torch.equal(inputs, model.anatomy.embedding.weight[[3, 250, 3]].detach())


def test_half_precision_reads_in_float32() -> None:
    model = pico.build("gemma2", dtype=torch.bfloat16)
    assert lens_top(model, states()).scores.dtype == torch.float32
    assert project_top(model, states().bfloat16()).scores.dtype == torch.float32
    assert token_vectors(model, [4]).dtype == norm_weight(model).dtype == torch.float32
    wanted = token_vectors(model, range(260), "output").double() @ states().bfloat16().double().T
    torch.testing.assert_close(
        project_top(model, states().bfloat16(), 260).scores.double(),
        wanted.T.sort(-1, True).values,
        rtol=1e-4,
        atol=1e-5,
    )


def test_no_states() -> None:
    model, none = pico.shared("llama"), torch.zeros(0, 32)
    assert lens_top(model, none, 3).ids.shape == (0, 3)
    assert lens_ranks(model, none, torch.zeros(0, 2, dtype=torch.long)).shape == (0, 2)
    assert project_top(model, none, 3).scores.shape == (0, 3)


def test_text() -> None:
    model = pico.shared("llama")
    assert token_text(model, single_token(model, " Paris")) == " "
    assert token_text(model, single_token(model, "é")) == "�"
    top = lens_top(model, states(2), 3)
    assert top.text(model) == [[token_text(model, int(token)) for token in row] for row in top.ids]


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    model = pico.shared("llama")
    with pytest.raises(ShammieError, match="the text '' has no tokens"):
        single_token(model, "")
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside of the tests
    for read in (lens_log_probs, lens_ranks):
        for rows in (1, 14):
            with pytest.raises(ShammieError, match=f"13 states but tokens for {rows}; give each state its own"):
                read(model, states(), torch.zeros(rows, 2, dtype=torch.long))
