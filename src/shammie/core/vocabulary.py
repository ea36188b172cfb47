"""From states and directions to tokens and back, without ever holding positions x vocabulary.

`lens` scores are what the logit lens means: final norm, unembedding, soft cap. `project` scores are raw dot products of a
direction with token vectors: no norm, no cap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from shammie.core.errors import ShammieError
from shammie.core.model import LanguageModel

BYTE_BUDGET = 256 * 2**20  # bytes of one block of logits
Matrix = Literal["input", "output"]


@dataclass(frozen=True)
class TopTokens:
    """The k best tokens of each state: ids and scores [N, k], best first."""

    ids: Int[Tensor, "N k"]
    scores: Float[Tensor, "N k"]

    def text(self, model: LanguageModel) -> list[list[str]]:
        """The tokens as text."""
        return [[token_text(model, int(token)) for token in row] for row in self.ids]


def token_text(model: LanguageModel, token: int) -> str:
    """One token as it reads in running text, with its leading space."""
    return str(model.tokenizer.decode([token]))


def single_token(model: LanguageModel, text: str) -> int:
    """The first token of a text that continues another: " Paris" rather than "Paris"."""
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise ShammieError(f"the text {text!r} has no tokens")
    return int(ids[0])


def lens_top(
    model: LanguageModel, states: Float[Tensor, "N D"], k: int = 10, *, budget: int = BYTE_BUDGET
) -> TopTokens:
    """Logit lens: the k likeliest tokens of each residual state, with log-probabilities."""

    def best(logits: Tensor) -> tuple[Tensor, Tensor]:
        scores, ids = logits.log_softmax(-1).topk(min(k, logits.shape[-1]), dim=-1)
        return ids, scores

    blocks = [best(logits) for logits in _lens_blocks(model, states, budget)]
    return TopTokens(torch.cat([ids for ids, _ in blocks]), torch.cat([scores for _, scores in blocks]))


def lens_log_probs(
    model: LanguageModel, states: Float[Tensor, "N D"], tokens: Int[Tensor, "N k"], *, budget: int = BYTE_BUDGET
) -> Float[Tensor, "N k"]:
    """Logit lens: log-probabilities of given tokens at each residual state."""
    return _gathered(model, states, tokens, budget, lambda logits, ids: logits.log_softmax(-1).gather(-1, ids))


def lens_ranks(
    model: LanguageModel, states: Float[Tensor, "N D"], tokens: Int[Tensor, "N k"], *, budget: int = BYTE_BUDGET
) -> Int[Tensor, "N k"]:
    """Logit lens: rank of given tokens at each residual state, 0 for the likeliest; ties count as not ahead."""

    def rank(logits: Tensor, ids: Tensor) -> Tensor:
        own = logits.gather(-1, ids)
        return torch.stack([(logits > own[:, j : j + 1]).sum(-1) for j in range(ids.shape[-1])], -1)

    return _gathered(model, states, tokens, budget, rank)


def _lens_blocks(model: LanguageModel, states: Tensor, budget: int) -> Iterator[Tensor]:
    """Float32 logits of as many states at a time as fit the budget (logits and their softmax)."""
    anatomy = model.anatomy
    rows = max(1, budget // (8 * anatomy.vocabulary_size))
    with torch.no_grad():
        for block in states.split(rows):
            yield anatomy.unembed(anatomy.normed(block.to(model.device, model.dtype))).float()


def _gathered(
    model: LanguageModel, states: Tensor, tokens: Tensor, budget: int, read: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    if len(tokens) != len(states):
        raise ShammieError(f"{len(states)} states but tokens for {len(tokens)}; give each state its own")
    parts, start = [], 0
    for logits in _lens_blocks(model, states, budget):
        stop = start + len(logits)
        parts.append(read(logits, tokens[start:stop].to(logits.device)))
        start = stop
    return torch.cat(parts)


def token_vectors(
    model: LanguageModel, tokens: Sequence[int] | Int[Tensor, " n"], matrix: Matrix = "output"
) -> Float[Tensor, "n D"]:
    """Stored embedding (`input`) or unembedding (`output`) rows in float32; equal while the model is tied."""
    return _matrix(model, matrix)[torch.as_tensor(tokens)].float()


def project_top(
    model: LanguageModel,
    directions: Float[Tensor, "N D"],
    k: int = 10,
    *,
    matrix: Matrix = "output",
    fold_norm: bool = False,
) -> TopTokens:
    """The k tokens with the largest raw dot product with each direction; streamed over the vocabulary.

    `fold_norm` multiplies directions by the final norm's weight first, as an unembedded state would see it.
    """
    weights = _matrix(model, matrix)
    probes = directions.to(weights.device, torch.float32)
    if fold_norm:
        probes = probes * norm_weight(model)
    rows = max(1, BYTE_BUDGET // (4 * (len(probes) + probes.shape[-1])))
    best_scores = probes.new_full((len(probes), 0), 0.0)
    best_ids = torch.zeros((len(probes), 0), dtype=torch.long, device=probes.device)
    for start in range(0, len(weights), rows):
        scores = probes @ weights[start : start + rows].float().T
        ids = torch.arange(start, start + scores.shape[1], device=probes.device).expand_as(scores)
        best_scores, order = torch.cat([best_scores, scores], -1).topk(min(k, best_scores.shape[1] + scores.shape[1]))
        best_ids = torch.cat([best_ids, ids], -1).gather(-1, order)
    return TopTokens(best_ids, best_scores)


def norm_weight(model: LanguageModel, norm: nn.Module | None = None) -> Float[Tensor, " D"]:
    """A norm's effective scale in float32, the final one's unless named: 1 + w for the Gemma families, w elsewhere."""
    weight = (norm or model.anatomy.final_norm).get_parameter("weight").detach().float()
    return 1.0 + weight if model.anatomy.model_type.startswith("gemma") else weight


def _matrix(model: LanguageModel, matrix: Matrix) -> Tensor:
    anatomy = model.anatomy
    return (anatomy.embedding_weights if matrix == "input" else anatomy.unembedding_weights).view(model.module)
