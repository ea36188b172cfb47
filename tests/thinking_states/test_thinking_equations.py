"""Where states go, who sees whom, whose outputs are kept: each against a loop that says it in words."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shammie.thinking_states import equations as eq


@given(st.integers(1, 9), st.integers(1, 30), st.integers(0, 40), st.integers(1, 12))
def test_every_token_gets_its_own_chunks_vector_and_what_follows_the_last_state(chunk, length, start, positions):
    number, slot = eq.places(torch.tensor([length]), torch.tensor([start]), chunk, positions)
    count = -(-length // chunk)
    for i in range(positions):
        token = start + i
        if token < length:
            wanted = (token // chunk, token % chunk)
        elif token - length < chunk:
            wanted = (count, token - length)
        else:
            wanted = (-1, None)
        assert int(number[0, i]) == wanted[0]
        assert wanted[1] is None or int(slot[0, i]) == wanted[1]


def test_what_is_added_is_the_state_and_nothing_else():
    states = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([7, 9])
    number, slot = eq.places(lengths, torch.zeros(2, dtype=torch.long), 3, 14)
    found = eq.added(states, number, slot)
    assert torch.equal(found[0, 6], states[0, 2, 0])  # the only token of a partial chunk
    assert torch.equal(found[0, 7:10], states[0, 3])  # the state after the last chunk, on what follows the question
    assert torch.equal(found[1, 9:12], states[1, 3])
    assert not found[0, 10:].any()
    assert not found[1, 12:].any()


@given(st.integers(1, 6), st.integers(0, 5), st.integers(0, 10_000))
def test_a_thought_sees_its_chunk_and_itself_so_far_and_no_empty_slot(chunk, tokens, seed):
    filled = torch.arange(chunk) <= seed % chunk
    mask = eq.thinking_mask(filled[None], tokens)[0, 0]
    keys = [*filled.tolist(), *[True] * tokens]
    for one, row in enumerate(mask.tolist()):
        for other, sees in enumerate(row):
            assert sees == ((other <= one and keys[other]) or one == other)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 6))
def test_a_state_is_a_thoughts_own_whatever_it_is_batched_with(lengths, chunk):
    width = max(chunk, *lengths)
    states = torch.arange(len(lengths) * width, dtype=torch.float32).view(len(lengths), width, 1)
    found = eq.last_real(states, torch.tensor(lengths), chunk)
    for row, length in enumerate(lengths):
        first = max(0, length - chunk)
        assert torch.equal(found[row], states[row, first : first + chunk])


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4), st.data())
def test_the_first_chunk_with_a_thought(rows, data):
    counts = [data.draw(st.integers(0, 5)) for _ in rows]
    found = eq.first_thinking(torch.tensor(rows), torch.tensor(counts))
    for row, count, own in zip(rows, counts, found.tolist(), strict=True):
        assert own == next((n for n in range(count) if not row[n]), count)


def test_chunk_states_take_what_is_there_and_mask_the_rest():
    hidden = torch.arange(2 * 8, dtype=torch.float32).view(2, 8, 1)
    states, filled = eq.chunk_states(hidden, torch.tensor([0, 1]), torch.tensor([3, 6]), torch.tensor([3, 2]), 3)
    assert states[:, :, 0].tolist() == [[3, 4, 5], [14, 15, 15]]
    assert filled.tolist() == [[True, True, True], [True, True, False]]


@pytest.mark.parametrize("size", [0.0, 50.0])
def test_jumps_go_forward_only_and_none_are_made_without_a_size(size):
    mask = torch.ones(200, 30, dtype=torch.long)
    found = eq.jumped(mask, size, torch.Generator().manual_seed(3))
    steps = found.diff(dim=1)
    assert int(found[:, 0].min()) >= 0
    assert int(steps.min()) == 1
    plain = torch.arange(30).expand(200, -1)
    assert torch.equal(found, plain) == (size == 0)
    if size:
        jumped = (steps > 1).any(1).float().mean()
        assert 0.5 < float(jumped) < 0.85  # two jumps of which each happens half the time, some of them of no length
        assert int(found.max()) <= 30 + 2 * size
