"""Gradients through captures and edits against finite differences, in float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from parity_tools import ragged
from torch import Tensor

import pico
from shammie.core.capture import capture
from shammie.core.edit import add, edited, project_out, replace
from shammie.core.model import LanguageModel
from shammie.core.position import LAST, Span
from shammie.core.site import Site, attention_out, mlp_in, mlp_out, neurons, residual, router

families = pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mixtral"])
FINE = 1e-3  # a step that float32 parts inside transformers (norms, rotary angles, softmax) still resolve


@cache
def double(family: str) -> LanguageModel:
    return pico.build(family, dtype=torch.float64)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slope(function: Callable[[Tensor], Tensor], at: Tensor, along: Tensor) -> float:
    with torch.no_grad():
        return float((function(at + FINE * along) - function(at - FINE * along)) / (2 * FINE))


def check(function: Callable[[Tensor], Tensor], at: Tensor) -> None:
    """The gradient along three random directions is the finite difference there."""
    at = at.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(at), at)
    assert gradient.dtype == torch.float64
    for seed in range(3):
        along = random(*at.shape, seed=seed)
        along = along / along.norm()
        own, found = float((gradient * along).sum()), slope(function, at.detach(), along)
        assert found == pytest.approx(own, rel=2e-3, abs=2e-3 * float(gradient.norm()))
    assert float(gradient.norm()) > 1e-3


@families
def test_through_edits_to_logits(family: str) -> None:
    model, batch = double(family), ragged()
    weights = random(260, seed=9)
    places = [Site("embedding"), Site("residual_in", 1), attention_out(0), mlp_in(1), mlp_out(0), residual(1)]
    if family != "mixtral":
        places.append(neurons(1))

    for site in places:
        size = 48 if site.kind == "neurons" else 32

        def loss(vector: Tensor, site: Site = site) -> Tensor:
            with edited(model, [add(site, vector, positions=Span(1, 3))]):
                logits = capture(model, batch, [], positions=LAST, logits=True, gradients=True).logits
            assert logits is not None
            return (logits.log_softmax(-1) * weights).sum(-1).mean()

        check(loss, 0.3 * random(size, seed=4))


@families
def test_through_edits_to_captured_states(family: str) -> None:
    """An edit on coordinates, read at later sites; the forward pass stops there."""
    model, batch = double(family), ragged()
    weights = random(32, seed=8)

    def loss(values: Tensor) -> Tensor:
        edits = [replace(residual(0), values, positions=Span(0, 2), coordinates=(0, 5, 31))]
        edits.append(project_out(residual(1), weights.float()[None], positions=LAST))
        with edited(model, edits):
            seen = capture(model, batch, [mlp_out(1), residual(1)], positions=Span(-2), gradients=True)
        return (seen[mlp_out(1)] @ weights).sum() + seen[residual(1)].square().mean()

    check(loss, random(3, seed=5))


@families
def test_gradients_at_captured_states(family: str) -> None:
    """d loss / d state is what adding to that state does."""
    model, batch = double(family), ragged(5, 3)
    weights = random(260, seed=7)
    for site in (residual(0), mlp_out(1), attention_out(1)):
        shape = (2, 5, 32)

        def loss(change: Tensor, site: Site = site) -> Tensor:
            with edited(model, [add(site, change)]):
                logits = capture(model, batch, [], logits=True, gradients=True).logits
            assert logits is not None
            return (logits[batch.mask.bool()] @ weights).mean()

        seen = capture(model, batch, [site], logits=True, gradients=True)
        assert seen.logits is not None
        total = (seen.logits[batch.mask.bool()] @ weights).mean()
        (gradient,) = torch.autograd.grad(total, seen[site])
        real = batch.mask[..., None].double()
        for seed in range(2):
            along = random(*shape, seed=seed) * real
            along = along / along.norm()
            own = float((gradient * along).sum())
            found = slope(loss, torch.zeros(shape, dtype=torch.float64), along)
            assert found == pytest.approx(own, rel=2e-3, abs=2e-3 * float(gradient.norm()))


@families
def test_gradients_reach_weights(family: str) -> None:
    model, batch = double(family), ragged()
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
            parameter.copy_(former + sign * FINE * along)
            values.append(float(loss()))
    with torch.no_grad():
        parameter.copy_(former)
    found = (values[0] - values[1]) / (2 * FINE)
    assert found == pytest.approx(float((gradient * along).sum()), rel=2e-3, abs=2e-3 * float(gradient.norm()))


def test_gradients_reach_the_router() -> None:
    model, batch = double("mixtral"), ragged()

    def loss(vector: Tensor) -> Tensor:
        with edited(model, [add(residual(0), vector)]):
            seen = capture(model, batch, [router(1), Site("expert_neurons", 1, (0, 2))], gradients=True)
        return seen[router(1)][batch.mask.bool()].square().mean() + seen[Site("expert_neurons", 1, (0, 2))].mean()

    check(loss, 0.3 * random(32, seed=6))


def test_no_graph_unless_asked() -> None:
    model, batch = double("llama"), ragged()
    vector = torch.zeros(32, dtype=torch.float64, requires_grad=True)
    with edited(model, [add(residual(0), vector)]):
        seen = capture(model, batch, [residual(1)], logits=True)
    assert seen.logits is not None
    assert not seen.logits.requires_grad
    assert not seen[residual(1)].requires_grad
