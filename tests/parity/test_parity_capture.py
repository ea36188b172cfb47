"""What is captured is what the model computed, by oracles written against the stored weights, in every family."""

from __future__ import annotations

from functools import cache, partial

import pytest
import torch
from parity_tools import close, hooks, prompts, ragged, sites
from torch import Tensor, nn
from torch.nn import functional as F

import pico
from shammie.core.batch import pad
from shammie.core.capture import Captured, capture
from shammie.core.errors import SiteError
from shammie.core.position import LAST, Span
from shammie.core.site import (
    Site,
    attention_out,
    embedding,
    expert_neurons,
    mlp_in,
    mlp_out,
    neurons,
    residual,
    residual_in,
    router,
)

LAYERS = range(3)
tanh_gelu = partial(F.gelu, approximate="tanh")
ACTIVATION = dict.fromkeys(pico.FAMILIES, F.silu) | {
    "gpt2": tanh_gelu, "gpt_neox": F.gelu, "opt": F.relu,
    "gemma": tanh_gelu, "gemma2": tanh_gelu, "gemma3_text": tanh_gelu,
}  # fmt: skip
# Where each family keeps a layer's weights, said here once more and otherwise than in the anatomy table.
PREFIX = {"gpt2": "transformer.h", "gpt_neox": "gpt_neox.layers", "opt": "model.decoder.layers"}
WRITE = {"gpt2": "mlp.c_proj", "gpt_neox": "mlp.dense_4h_to_h", "opt": "fc2"}
READ = {"gpt2": "mlp.c_fc", "gpt_neox": "mlp.dense_h_to_4h", "opt": "fc1"}
POST_NORM = ("gemma2", "gemma3_text", "olmo2")

families = pytest.mark.parametrize("family", pico.FAMILIES)


def sparse_layers(family: str) -> list[int]:
    return [] if family in pico.DENSE else [0, 2] if family == "qwen3_moe" else [0, 1, 2]


@cache
def everything(family: str) -> Captured:
    model = pico.shared(family)
    return capture(model, ragged(), sites(model), logits=True)


@cache
def plain(family: str) -> tuple[tuple[Tensor, ...], Tensor]:
    """Hugging Face's own hidden states and logits."""
    with torch.no_grad():
        out = pico.shared(family).module(**ragged().inputs(), output_hidden_states=True)
    return out.hidden_states, out.logits


def real(state: Tensor) -> Tensor:
    return state[ragged().mask.bool()]


def stored(family: str, name: str) -> Tensor | None:
    return pico.shared(family).module.state_dict().get(name)


def linear(family: str, layer: int, path: str, given: Tensor) -> Tensor:
    """A stored linear map of a layer, Conv1D for gpt2."""
    prefix = f"{PREFIX.get(family, 'model.layers')}.{layer}.{path}"
    weight, bias = stored(family, f"{prefix}.weight"), stored(family, f"{prefix}.bias")
    assert weight is not None
    out = given @ (weight if family == "gpt2" else weight.T)
    return out if bias is None else out + bias


def rms(family: str, layer: int, path: str, given: Tensor) -> Tensor:
    weight = stored(family, f"model.layers.{layer}.{path}.weight")
    assert weight is not None
    weight = weight + 1 if family.startswith("gemma") else weight
    epsilon = 1e-5 if family == "olmo2" else 1e-6
    return given * (given.square().mean(-1, keepdim=True) + epsilon).rsqrt() * weight


# --- states ---------------------------------------------------------------------------------------------------------


@families
def test_residuals_are_hidden_states(family: str) -> None:
    seen, (hidden, _) = everything(family), plain(family)
    for layer in LAYERS[:-1]:
        assert torch.equal(real(seen[residual(layer)]), real(hidden[layer + 1]))
        assert torch.equal(seen[residual(layer)], seen[residual_in(layer + 1)])
    assert torch.equal(real(seen[residual_in(0)]), real(hidden[0]))


@families
def test_final_norm_and_logits(family: str) -> None:
    seen, (hidden, logits), anatomy = everything(family), plain(family), pico.shared(family).anatomy
    close(real(anatomy.normed(seen[residual(2)])), real(hidden[-1]))
    assert seen.logits is not None
    close(real(seen.logits), real(logits))
    head = anatomy.unembedding_weights.view(anatomy.module)
    raw = real(hidden[-1]) @ head.T
    close(real(logits), 3.0 * torch.tanh(raw / 3.0) if family == "gemma2" else raw)
    close(anatomy.unembed(real(hidden[-1]), cap=False), raw)


@families
def test_embedding_is_the_scaled_row(family: str) -> None:
    seen, anatomy, batch = everything(family), pico.shared(family).anatomy, ragged()
    rows = anatomy.embedding_weights.view(anatomy.module)[batch.ids]
    expected = rows * (32**0.5 if family.startswith("gemma") else 1.0)
    close(real(seen[embedding()]), real(expected))
    if family in ("gpt2", "opt"):
        name, offset = (
            ("transformer.wpe.weight", 0) if family == "gpt2" else ("model.decoder.embed_positions.weight", 2)
        )
        table = stored(family, name)
        assert table is not None
        expected = expected + table[batch.frame.position + offset]
    close(real(seen[residual_in(0)]), real(expected))


@families
def test_layers_add_attention_and_mlp(family: str) -> None:
    seen = everything(family)
    for layer in LAYERS:
        total = seen[residual_in(layer)] + seen[attention_out(layer)] + seen[mlp_out(layer)]
        close(real(total), real(seen[residual(layer)]))
        added = real(seen[attention_out(layer)]), real(seen[mlp_out(layer)])
        assert min(float(part.abs().max()) for part in added) > 1e-3


@families
def test_neurons_and_mlp_out_from_stored_weights(family: str) -> None:
    seen, act = everything(family), ACTIVATION[family]
    for layer in set(LAYERS) - set(sparse_layers(family)):
        given = real(seen[mlp_in(layer)])
        if family in READ:
            states = act(linear(family, layer, READ[family], given))
        elif family == "phi3":
            gate, up = linear(family, layer, "mlp.gate_up_proj", given).chunk(2, -1)
            states = act(gate) * up
        else:
            states = act(linear(family, layer, "mlp.gate_proj", given)) * linear(family, layer, "mlp.up_proj", given)
        close(real(seen[neurons(layer)]), states)
        written = linear(family, layer, WRITE.get(family, "mlp.down_proj"), states)
        if family in POST_NORM:
            written = rms(family, layer, "post_feedforward_layernorm", written)
        close(real(seen[mlp_out(layer)]), written, 2e-5)


@families
def test_neurons_from_oriented_slices(family: str) -> None:
    """Row j of gate, read and write is neuron j."""
    model, seen, act = pico.shared(family), everything(family), ACTIVATION[family]
    for layer in set(LAYERS) - set(sparse_layers(family)):
        weights, given = model.anatomy.mlp_weights(layer), real(seen[mlp_in(layer)])
        read, write = weights.read.view(model.module), weights.write.view(model.module)
        assert read.shape == write.shape == (model.anatomy.neuron_count(layer), 32) == (48, 32)
        bias = model.anatomy.layers[layer].get_submodule(model.anatomy.family.read).bias
        for j in (0, 1, 23, 24, 47):
            own = given @ read[j] + (0 if bias is None else bias[j])
            own = act(own) if weights.gate is None else act(given @ weights.gate.view(model.module)[j]) * own
            close(real(seen[neurons(layer)])[:, j], own, 2e-5)


# --- experts --------------------------------------------------------------------------------------------------------


def mixture(family: str, scores: Tensor) -> Tensor:
    """The weight of each expert, from the router's logits."""
    if family == "gpt_oss":
        top = scores.topk(2, dim=-1)
        return torch.zeros_like(scores).scatter(-1, top.indices, top.values.softmax(-1))
    top = scores.softmax(-1).topk(2, dim=-1)
    shares = top.values if family == "olmoe" else top.values / top.values.sum(-1, keepdim=True)
    return torch.zeros_like(scores).scatter(-1, top.indices, shares)


def expert_states(family: str, layer: int, expert: int, given: Tensor) -> tuple[Tensor, Tensor]:
    """Neurons of an expert and what it writes, from the fused parameters."""
    experts = dict(pico.shared(family).module.model.layers[layer].mlp.experts.named_parameters())
    fused, down = experts["gate_up_proj"][expert], experts["down_proj"][expert]
    if family == "gpt_oss":
        both = given @ fused + experts["gate_up_proj_bias"][expert]
        gate, up = both[..., ::2].clamp(max=7.0), both[..., 1::2].clamp(-7.0, 7.0)
        states = (up + 1) * gate * torch.sigmoid(1.702 * gate)
        return states, states @ down + experts["down_proj_bias"][expert]
    gate, up = (given @ fused.T).chunk(2, -1)
    states = F.silu(gate) * up
    return states, states @ down.T


@pytest.mark.parametrize("family", pico.SPARSE)
@torch.no_grad()
def test_router_experts_and_mixture(family: str) -> None:
    seen = everything(family)
    for layer in sparse_layers(family):
        given = real(seen[mlp_in(layer)])
        name = "mlp.router" if family == "gpt_oss" else "mlp.gate"
        scores = linear(family, layer, name, given)
        close(real(seen[router(layer)]), scores)
        assert real(seen[expert_neurons(layer, (1, 3))]).shape == (
            sum((9, 4, 12)),
            2,
            24 if family == "qwen3_moe" else 48,
        )
        total, shares = torch.zeros_like(given), mixture(family, scores)
        for expert in range(4):
            states, written = expert_states(family, layer, expert, given)
            if expert in (1, 3):
                close(real(seen[expert_neurons(layer, (1, 3))])[:, expert // 2], states)
            total += shares[:, expert, None] * written
        close(real(seen[mlp_out(layer)]), total, 2e-5)


@pytest.mark.parametrize("family", pico.SPARSE)
def test_router_site_is_what_the_routing_module_says(family: str) -> None:
    model, batch = pico.shared(family), ragged()
    for layer in sparse_layers(family):
        said: list[Tensor] = []
        module = model.anatomy.layers[layer].get_submodule(model.anatomy.family.router or "")
        handle = module.register_forward_hook(lambda _m, _a, out, said=said: said.append(out[0]))
        own = capture(model, batch, [router(layer), residual(layer)])[router(layer)]
        handle.remove()
        assert torch.equal(own, said[0].view_as(own))


@pytest.mark.parametrize("family", pico.SPARSE)
def test_expert_weights_are_views_of_the_fused_parameters(family: str) -> None:
    model = pico.shared(family)
    for layer in sparse_layers(family):
        weights = model.anatomy.mlp_weights(layer, 2)
        given = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
        states, written = expert_states(family, layer, 2, given)
        close(model.anatomy.expert_neurons(layer, (2,), given)[:, 0], states)
        block = model.anatomy.layers[layer].mlp.experts
        bias = block.down_proj_bias[2] if family == "gpt_oss" else 0.0
        close(states @ weights.write.view(model.module) + bias, written)
        assert weights.gate is not None
        for part in (weights.gate, weights.read, weights.write):
            assert part.view(model.module).untyped_storage().data_ptr() in {
                block.gate_up_proj.untyped_storage().data_ptr(), block.down_proj.untyped_storage().data_ptr(),
            }  # fmt: skip


@pytest.mark.parametrize("family", pico.SPARSE)
def test_sparse_layers_refuse_dense_questions(family: str) -> None:
    model, batch = pico.shared(family), ragged()
    with pytest.raises(SiteError, match=r"neurons:0 does not exist in a sparse layer; use expert_neurons:0:0"):
        capture(model, batch, [neurons(0)])
    with pytest.raises(SiteError, match=r"expert 4 does not exist; layer 0 has experts 0 to 3"):
        capture(model, batch, [expert_neurons(0, (0, 4))])
    with pytest.raises(SiteError, match="layer 0 is sparse: name one of its experts"):
        model.anatomy.mlp_weights(0)
    with pytest.raises(SiteError, match="layer 3 does not exist"):
        capture(model, batch, [router(3)])


@pytest.mark.parametrize(("family", "layer"), [*((family, 0) for family in pico.DENSE), ("qwen3_moe", 1)])
def test_dense_layers_refuse_sparse_questions(family: str, layer: int) -> None:
    model, batch = pico.shared(family), ragged()
    for site in (router(layer), expert_neurons(layer, (0,))):
        with pytest.raises(SiteError, match=f"{site} does not exist: layer {layer} of this {family} model is dense"):
            capture(model, batch, [site])
    with pytest.raises(SiteError, match=f"layer {layer} is dense: it has no experts"):
        model.anatomy.mlp_weights(layer, 0)


# --- early stop -----------------------------------------------------------------------------------------------------


@families
def test_each_site_alone_is_the_same(family: str) -> None:
    model, batch, seen = pico.shared(family), ragged(), everything(family)
    before = hooks(model.module)
    for site in sites(model):
        assert torch.equal(capture(model, batch, [site])[site], seen[site]), site
    assert hooks(model.module) == before
    hidden, logits = plain(family)
    with torch.no_grad():  # stopping leaves nothing behind in transformers either
        out = model.module(**batch.inputs(), output_hidden_states=True)
    assert torch.equal(out.logits, logits)
    assert all(torch.equal(left, right) for left, right in zip(out.hidden_states, hidden, strict=True))


@families
def test_stops_at_the_deepest_site(family: str) -> None:
    model, batch = pico.shared(family), ragged()
    anatomy, called = model.anatomy, []
    watched: dict[str, nn.Module] = {f"layer {i}": layer for i, layer in enumerate(anatomy.layers)}
    watched |= {
        f"attention {i}": layer.get_submodule(anatomy.family.attention_added) for i, layer in enumerate(anatomy.layers)
    }
    watched |= {f"mlp {i}": layer.get_submodule(anatomy.family.mlp) for i, layer in enumerate(anatomy.layers)}
    watched |= {"final norm": anatomy.final_norm, "unembedding": anatomy.unembedding}
    handles = [
        module.register_forward_hook(lambda _m, _a, _o, name=name: called.append(name))
        for name, module in watched.items()
    ]
    try:
        for site in sites(model):
            called.clear()
            capture(model, batch, [embedding(), site])
            assert not {"final norm", "unembedding"} & set(called)
            layer = -1 if site.layer is None else site.layer
            assert f"layer {layer + 1}" not in called
            assert site.kind == "residual" or f"layer {layer}" not in called
            assert called.count(f"layer {layer - 1}") == (1 if layer else 0) or site.layer is None
            assert (f"mlp {layer}" in called) == (site.kind in ("mlp_out", "residual")) or family == "opt"
            assert f"attention {layer}" not in called or site.kind != "residual_in"
        called.clear()
        capture(model, batch, [residual(0)], logits=True)
        assert called.count("unembedding") == called.count("final norm") == called.count("layer 2") == 1
    finally:
        for handle in handles:
            handle.remove()


# --- batches and positions ------------------------------------------------------------------------------------------


@families
def test_padded_batch_is_single_prompts(family: str) -> None:
    model, seen = pico.shared(family), everything(family)
    assert seen.logits is not None
    for row, ids in enumerate(prompts()):
        alone = capture(model, pad([ids]), sites(model), logits=True)
        for site in sites(model):
            close(seen[site][row, : len(ids)], alone[site][0])
        assert alone.logits is not None
        close(seen.logits[row, : len(ids)], alone.logits[0])


@families
def test_left_padded_plain_forward_agrees(family: str) -> None:
    """The convention of other toolkits gives the states of ours."""
    model, longest = pico.shared(family), max(map(len, prompts()))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts()])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts()])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model.module(ids, attention_mask=mask, position_ids=positions).logits
    seen = everything(family).logits
    assert seen is not None
    close(logits[mask.bool()], real(seen))


@families
def test_packed_states_are_the_chosen_tokens(family: str) -> None:
    model, batch, seen = pico.shared(family), ragged(), everything(family)
    for positions in (LAST, Span(1, 3), Span(-2)):
        packed = capture(model, batch, sites(model), positions=positions, logits=True)
        chosen = positions.mask(batch.frame)
        assert packed.row.tolist() == chosen.nonzero()[:, 0].tolist()
        assert packed.position.tolist() == chosen.nonzero()[:, 1].tolist()
        for site in sites(model):
            assert len(packed[site]) == int(chosen.sum())
            close(packed[site], seen[site][chosen])
        assert packed.logits is not None
        assert seen.logits is not None
        close(packed.logits, seen.logits[chosen])


def test_every_layer_of_every_kind_was_looked_at() -> None:
    assert {site.kind for site in sites(pico.shared("qwen3_moe"))} == {
        "embedding", "residual_in", "attention_out", "mlp_in", "router", "expert_neurons", "neurons", "mlp_out", "residual",
    }  # fmt: skip
    assert Site("router", 2) in sites(pico.shared("qwen3_moe"))
