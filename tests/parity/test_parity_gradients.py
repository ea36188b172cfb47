"""Gradients through captures and edits against finite differences, in float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from parity_tools import ragged
from torch import Tensor

import pico
from shammie.core.batch import Batch
from shammie.core.capture import capture
from shammie.core.edit import Edit, add, edited, project_out, replace
from shammie.core.model import LanguageModel
from shammie.core.position import LAST, Span
from shammie.core.site import Site, attention_out, mlp_in, mlp_out, neurons, residual, router

families = pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mixtral"])
# Steps that the float32 parts inside transformers (norms, rotary angles, softmax) still resolve, and that send no token
# to another expert.
STEPS = {"llama": 1e-3, "gpt2": 1e-3, "opt": 1e-3, "gemma2": 3e-3, "mixtral": 3e-4}


@cache
def double(family: str) -> LanguageModel:
    """Experts run one by one: the fused kernel knows no float64."""
    model = pico.build(family, dtype=torch.float64)
    model.module.set_experts_implementation("eager")
    return model


def even() -> Batch:
    """No padding: in float64 transformers' eager attention (Gemma 2) makes NaN of a slot that sees only padding."""
    return ragged(9, 9)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def check(function: Callable[[Tensor], Tensor], at: Tensor, step: float) -> None:
    """The gradient along three random directions is the finite difference there."""
    at = at.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(at), at)
    assert gradient.dtype == torch.float64
    for seed in range(3):
        along = random(*at.shape, seed=seed)
        along = along / along.norm()
        own = float((gradient * along).sum())
        with torch.no_grad():
            found = float(function(at + step * along) - function(at - step * along)) / (2 * step)
        assert found == pytest.approx(own, rel=2e-3, abs=2e-3 * float(gradient.norm()))
    assert float(gradient.norm()) > 1e-3


@families
def test_through_edits_to_logits(family: str) -> None:
    model, batch = double(family), even()
    weights = random(260, seed=9)
    places = [Site("embedding"), Site("residual_in", 1), attention_out(0), mlp_in(1), mlp_out(0), residual(1)]
    if family != "mixtral":
        places.append(neurons(1))

    for site in places:
        size = 48 if site.kind == "neurons" else 32

        def loss(vector: Tensor, site: Site = site) -> Tensor:
            with edited(model, [add(site, vector, positions=Span(4, 7))]):
                logits = capture(model, batch, [], positions=LAST, logits=True, gradients=True).logits
            assert logits is not None
            return (logits.log_softmax(-1) * weights).sum(-1).mean()

        check(loss, 0.3 * random(size, seed=4), STEPS[family])


@families
def test_through_edits_to_captured_states(family: str) -> None:
    """An edit on coordinates, read at later sites; the forward pass stops there."""
    model, batch = double(family), even()
    weights = random(32, seed=8)

    def loss(values: Tensor) -> Tensor:
        edits = [replace(residual(0), values, positions=Span(0, 2), coordinates=(0, 5, 31))]
        edits.append(project_out(residual(1), weights.float()[None], positions=LAST))
        with edited(model, edits):
            seen = capture(model, batch, [mlp_out(1), residual(1)], positions=Span(-2), gradients=True)
        return (seen[mlp_out(1)] @ weights).sum() + seen[residual(1)].square().mean()

    check(loss, random(3, seed=5), STEPS[family])


@pytest.mark.parametrize("positions", [None, Span(1, 4)], ids=["grid", "packed"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mixtral", "opt"])
def test_gradients_at_captured_states(family: str, positions: Span | None) -> None:
    """d loss / d state is what adding to that state does, on the padded grid and on packed states."""
    model, batch = double(family), ragged(5, 5)
    weights = random(260, seed=7)

    def total(logits: Tensor | None) -> Tensor:
        assert logits is not None
        return (logits @ weights).mean()

    for site in (residual(0), mlp_out(1), attention_out(1), mlp_in(1), Site("embedding")):
        seen = capture(model, batch, [site], positions=positions, logits=True, gradients=True)
        (gradient,) = torch.autograd.grad(total(seen.logits), seen[site])
        for seed in range(2):
            along = random(*seen[site].shape, seed=seed)
            along = along / along.norm()
            values = []
            for sign in (1, -1):
                change = torch.zeros(2, 5, 32, dtype=torch.float64)
                change[seen.row, seen.position] = sign * STEPS[family] * along
                with edited(model, [Edit(site, lambda state, _p, _r, change=change: state + change)]):
                    values.append(float(total(capture(model, batch, [], positions=positions, logits=True).logits)))
            found = (values[0] - values[1]) / (2 * STEPS[family])
            own = float((gradient * along).sum())
            assert found == pytest.approx(own, rel=2e-3, abs=2e-3 * float(gradient.norm())), site


@families
def test_gradients_reach_weights(family: str) -> None:
    model, batch = double(family), even()
    name = "mlp.c_proj.weight" if family == "gpt2" else "self_attn.o_proj.weight"
    parameter = model.anatomy.layers[0].get_parameter(name)

    def loss() -> Tensor:
        return capture(model, batch, [residual(1)], positions=LAST, gradients=True)[residual(1)].square().mean()

    (gradient,) = torch.autograd.grad(loss(), parameter)
    along = random(*parameter.shape, seed=3)
    along, former = along / along.norm(), parameter.detach().clone()
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            parameter.copy_(former + sign * STEPS[family] * along)
            values.append(float(loss()))
    with torch.no_grad():
        parameter.copy_(former)
    found = (values[0] - values[1]) / (2 * STEPS[family])
    assert found == pytest.approx(float((gradient * along).sum()), rel=2e-3, abs=2e-3 * float(gradient.norm()))


def test_gradients_reach_the_router() -> None:
    model, batch = double("mixtral"), even()

    def loss(vector: Tensor) -> Tensor:
        with edited(model, [add(residual(0), vector)]):
            seen = capture(model, batch, [router(1), Site("expert_neurons", 1, (0, 2))], gradients=True)
        return seen[router(1)][batch.mask.bool()].square().mean() + seen[Site("expert_neurons", 1, (0, 2))].mean()

    check(loss, 0.3 * random(32, seed=6), STEPS["mixtral"])


def test_no_graph_unless_asked() -> None:
    model, batch = double("llama"), even()
    vector = torch.zeros(32, dtype=torch.float64, requires_grad=True)
    with edited(model, [add(residual(0), vector)]):
        seen = capture(model, batch, [residual(1)], logits=True)
    assert seen.logits is not None
    assert not seen.logits.requires_grad
    assert not seen[residual(1)].requires_grad
