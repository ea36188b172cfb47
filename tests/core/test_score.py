"""Scores against one plain forward pass for each pair."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pico
from shammie.core import score as module
from shammie.core.batch import encode
from shammie.core.edit import add, edited
from shammie.core.errors import DataError, NonFiniteError
from shammie.core.model import LanguageModel
from shammie.core.position import LAST, RowSpans, rows_of
from shammie.core.score import choose, score, score_tokens, target_log_probs
from shammie.core.site import residual

TOKENS = st.lists(st.integers(4, 7), min_size=1, max_size=14)


def naive(model: LanguageModel, prompt: list[int], continuation: list[int], row: int = 0) -> list[float]:
    ids = torch.tensor([prompt + continuation])
    with torch.no_grad(), rows_of(torch.tensor([row]), torch.tensor([len(prompt)])):
        table = model.module(ids, use_cache=False).logits[0].double().log_softmax(-1)
    return [float(table[len(prompt) - 1 + i, token]) for i, token in enumerate(continuation)]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mistral", "gpt_oss"])
@settings(max_examples=15)
@given(pairs=st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=6), shared=st.integers(0, 30))
def test_scores_are_the_naive_ones(family: str, pairs: list[tuple[list[int], list[int]]], shared: int) -> None:
    """Ragged pairs of few tokens, so that beginnings coincide, also past the prompt; a shared beginning of any length."""
    model, beginning = pico.shared(family), [9, 8] * (shared // 2)
    given_pairs = [(beginning + prompt, continuation) for prompt, continuation in pairs]
    for (prompt, continuation), scored in zip(given_pairs, score_tokens(model, given_pairs), strict=True):
        assert scored.token_log_probabilities == pytest.approx(naive(model, prompt, continuation), abs=1e-4)
        assert scored.log_probability == pytest.approx(sum(scored.token_log_probabilities))
        assert scored.per_token == pytest.approx(scored.log_probability / len(continuation))


@pytest.mark.parametrize("family", pico.FAMILIES)
def test_texts_chats_and_budgets(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = pico.shared(family)
    chat = [{"role": "user", "content": "The capital of France?"}]
    pairs = [("The capital of France is", " Paris"), ("The capital of Peru is", " Lima"), (chat, "Paris"), ("A", "b")]
    whole = score(model, pairs)
    for (prompt, text), scored in zip(pairs, whole, strict=True):
        tokens = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert scored.token_log_probabilities == pytest.approx(naive(model, encode(model, prompt), tokens), abs=1e-4)
    monkeypatch.setattr(module, "CACHE_BUDGET", 1)
    for one, other in zip(score(model, pairs), whole, strict=True):
        assert one.token_log_probabilities == pytest.approx(other.token_log_probabilities, abs=1e-4)


def test_edits_act_by_pair() -> None:
    """Row i of an edit is pair i, even of equal prompts, and positions are those of the prompt."""
    model, table = pico.shared("llama"), torch.randn(3, 32)
    prompt, pairs = [5, 6, 7] * 12, [([5, 6, 7] * 12, [4, 5]) for _ in range(3)]

    def by_row(state: torch.Tensor, _p: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        return state + table[row][:, None]

    edit = add(residual(1), torch.zeros(32), positions=LAST)
    edit = type(edit)(edit.site, by_row, edit.positions)
    with edited(model, [edit]):
        scored = score_tokens(model, pairs)
        for row, one in enumerate(scored):
            assert one.token_log_probabilities == pytest.approx(naive(model, prompt, [4, 5], row), abs=1e-4)
    assert len({one.log_probability for one in scored}) == 3


def test_choosing() -> None:
    model = pico.shared("llama")
    best, scored = choose(model, "The sky is", [" blue", " green", " a"])
    assert best == max(range(3), key=lambda i: scored[i].log_probability)
    assert [s.log_probability for s in scored] == [
        s.log_probability for s in score(model, [("The sky is", c) for c in (" blue", " green", " a")])
    ]


@given(st.sampled_from([1, 8 * 260, 8 * 260 * 2 + 5, 2**28]))
def test_blocks_of_targets(budget: int) -> None:
    model = pico.shared("gemma2")
    states, targets = torch.randn(7, 32), torch.tensor([3, 0, 259, 4, 4, 9, 17])
    with torch.no_grad():
        logits = 3 * torch.tanh((states.double() @ model.anatomy.unembedding.weight.double().T) / 3)
    wanted = logits.log_softmax(-1)[torch.arange(7), targets]
    torch.testing.assert_close(
        target_log_probs(model, states, targets, budget=budget).double(), wanted, rtol=1e-5, atol=1e-5
    )


def test_no_pairs() -> None:
    assert score(pico.shared("llama"), []) == []


def test_refusals() -> None:
    model = pico.shared("llama")
    with pytest.raises(DataError, match=r"continuation 1 .''. has no tokens to score"):
        score(model, [("a", "b"), ("a", "")])
    with pytest.raises(DataError, match="the text '' has no tokens"):
        score(model, [("", "b")])
    with pytest.raises(DataError, match="pair 1 has a prompt or continuation without tokens"):
        score_tokens(model, [([4], [5]), ([4], [])])
    with pytest.raises(DataError, match="pair 0 has a prompt or continuation without tokens"):
        score_tokens(model, [([], [5])])


def test_a_prompt_longer_than_learned_positions() -> None:
    model = pico.build("gpt2", max_position_embeddings=8, n_positions=8)
    score_tokens(model, [([5] * 6, [4, 5, 6])])  # the last token is never read
    with pytest.raises(DataError, match="9 tokens are more than the 8 positions"):
        score_tokens(model, [([5] * 7, [4, 5, 6])])


def test_scores_that_are_not_numbers() -> None:
    model = pico.shared("llama")
    broken = add(residual(1), torch.full((32,), float("nan")), positions=RowSpans(((0, 0), (0, 9))))
    with pytest.raises(NonFiniteError, match="the score of pair 1 is not a number"), edited(model, [broken]):
        score_tokens(model, [([5, 6], [4]), ([5, 7], [4])])
