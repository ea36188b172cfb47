"""The doctor passes on every family and variant, and fails wherever a row of the anatomy table is made wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from parity_tools import digest, hooks
from torch import nn

import pico
from shammie.core.doctor import check
from shammie.core.model import LanguageModel

NAMES = [
    "residual", "final norm", "logits", "embedding", "stream", "neurons", "early stop", "padding", "cache", "edit acts",
    "edit restores",
]  # fmt: skip


@pytest.mark.parametrize("family", pico.FAMILIES)
def test_passes(family: str) -> None:
    model = pico.shared(family)
    before, count = digest(model.module), hooks(model.module)
    check(model)  # transformers puts its own hooks on at its first report of hidden states
    count, findings = hooks(model.module), check(model)
    assert [found.name for found in findings] == NAMES
    assert all(found.ok for found in findings), findings
    assert max(found.error for found in findings) < 1e-5
    assert (digest(model.module), hooks(model.module)) == (before, count)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("gpt_neox", {"use_parallel_residual": False}),
        ("gpt_neox", {"tie_word_embeddings": True}),
        ("llama", {"mlp_bias": True, "attention_bias": True}),
        ("llama", {"tie_word_embeddings": True, "num_hidden_layers": 1}),
        ("qwen3_moe", {"mlp_only_layers": [], "norm_topk_prob": False}),
        ("qwen3_moe", {"decoder_sparse_step": 2}),
        ("olmoe", {"norm_topk_prob": True}),
        ("gemma3_text", {"final_logit_softcapping": 2.0}),
        ("gemma", {"tie_word_embeddings": False}),
        ("opt", {"tie_word_embeddings": False, "activation_function": "gelu"}),
        ("phi3", {"sliding_window": 5}),
    ],
)
def test_passes_on_variants(family: str, changes: dict[str, object]) -> None:
    findings = check(pico.build(family, **changes))
    assert all(found.ok for found in findings), findings


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "olmo2", "mixtral", "gpt_oss"])
def test_passes_in_bfloat16(family: str) -> None:
    findings = check(pico.build(family, dtype=torch.bfloat16))
    assert all(found.ok for found in findings), findings


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_passes_in_other_dtypes(dtype: torch.dtype) -> None:
    findings = check(pico.build("llama", dtype=dtype))
    assert all(found.ok for found in findings), findings


def row(**changes: object) -> Callable[[LanguageModel], None]:
    """Another row of the anatomy table."""

    def sabotage(model: LanguageModel) -> None:
        model.anatomy.family = replace(model.anatomy.family, **changes)  # type: ignore[arg-type]

    return sabotage


def attribute(name: str, value: Callable[[LanguageModel], object]) -> Callable[[LanguageModel], None]:
    return lambda model: setattr(model.anatomy, name, value(model))


def swapped_halves(model: LanguageModel) -> None:
    """Gate and read of a fused matrix, or of experts, the other way round."""
    real = model.anatomy.mlp_weights

    def wrong(layer: int, expert: int | None = None) -> object:
        weights = real(layer, expert)
        return replace(weights, gate=weights.read, read=weights.gate)

    model.anatomy.mlp_weights = wrong  # type: ignore[method-assign,assignment]


SABOTAGES = [
    ("gate and read swapped", "llama", row(gate="mlp.up_proj", read="mlp.gate_proj"), "neurons"),
    ("fused halves swapped", "phi3", swapped_halves, "neurons"),
    ("expert halves swapped", "mixtral", swapped_halves, "neurons"),
    ("alternating halves swapped", "gpt_oss", swapped_halves, "neurons"),
    ("not alternating", "gpt_oss", row(interleaved=False), None),
    ("alternating after all", "olmoe", row(interleaved=True), None),
    ("not fused", "phi3", row(fused=False), None),
    ("fused after all", "llama", row(fused=True), None),
    ("mlp_added before the post-norm", "gemma2", row(mlp_added="mlp"), "stream"),
    ("mlp_added before the post-norm", "olmo2", row(mlp_added="mlp"), "stream"),
    ("attention_added before the post-norm", "gemma3_text", row(attention_added="self_attn"), "stream"),
    ("mlp_added is a norm", "llama", row(mlp_added="post_attention_layernorm"), "stream"),
    ("no soft cap", "gemma2", attribute("soft_cap", lambda _: None), "logits"),
    ("another soft cap", "gemma2", attribute("soft_cap", lambda _: 4.0), "logits"),
    ("a soft cap it has not", "llama", attribute("soft_cap", lambda _: 3.0), "logits"),
    ("not transposed", "gpt2", row(transposed=False), None),
    ("transposed after all", "gpt_neox", row(transposed=True), None),
    ("no position embedding", "gpt2", row(position_embedding=None), "embedding"),
    ("no position embedding", "opt", row(position_embedding=None), "embedding"),
    ("another activation", "llama", attribute("layers", lambda model: _tanh(model)), "neurons"),
    ("mlp_in before the norm", "llama", row(mlp="post_attention_layernorm"), "neurons"),
    ("another norm at the end", "llama", attribute("final_norm", lambda m: m.anatomy.layers[0].input_layernorm), "final norm"),
    ("layers out of order", "qwen2", attribute("layers", lambda m: [m.anatomy.layers[i] for i in (1, 0, 2)]), "residual"),
    ("the embedding as unembedding", "llama", attribute("unembedding", lambda m: _linear(m.anatomy.embedding)), "logits"),
    ("another embedding", "qwen3", attribute("embedding", lambda m: m.anatomy.layers[0].input_layernorm), "embedding"),
]  # fmt: skip


def _linear(embedding: nn.Module) -> nn.Module:
    head = nn.Linear(32, 260, bias=False)
    head.weight = embedding.weight  # type: ignore[assignment]
    return head


def _tanh(model: LanguageModel) -> list[nn.Module]:
    """The row's `activation` names a module that the MLP does not use."""
    model.anatomy.family = replace(model.anatomy.family, activation="mlp.other")
    for layer in model.anatomy.layers:
        layer.mlp.other = nn.Tanh()  # type: ignore[union-attr]
    return model.anatomy.layers


@pytest.mark.parametrize(
    ("family", "sabotage", "caught"),
    [case[1:] for case in SABOTAGES],
    ids=[f"{family}: {name}".replace(" ", "-") for name, family, *_ in SABOTAGES],
)
def test_fails_on_a_wrong_row(family: str, sabotage: Callable[[LanguageModel], None], caught: str | None) -> None:
    """A finding with ok False; by name where the shapes still fit."""
    model = pico.build(family)
    sabotage(model)
    findings = check(model)
    failed = [found.name for found in findings if not found.ok]
    assert failed
    assert caught is None or caught in failed
    assert all(found.error > found.bound for found in findings if not found.ok)


def test_infinity_is_not_hidden_by_a_finite_layer() -> None:
    """A NaN in one layer fails although other layers are right."""
    model = pico.build("llama")
    with torch.no_grad():
        model.module.model.layers[1].mlp.down_proj.weight.fill_(1e38)
    assert not all(found.ok for found in check(model))
