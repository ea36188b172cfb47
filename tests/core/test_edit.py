"""Edits beyond what tests/parity holds for every family: refusals, tables by prompt and position, coordinates, nesting."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pico
from shammie.core.batch import Batch, pad
from shammie.core.capture import capture
from shammie.core.edit import Edit, add, clamp, edited, project_out, replace, scale
from shammie.core.errors import SiteError
from shammie.core.position import GENERATED, LAST, Mask, RowSpans, Span
from shammie.core.site import Site, embedding, expert_neurons, mlp_out, neurons, residual, router

SITE = residual(1)


def batch() -> Batch:
    return pad([[5, 6, 7, 8], [9, 10]], row=[2, 0])


REAL = batch().mask.bool()


def state(*edits: Edit, site: Site = SITE, family: str = "llama") -> Tensor:
    model = pico.shared(family)
    with edited(model, edits):
        return capture(model, batch(), [site])[site]


@settings(max_examples=25)
@given(st.lists(st.integers(0, 31), min_size=1, max_size=6, unique=True), st.data())
def test_only_chosen_coordinates_of_chosen_tokens_change(coordinates: list[int], data: st.DataObject) -> None:
    table = data.draw(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=3, max_size=3))
    table[2][0] = True
    edit = scale(SITE, -2.0, positions=Mask(torch.tensor(table)), coordinates=coordinates)
    before, after = state(), state(edit)
    expected = before.clone()
    for slot, row, length in ((0, 2, 4), (1, 0, 2)):
        for position in range(length):
            if table[row][position]:
                expected[slot, position, coordinates] *= -2.0
    assert torch.equal(after, expected)


def test_replacing_by_prompt() -> None:
    table = torch.randn(3, 32)
    after = state(replace(SITE, table, positions=Span(1, 2)))
    expected = state()
    expected[:, 1] = table[[2, 0]]
    assert torch.equal(after, expected)


def test_replacing_by_prompt_and_position() -> None:
    """Positions beyond the table keep their state."""
    table = torch.randn(3, 3, 32)
    expected = state()
    expected[0, :3], expected[1, :2] = table[2], table[0, :2]
    assert torch.equal(state(replace(SITE, table))[REAL], expected[REAL])


def test_replacing_coordinates_by_prompt() -> None:
    table = torch.randn(3, 2)
    expected = state()
    expected[0, 3, [4, 7]], expected[1, 1, [4, 7]] = table[2], table[0]
    assert torch.equal(state(replace(SITE, table, positions=LAST, coordinates=[4, 7])), expected)


def test_patching_a_state_in_restores_the_run() -> None:
    """The states of one prompt put into another at every position make the other's logits."""
    model, source, target = pico.shared("llama"), pad([[5, 6, 7, 8]]), pad([[9, 9, 9, 9]])
    taken = capture(model, source, [SITE], logits=True)
    with edited(model, [replace(SITE, taken[SITE])]):
        made = capture(model, target, [], logits=True).logits
    assert made is not None
    assert taken.logits is not None
    torch.testing.assert_close(made, taken.logits)


def test_projection_leaves_nothing_of_the_span() -> None:
    directions = torch.randn(3, 32)
    directions[2] = directions[0] + directions[1]
    after = state(project_out(SITE, directions[:2]))[REAL]
    assert float((after @ directions.T).abs().max()) < 1e-4
    for dependent in (directions, torch.cat([directions[1:], torch.zeros(1, 32)]), 1e-3 * directions):
        torch.testing.assert_close(state(project_out(SITE, dependent))[REAL], after, rtol=1e-4, atol=1e-5)
    assert torch.equal(state(project_out(SITE, torch.zeros(1, 32))), state())


def test_limits() -> None:
    after = state(clamp(SITE, low=-0.125, high=0.25, positions=Span(0, 1)))
    assert (float(after[:, 0].min()), float(after[:, 0].max())) == (-0.125, 0.25)
    assert torch.equal(after[:, 1:], state()[:, 1:])


def test_later_edits_and_inner_contexts_come_after() -> None:
    model, one = pico.shared("llama"), torch.ones(32)
    clean = state()
    with edited(model, [scale(SITE, 2.0)]):
        with edited(model, [add(SITE, one)]):
            both = capture(model, batch(), [SITE])[SITE]
            assert model.edits_in_force == 2
        outer = capture(model, batch(), [SITE])[SITE]
        assert model.edits_in_force == 1
    torch.testing.assert_close(both[REAL], clean[REAL] * 2 + 1)
    torch.testing.assert_close(outer[REAL], clean[REAL] * 2)


def test_no_edits_is_no_edit() -> None:
    model = pico.shared("llama")
    with edited(model, []):
        assert model.edits_in_force == 0
        assert torch.equal(capture(model, batch(), [SITE])[SITE], state())


def test_bfloat16_states_stay_bfloat16() -> None:
    model = pico.build("llama", dtype=torch.bfloat16)
    vector = torch.randn(32)
    for edit in (add(SITE, vector), project_out(SITE, vector[None]), replace(SITE, vector), scale(SITE, 0.5)):
        with edited(model, [edit]):
            assert capture(model, batch(), [SITE])[SITE].dtype == torch.bfloat16
    with edited(model, [Edit(SITE, lambda s, _p, _r: s.float() * 2)]):
        assert capture(model, batch(), [SITE])[SITE].dtype == torch.bfloat16


# --- refusals -------------------------------------------------------------------------------------------------------


def enter(family: str, *edits: Edit) -> None:
    with edited(pico.shared(family), edits):
        capture(pico.shared(family), batch(), [residual(2)])


@pytest.mark.parametrize(
    ("family", "edit", "said"),
    [
        ("mixtral", scale(router(0), 0.0), "site router:0 is recomputed beside the model and can only be read"),
        ("mixtral", scale(expert_neurons(0, (1,)), 0.0), "expert_neurons:0:1 is recomputed beside the model"),
        ("mixtral", scale(neurons(0), 0.0), "neurons:0 does not exist in a sparse layer"),
        ("llama", scale(residual(3), 0.0), "layer 3 does not exist"),
        ("llama", scale(router(0), 0.0), "can only be read"),
        ("llama", scale(neurons(0), 0.0, coordinates=[0, 48]), "neurons:0 has no coordinate 48; it has 0 to 47"),
        ("llama", scale(neurons(0), 0.0, coordinates=[3, -1]), "neurons:0 has no coordinate -1"),
        ("llama", scale(residual(0), 0.0, coordinates=[32]), "residual:0 has no coordinate 32; it has 0 to 31"),
        ("gpt2", scale(embedding(), 0.0, coordinates=[99]), "embedding has no coordinate 99"),
        ("opt", scale(mlp_out(1), 0.0, coordinates=[40]), "mlp_out:1 has no coordinate 40"),
    ],
)
def test_places_that_cannot_be_edited(family: str, edit: Edit, said: str) -> None:
    with pytest.raises(SiteError, match=said):
        enter(family, edit)
    assert pico.shared(family).edits_in_force == 0


def test_neurons_are_counted_where_they_are_fewer_than_the_width() -> None:
    for family in ("llama", "gpt2", "opt", "phi3"):
        model = pico.build(family, intermediate_size=16, n_inner=16, ffn_dim=16)
        with (
            pytest.raises(SiteError, match="no coordinate 16; it has 0 to 15"),
            edited(model, [scale(neurons(0), 0.0, coordinates=[16])]),
        ):
            pass
        with edited(model, [scale(neurons(0), 0.0, coordinates=[15])]):
            assert capture(model, batch(), [neurons(0)])[neurons(0)][0, 0, 15] == 0


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (add(SITE, torch.ones(31)), "the edit at residual:1 brings 31 numbers for a state of 32"),
        (add(SITE, torch.ones(32), coordinates=[1, 2]), "brings 32 numbers for a state of 2"),
        (replace(SITE, torch.ones(3, 48)), "brings 48 numbers for a state of 32"),
        (project_out(SITE, torch.ones(2, 40)), "brings 40 numbers for a state of 32"),
        (replace(SITE, torch.ones(2, 32)), "values at residual:1 are given for 2 prompts, but the batch has prompt 2"),
        (replace(SITE, torch.ones(2, 4, 32)), "are given for 2 prompts, but the batch has prompt 2"),
        (
            scale(SITE, 0.0, positions=RowSpans(((0, 1),))),
            "positions are given for 1 prompts, but the batch has prompt 2",
        ),
        (scale(SITE, 0.0, positions=GENERATED), r"the edit at residual:1 chose no token: Generated\(\) lies outside"),
        (
            scale(SITE, 0.0, positions=Span(9, 12)),
            r"chose no token: Span\(start=9, stop=12\) lies outside what was run",
        ),
    ],
)
def test_edits_that_do_not_fit(edit: Edit, said: str) -> None:
    with pytest.raises(SiteError, match=said):
        enter("llama", edit)
    assert pico.shared("llama").edits_in_force == 0


def test_an_edit_that_never_ran_says_nothing() -> None:
    with edited(pico.shared("llama"), [scale(SITE, 0.0, positions=Span(9, 12))]):
        pass


def test_one_token_of_one_pass_is_enough() -> None:
    model = pico.shared("llama")
    with edited(model, [scale(SITE, 0.0, positions=Span(3, 4))]):
        capture(model, pad([[5, 6]]), [residual(2)])
        capture(model, batch(), [residual(2)])


@pytest.mark.parametrize("fails", [KeyError, KeyboardInterrupt, SystemExit])
def test_any_exception_takes_the_edits_off(fails: type[BaseException]) -> None:
    model, clean = pico.shared("llama"), state()

    def broken(_s: Tensor, _p: Tensor, _r: Tensor) -> Tensor:
        raise fails

    functions: list[Callable] = [broken, lambda s, _p, _r: s[..., :5]]
    for function in functions:
        with pytest.raises((fails, RuntimeError)), edited(model, [scale(SITE, 0.0), Edit(SITE, function)]):
            capture(model, batch(), [residual(2)])
    assert model.edits_in_force == 0
    assert torch.equal(state(), clean)
