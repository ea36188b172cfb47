"""Encoding, padding and planning of batches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pico
from shammie.core.batch import encode, make_batch, pad, plan_batches
from shammie.core.errors import DataError, ShammieError
from shammie.core.model import LanguageModel

IDS = st.lists(st.lists(st.integers(1, 259), min_size=1, max_size=9), min_size=1, max_size=6)


@given(st.lists(st.integers(0, 40), max_size=40), st.integers(1, 120), st.integers(1, 9))
def test_plans_take_each_index_once_within_budgets(lengths: list[int], tokens: int, rows: int) -> None:
    plan = list(plan_batches(lengths, tokens=tokens, rows=rows))
    assert sorted(index for members in plan for index in members) == list(range(len(lengths)))
    order = [lengths[index] for members in plan for index in members]
    assert order == sorted(lengths, reverse=True)
    for members in plan:
        assert 1 <= len(members) <= rows
        assert len(members) == 1 or len(members) * max(lengths[index] for index in members) <= tokens
    assert plan == list(plan_batches(list(lengths), tokens=tokens, rows=rows))


@given(st.lists(st.integers(1, 40), min_size=2, max_size=40), st.integers(1, 120), st.integers(1, 9))
def test_plans_waste_no_room(lengths: list[int], tokens: int, rows: int) -> None:
    """A batch is closed only because the next sequence would not have fitted."""
    plan = list(plan_batches(lengths, tokens=tokens, rows=rows))
    for members in plan[:-1]:
        assert len(members) == rows or (len(members) + 1) * lengths[members[0]] > tokens


@given(IDS)
def test_padding(sequences: list[list[int]]) -> None:
    batch = pad(sequences)
    assert batch.lengths.tolist() == [len(ids) for ids in sequences]
    for row, ids in enumerate(sequences):
        n = len(ids)
        assert batch.ids[row, :n].tolist() == ids
        assert batch.ids[row, n:].eq(0).all()
        assert batch.mask[row].tolist() == [1] * n + [0] * (batch.ids.shape[1] - n)
        assert batch.inputs()["position_ids"][row, :n].tolist() == list(range(n))
    assert batch.row.tolist() == list(range(len(sequences)))
    assert set(batch.inputs()) == {"input_ids", "attention_mask", "position_ids"}


def test_rows_are_the_callers() -> None:
    batch = pad([[4], [5, 6]], row=[9, 2])
    assert batch.frame.row.tolist() == batch.row.tolist() == [9, 2]


@pytest.mark.parametrize("sequences", [[], [[]], [[4, 5], []]])
def test_empty_batches_are_refused(sequences: list[list[int]]) -> None:
    with pytest.raises(DataError, match="a batch needs at least one prompt, and every prompt at least one token"):
        pad(sequences)


def bare(**changes: object) -> LanguageModel:
    """The shared model with a tokenizer of its own."""
    import copy

    model = pico.shared("llama")
    tokenizer = copy.deepcopy(model.tokenizer)
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    return LanguageModel(model.module, tokenizer, "tiny")


def test_encoding() -> None:
    model = pico.shared("llama")
    tokens = model.tokenizer("naïve ☕")["input_ids"]
    assert encode(model, "naïve ☕") == tokens
    assert len(tokens) == len("naïve ☕".encode())
    assert encode(model, "naïve", prefill=" ☕") == tokens
    chat = [{"role": "user", "content": "hi"}]
    assert model.tokenizer.decode(encode(model, chat, prefill="So")) == "<user>hi\n<assistant>So"
    batch = make_batch(model, ["hi", chat], prefill="!")
    assert batch.ids[0, :3].tolist() == encode(model, "hi!")
    assert batch.lengths.tolist() == [3, len("<user>hi\n<assistant>!")]


def test_what_the_tokenizer_adds_first() -> None:
    """A BOS that the tokenizer adds comes once: not in a chat, and not where it is not wanted."""
    from tokenizers.processors import TemplateProcessing

    model = bare(chat_template="<bos>{{ messages[0]['content'] }}")
    model.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 1)]
    )
    plain = encode(model, "ab", special=False)
    assert encode(model, "ab") == [1, *plain]
    assert encode(model, [{"role": "user", "content": "ab"}]) == [1, *plain]
    assert encode(model, "") == [1]


def test_refusals() -> None:
    with pytest.raises(DataError, match="the text '' has no tokens"):
        encode(pico.shared("llama"), "")
    with pytest.raises(DataError, match="the text '' has no tokens"):
        make_batch(pico.shared("llama"), ["a", ""])
    with pytest.raises(ShammieError, match="tiny has no chat template; pass the prompt as plain text"):
        encode(bare(chat_template=None), [{"role": "user", "content": "hi"}])
    refusing = bare(chat_template="{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ShammieError, match="the chat template of tiny refuses this conversation: roles must alternate"):
        encode(refusing, [{"role": "user", "content": "hi"}])


def test_batches_go_to_the_models_device() -> None:
    batch = make_batch(pico.shared("llama"), ["a", "bc"])
    assert {tensor.device for tensor in (batch.ids, batch.mask, batch.row)} == {torch.device("cpu")}
    assert torch.equal(batch.mask, torch.tensor([[1, 0], [1, 1]]))


def test_token_ids_are_taken_as_they_are() -> None:
    model = pico.shared("llama")
    assert encode(model, [5, 6, 7]) == [5, 6, 7]
    assert encode(model, (5, 6), prefill="a") == [5, 6, *model.tokenizer("a", add_special_tokens=False)["input_ids"]]
    with pytest.raises(DataError, match="no tokens"):
        encode(model, [])
