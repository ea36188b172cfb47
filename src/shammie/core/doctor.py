"""check(): prove on the loaded weights that a family's anatomy row means what it says.

Every finding is an identity that must hold for reading and editing to be right; errors are the largest absolute
difference relative to the scale of what is compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shammie.core.batch import Batch, encode, pad
from shammie.core.capture import Captured, capture
from shammie.core.edit import Edit, add, edited
from shammie.core.model import LanguageModel
from shammie.core.position import Span
from shammie.core.prefix import KeyValues, read
from shammie.core.site import Site, attention_out, embedding, mlp_in, mlp_out, neurons, residual, residual_in, router

_TEXTS = (
    "The river was high that spring, and the old bridge at the mill had been closed to carts since March.",
    "Ask her about the comet.",
)
_BOUNDS = {torch.bfloat16: 0.1, torch.float16: 2e-2}  # 1e-4 in float32


@dataclass(frozen=True)
class Finding:
    """One identity: its error against its bound, and what it says."""

    name: str
    ok: bool
    error: float
    bound: float
    detail: str


def check(model: LanguageModel) -> list[Finding]:
    """Every identity of the model's anatomy row, on two prompts of unlike length."""
    batch = pad([encode(model, text) for text in _TEXTS], device=model.device)
    bound = _BOUNDS.get(model.dtype, 1e-4)
    findings: list[Finding] = []
    with torch.no_grad():
        try:
            for name, error, detail in _identities(model, batch):
                findings.append(Finding(name, error <= bound, error, bound, detail))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, IndexError) as error:  # a wrong row need not even fit
            reason = str(error).splitlines()[0]
            findings.append(
                Finding("shapes", False, math.inf, bound, f"what the row names does not fit together ({reason})")
            )
    return findings


def _identities(model: LanguageModel, batch: Batch) -> Iterator[tuple[str, float, str]]:
    anatomy, real = model.anatomy, batch.mask.bool()
    layers = range(len(anatomy.layers))
    seen = capture(model, batch, _all_sites(model), logits=True)
    plain = model.module(**batch.inputs(), output_hidden_states=True)
    hidden = plain.hidden_states

    def gap(left: Tensor, right: Tensor) -> float:
        return relative_gap(left[real], right[real])

    worst = max([gap(seen[residual(i)], hidden[i + 1]) for i in layers[:-1]], default=0.0)
    yield "residual", worst, "the state after each layer is transformers' hidden state"
    yield (
        "final norm",
        gap(anatomy.normed(seen[residual(layers[-1])]), hidden[-1]),
        "final norm of the last residual is the last hidden state",
    )
    capped = f" with soft cap {anatomy.soft_cap:g}" if anatomy.soft_cap else ""
    assert seen.logits is not None
    yield "logits", gap(seen.logits, plain.logits), f"unembedding{capped} gives the model's logits"
    entering = seen[embedding()]
    if anatomy.family.position_embedding is None:
        yield "embedding", gap(entering, seen[residual_in(0)]), "token vectors enter the stream as they are"
    else:
        table = anatomy.body.get_submodule(anatomy.family.position_embedding)
        offset = int(getattr(table, "offset", 0))
        learned = table.weight[batch.frame.position + offset]  # type: ignore[index]
        yield (
            "embedding",
            gap(entering + learned, seen[residual_in(0)]),
            "token vectors plus learned positions enter the stream",
        )
    yield (
        "stream",
        max(gap(*_stream_sum(seen, i)) for i in layers),
        "each layer adds attention_out and mlp_out to the stream",
    )
    yield (
        "neurons",
        max(_mlp_gap(model, seen, i, gap) for i in layers),
        "gate, read and write vectors reproduce neurons and the MLP's output",
    )
    alone = capture(model, batch, [residual(layers[len(layers) // 2])])
    yield (
        "early stop",
        gap(alone[residual(len(layers) // 2)], seen[residual(len(layers) // 2)]),
        "stopping mid-model gives the same state",
    )
    yield from _edit_identities(model, batch)


def _all_sites(model: LanguageModel) -> list[Site]:
    sites = [embedding()]
    for layer in range(len(model.anatomy.layers)):
        sites += [residual_in(layer), attention_out(layer), mlp_in(layer), mlp_out(layer), residual(layer)]
        sites.append(router(layer) if model.anatomy.is_sparse(layer) else neurons(layer))
    return sites


def _stream_sum(seen: Captured, layer: int) -> tuple[Tensor, Tensor]:
    return seen[residual_in(layer)] + seen[attention_out(layer)] + seen[mlp_out(layer)], seen[residual(layer)]


def _mlp_gap(model: LanguageModel, seen: Captured, layer: int, gap: Callable[[Tensor, Tensor], float]) -> float:
    """Recompute a layer's MLP from the oriented weight slices alone and compare."""
    anatomy, given = model.anatomy, seen[mlp_in(layer)]
    if anatomy.is_sparse(layer):
        return _experts_gap(model, seen, layer)
    weights, block = anatomy.mlp_weights(layer), anatomy.layers[layer]
    activation: Any = block.get_submodule(anatomy.family.activation)
    read_bias = getattr(block.get_submodule(anatomy.family.read), "bias", None)
    write_bias = getattr(block.get_submodule(anatomy.family.write), "bias", None)
    states = given @ weights.read.view(model.module).T + (0 if read_bias is None else read_bias)
    if weights.gate is None or anatomy.family.gate is None:
        states = activation(states)
    else:
        gate_bias = None if anatomy.family.fused else getattr(block.get_submodule(anatomy.family.gate), "bias", None)
        gate = given @ weights.gate.view(model.module).T + (0 if gate_bias is None else gate_bias)
        states = activation(gate) * states
    neuron_gap = gap(states, seen[neurons(layer)])
    written = seen[neurons(layer)] @ weights.write.view(model.module) + (0 if write_bias is None else write_bias)
    if anatomy.family.mlp_added != anatomy.family.mlp and anatomy.family.mlp_added != anatomy.family.write:
        written = block.get_submodule(anatomy.family.mlp_added)(written)
    return max(neuron_gap, gap(written, seen[mlp_out(layer)]))


def _experts_gap(model: LanguageModel, seen: Captured, layer: int) -> float:
    """Route as the model's own router does, but through our recomputed logits, neurons and write vectors."""
    anatomy, given = model.anatomy, seen[mlp_in(layer)]
    assert anatomy.family.router is not None
    assert anatomy.family.experts is not None
    block = anatomy.layers[layer]
    flat = given.flatten(0, 1)
    logits, gates, chosen = block.get_submodule(anatomy.family.router)(flat)
    router_gap = relative_gap(seen[router(layer)].flatten(0, 1), logits)
    experts = tuple(range(anatomy.expert_count(layer)))
    bias = getattr(block.get_submodule(anatomy.family.experts), "down_proj_bias", None)
    total = torch.zeros_like(flat)
    for expert in experts:
        states = anatomy.expert_neurons(layer, (expert,), flat)[:, 0]
        written = states @ anatomy.mlp_weights(layer, expert).write.view(model.module)
        written = written if bias is None else written + bias[expert]
        total += written * (gates * (chosen == expert)).sum(-1, keepdim=True).to(written.dtype)
    return max(router_gap, relative_gap(total, seen[mlp_out(layer)].flatten(0, 1)))


def _edit_identities(model: LanguageModel, batch: Batch) -> Iterator[tuple[str, float, str]]:
    """The same edit, at the same absolute positions, under padding and under the cache."""
    middle = len(model.anatomy.layers) // 2
    clean = capture(model, batch, [residual(middle)], logits=True)
    scale = float(clean[residual(middle)][batch.mask.bool()].float().std())
    direction = torch.randn(model.anatomy.width, generator=torch.Generator().manual_seed(0)) * scale
    edit = add(residual(middle), direction.to(model.device), positions=Span(1, 4))
    lengths = batch.lengths.tolist()
    with edited(model, [edit]):
        together = _logits(model, batch)
        single = [
            _logits(model, pad([batch.ids[i, : lengths[i]].tolist()], device=model.device)) for i in range(len(lengths))
        ]
        cached = [_cached_logits(model, batch.ids[i : i + 1, : lengths[i]]) for i in range(len(lengths))]
    padded = max(_apart(together[i, : lengths[i]], single[i][0]) for i in range(len(lengths)))
    yield "padding", padded, "an edit in a padded batch equals the same edit on one prompt"
    stepped = max(_apart(cached[i][0], single[i][0]) for i in range(len(lengths)))
    yield "cache", stepped, "an edit token by token under the cache equals the whole prompt at once"
    assert clean.logits is not None
    moved = relative_gap(together[batch.mask.bool()], clean.logits[batch.mask.bool()])
    yield "edit acts", 0.0 if moved > 1e-3 else 1.0, f"the edit moves the logits (by {moved:.2g} of their scale)"
    with edited(model, [_nothing(middle)]):
        untouched = _logits(model, batch)
    same = torch.equal(untouched, clean.logits)
    yield (
        "edit restores",
        0.0 if same and torch.equal(_logits(model, batch), clean.logits) else 1.0,
        "an edit of strength 0, and leaving an edit, change no bit",
    )


def _nothing(layer: int) -> Edit:
    return Edit(residual(layer), lambda state, _p, _r: state * 1.0)


def _logits(model: LanguageModel, batch: Batch) -> Tensor:
    logits = capture(model, batch, [], logits=True).logits
    assert logits is not None
    return logits


def _cached_logits(model: LanguageModel, ids: Tensor) -> Tensor:
    past = KeyValues.empty(1, model.device)
    row, length = torch.zeros(1, dtype=torch.long), torch.tensor([ids.shape[1]])
    cut = ids.shape[1] // 2
    steps = [ids[:, :2], ids[:, 2:cut], *(ids[:, i : i + 1] for i in range(cut, ids.shape[1]))]
    states = [read(model, past, part, None, row.to(ids.device), length.to(ids.device)) for part in steps]
    return model.anatomy.unembed(torch.cat(states, 1))


def relative_gap(left: Tensor, right: Tensor) -> float:
    """Largest absolute difference, relative to the larger tensor's root mean square."""
    scale = max(float(left.float().square().mean().sqrt()), float(right.float().square().mean().sqrt()), 1e-12)
    gap = float((left.float() - right.float()).abs().max()) / scale
    return gap if math.isfinite(gap) else math.inf  # max() over layers would pass over a NaN


def _apart(left: Tensor, right: Tensor) -> float:
    """Gap of logits [T, V] that batches of other shapes computed.

    In half precision that of the median token by root mean square: rounding adds up over layers there, and may send a
    token to another expert.
    """
    if left.dtype not in _BOUNDS:
        return relative_gap(left, right)
    scale = max(float(right.float().square().mean().sqrt()), 1e-12)
    gap = float((left.float() - right.float()).square().mean(-1).sqrt().median()) / scale
    return gap if math.isfinite(gap) else math.inf
