"""Capture beyond what tests/parity holds for every family: refusals, packing, row numbers and what is not computed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pico
from shammie.core.batch import Batch, make_batch, pad
from shammie.core.capture import capture
from shammie.core.edit import add, edited
from shammie.core.errors import DataError, SiteError
from shammie.core.position import ALL, GENERATED, LAST, Mask, RowSpans, Span
from shammie.core.site import Site, embedding, expert_neurons, mlp_in, neurons, residual, residual_in, router


def batch() -> Batch:
    return pad([[5, 6, 7, 8, 9], [10, 11]], row=[4, 1])


@settings(max_examples=30)
@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=5, max_size=5))
def test_packing_is_the_chosen_tokens_in_row_order(table: list[list[bool]]) -> None:
    model, mask = pico.shared("llama"), Mask(torch.tensor(table))
    kept = [(row, p) for row, n in ((4, 5), (1, 2)) for p in range(n) if table[row][p]]
    if {row for row, _ in kept} != {4, 1}:
        with pytest.raises(SiteError, match="chooses no token of prompt"):
            capture(model, batch(), [residual(0)], positions=mask)
        return
    packed = capture(model, batch(), [residual(0)], positions=mask)
    assert list(zip(packed.row.tolist(), packed.position.tolist(), strict=True)) == kept
    whole = capture(model, batch(), [residual(0)])
    slot = {4: 0, 1: 1}
    assert torch.equal(packed[residual(0)], torch.stack([whole[residual(0)][slot[r], p] for r, p in kept]))


def test_the_grid_says_where_it_is() -> None:
    whole = capture(pico.shared("gpt2"), batch(), [embedding()])
    assert whole.row.tolist() == [[4] * 5, [1] * 5]
    assert whole.position[0].tolist() == [0, 1, 2, 3, 4]
    assert whole.logits is None
    assert whole[embedding()].shape == (2, 5, 32)


def test_repeated_sites_are_one() -> None:
    model = pico.shared("llama")
    seen = capture(model, batch(), [residual(0), residual(0), residual_in(1)])
    assert list(seen.states) == [residual(0), residual_in(1)]
    assert torch.equal(seen[residual(0)], seen[residual_in(1)])


def test_sites_in_any_order() -> None:
    model = pico.shared("mixtral")
    places = [residual(2), router(0), embedding(), expert_neurons(1, (3, 0)), mlp_in(1)]
    forward, backward = capture(model, batch(), places), capture(model, batch(), places[::-1])
    for site in places:
        assert torch.equal(forward[site], backward[site])
    flipped = capture(model, batch(), [expert_neurons(1, (0, 3))])[expert_neurons(1, (0, 3))]
    assert torch.equal(forward[expert_neurons(1, (3, 0))].flip(-2), flipped)


def test_logits_alone_and_packed() -> None:
    model = pico.shared("gemma2")
    whole = capture(model, batch(), [], logits=True).logits
    packed = capture(model, batch(), [], positions=LAST, logits=True).logits
    assert whole is not None
    assert packed is not None
    assert packed.shape == (2, 260)
    torch.testing.assert_close(packed, torch.stack([whole[0, 4], whole[1, 1]]), rtol=1e-5, atol=1e-5)
    assert float(whole.abs().max()) <= 3.0  # the soft cap


def test_a_site_sees_the_edits_before_it_and_at_it() -> None:
    model, one = pico.shared("llama"), torch.ones(32)
    clean = capture(model, batch(), [residual(0), residual(1), residual(2)])
    with edited(model, [add(residual(1), one, strength=3.0)]):
        seen = capture(model, batch(), [residual(0), residual(1), residual(2)])
        alone = capture(model, batch(), [residual(1)])
    assert torch.equal(seen[residual(0)], clean[residual(0)])
    real = batch().mask.bool()
    assert torch.equal(seen[residual(1)][real], clean[residual(1)][real] + 3)
    assert torch.equal(alone[residual(1)], seen[residual(1)])
    assert not torch.allclose(seen[residual(2)], clean[residual(2)], atol=0.1)


def test_hooks_of_the_user_see_what_they_would() -> None:
    """A hook that the user put on, and an exception of theirs in it, pass through."""
    model = pico.shared("llama")

    def broken(*_: object) -> None:
        raise KeyError("the user's own")

    handle = model.anatomy.layers[1].register_forward_hook(broken)
    capture(model, batch(), [residual(0)])
    with pytest.raises(KeyError, match="the user's own"):
        capture(model, batch(), [residual(2)])
    handle.remove()
    capture(model, batch(), [residual(2)])


@pytest.mark.parametrize(
    ("family", "site", "said"),
    [
        ("llama", residual(3), "layer 3 does not exist; this model has layers 0 to 2"),
        ("llama", Site.parse("residual:-1"), "layer -1 does not exist"),
        ("llama", neurons(17), "layer 17 does not exist"),
        ("llama", router(0), "site router:0 does not exist: layer 0 of this llama model is dense"),
        ("mixtral", neurons(1), "site neurons:1 does not exist in a sparse layer"),
        ("mixtral", expert_neurons(1, (4,)), "expert 4 does not exist; layer 1 has experts 0 to 3"),
        ("mixtral", expert_neurons(1, (0, -1)), "expert -1 does not exist"),
        ("qwen3_moe", router(1), "layer 1 of this qwen3_moe model is dense"),
    ],
)
def test_places_that_do_not_exist(family: str, site: Site, said: str) -> None:
    model = pico.shared(family)
    with pytest.raises(SiteError, match=said):
        capture(model, batch(), [embedding(), site])
    capture(model, batch(), [embedding()])  # nothing is left on the model


def test_nothing_to_capture() -> None:
    with pytest.raises(SiteError, match="nothing to capture: name at least one site"):
        capture(pico.shared("llama"), batch(), [])


@pytest.mark.parametrize(
    ("positions", "said"),
    [
        (Span(3, 4), r"Span\(start=3, stop=4\) chooses no token of prompt 1 \(2 tokens\)"),
        (GENERATED, r"Generated\(\) chooses no token of prompt 4 \(5 tokens\)"),
        (RowSpans(((0, 0),) * 5), "chooses no token of prompt 4"),
        (RowSpans(((0, 1),) * 4), "positions are given for 4 prompts, but the batch has prompt 4"),
        (Mask(torch.ones(2, 9, dtype=torch.bool)), "positions are given for 2 prompts, but the batch has prompt 4"),
        (Mask(torch.ones(9, 0, dtype=torch.bool)), "chooses no token of prompt 4"),
    ],
)
def test_positions_that_choose_nothing(positions: Span, said: str) -> None:
    with pytest.raises(SiteError, match=said):
        capture(pico.shared("llama"), batch(), [residual(0)], positions=positions)


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_more_tokens_than_learned_positions(family: str) -> None:
    model = pico.build(family, max_position_embeddings=6, n_positions=6)
    capture(model, pad([[5] * 6]), [residual(0)], positions=ALL)
    with pytest.raises(DataError, match=f"7 tokens are more than the 6 positions that this {family} model learned"):
        capture(model, pad([[5] * 7, [4]]), [residual(0)])


def test_texts_and_chats_in_one_batch() -> None:
    model = pico.shared("llama")
    texts = ["hello", [{"role": "user", "content": "hi"}]]
    seen = capture(model, make_batch(model, texts), [residual(1)], positions=LAST)
    for index, text in enumerate(texts):
        alone = capture(model, make_batch(model, [text]), [residual(1)], positions=LAST)
        torch.testing.assert_close(seen[residual(1)][index], alone[residual(1)][0], rtol=1e-4, atol=1e-5)
