"""Log-probabilities of given continuations, shared beginnings read once, no logits beyond the continuations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

import torch
from jaxtyping import Float
from torch import Tensor

from shammie.core.batch import Prompt, encode, plan_batches
from shammie.core.errors import DataError, NonFiniteError
from shammie.core.model import LanguageModel
from shammie.core.prefix import SharedPrefixes

CACHE_BUDGET = 512 * 2**20  # bytes of keys and values of one batch
LOGIT_BUDGET = 256 * 2**20  # bytes of one block of logits


@dataclass(frozen=True)
class Scored:
    """A continuation's log-probability, in total and token by token (natural logarithm)."""

    log_probability: float
    token_log_probabilities: tuple[float, ...]

    @property
    def per_token(self) -> float:
        """Mean log-probability of a token."""
        return self.log_probability / len(self.token_log_probabilities)


def score(model: LanguageModel, pairs: Sequence[tuple[Prompt, str]]) -> list[Scored]:
    """Log p(continuation | prompt) for each pair, under whatever edits are in force.

    Prompt and continuation are tokenized apart, so give the continuation its leading space: ("The capital of France is",
    " Paris").
    """
    prompts = [encode(model, prompt) for prompt, _ in pairs]
    continuations = [list(model.tokenizer(text, add_special_tokens=False)["input_ids"]) for _, text in pairs]
    for index, ids in enumerate(continuations):
        if not ids:
            raise DataError(f"continuation {index} ({pairs[index][1]!r}) has no tokens to score")
    return score_tokens(model, list(zip(prompts, continuations, strict=True)))


def score_tokens(model: LanguageModel, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Scored]:
    """As `score`, for token ids. Equal prompts count as different rows for edits that depend on the row."""
    if not pairs:
        return []
    for index, (prompt, continuation) in enumerate(pairs):
        if min(len(prompt), len(continuation)) == 0:
            raise DataError(f"pair {index} has a prompt or continuation without tokens; give each at least one")
    # The last token of a continuation predicts nothing that is asked for, so it is never read.
    sequences = [[*prompt, *continuation[:-1]] for prompt, continuation in pairs]
    own = [len(continuation) for _, continuation in pairs]
    prefixes = SharedPrefixes(model, sequences, list(range(len(pairs))), own)
    per_row = CACHE_BUDGET // (_cache_bytes_per_token(model) * max(map(len, sequences)))
    results: dict[int, Scored] = {}
    for members in plan_batches(prefixes.remaining(), tokens=8192, rows=max(1, per_row)):
        states, mask, _ = prefixes.read(members)
        last = mask.sum(-1)
        wanted = torch.cat([states[b, int(last[b]) - own[i] : int(last[b])] for b, i in enumerate(members)])
        targets = torch.tensor([token for i in members for token in pairs[i][1]], device=states.device)
        log_probs = target_log_probs(model, wanted, targets).tolist()
        for i in members:
            tokens, log_probs = tuple(log_probs[: own[i]]), log_probs[own[i] :]
            results[i] = Scored(sum(tokens), tokens)
            if isnan(results[i].log_probability):
                raise NonFiniteError(
                    f"the score of pair {i} is not a number: its states or logits hold NaN or infinity"
                )
    return [results[i] for i in range(len(pairs))]


def choose(model: LanguageModel, prompt: Prompt, choices: Sequence[str]) -> tuple[int, list[Scored]]:
    """The likeliest of several answers by total log-probability, and the score of each."""
    scored = score(model, [(prompt, choice) for choice in choices])
    best = max(range(len(choices)), key=lambda i: scored[i].log_probability)
    return best, scored


def target_log_probs(
    model: LanguageModel, normed: Float[Tensor, "N D"], targets: Tensor, *, budget: int = LOGIT_BUDGET
) -> Float[Tensor, " N"]:
    """Log p(target) of each final-normed state, in float32, a block of logits at a time."""
    rows = max(1, budget // (8 * model.anatomy.vocabulary_size))
    parts = []
    with torch.no_grad():
        for states, ids in zip(normed.split(rows), targets.split(rows), strict=True):
            logits = model.anatomy.unembed(states).float()
            parts.append(logits.gather(-1, ids[:, None])[:, 0] - logits.logsumexp(-1))
    return torch.cat(parts)


def _cache_bytes_per_token(model: LanguageModel) -> int:
    config = model.anatomy.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * len(model.anatomy.layers) * heads * width * model.dtype.itemsize)
