"""The vocabulary as a cloud of vectors: what a neuron's weights are projected on, and how much each token counts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from shammie.core.errors import NonFiniteError
from shammie.core.model import LanguageModel
from shammie.core.vocabulary import Matrix, norm_weight
from shammie.rotate.fast import Spectrum

BLOCK = 16_384  # tokens at a time
OUTLIER_WEIGHT, OUTLIER_QUANTILE = 1e-4, 0.99  # the paper's, for tokens of outlying norm
EARLY = 0.4  # share of the layers that read better with the input embedding where the two matrices differ
_RESERVED = re.compile(r"<\W*(?:unused|reserved|extra|dummy|pad)\w*\W*\d*\W*>", re.IGNORECASE)
_LEAST_UNTRAINED, _SAME_DIRECTION = 3, 0.7


@dataclass(frozen=True, eq=False)
class TokenSpace:
    """Token vectors [V, D] in float32, and the weight of each token in every neuron's projection [V]."""

    tokens: Float[Tensor, "V D"]
    weights: Float[Tensor, " V"]

    @cached_property
    def mean(self) -> Float[Tensor, " D"]:
        """The mean token vector: what all tokens share says nothing about one."""
        return self.tokens.mean(0)

    @cached_property
    def norms(self) -> Float[Tensor, " V"]:
        """Norms of the centred token vectors."""
        return torch.cat([(rows - self.mean).norm(dim=-1) for rows in self.tokens.split(BLOCK)]).clamp(min=1e-12)

    @cached_property
    def ordinary(self) -> Bool[Tensor, " V"]:
        """Tokens of full weight."""
        return self.weights == 1

    @cached_property
    def spectrum(self) -> Spectrum:
        """What the fast solver's preconditioner is made of."""
        return Spectrum.of(self.tokens, self.weights)

    def blocks(self) -> Iterator[tuple[slice, Float[Tensor, "b D"]]]:
        """Centred token vectors, a block at a time."""
        for start in range(0, len(self.tokens), BLOCK):
            part = slice(start, start + BLOCK)
            yield part, self.tokens[part] - self.mean

    def centred(self, v: Float[Tensor, "B D"]) -> Float[Tensor, "B V"]:
        """Dot products with the centred token vectors."""
        return (v @ self.tokens.T).sub_((v @ self.mean)[:, None])

    def cosines(self, v: Float[Tensor, "B D"]) -> Float[Tensor, "B V"]:
        """Cosines to the centred token vectors, times the norm of v; 0 for tokens that are not ordinary."""
        return self.centred(v).div_(self.norms).mul_(self.ordinary)

    def nearest(self, v: Float[Tensor, "B D"], k: int) -> Int[Tensor, "B k"]:
        """The k ordinary tokens with the largest cosine to each direction."""
        return self.cosines(v).topk(k, dim=-1).indices

    def centroid(self, ids: Int[Tensor, "*B k"]) -> Float[Tensor, "*B D"]:
        """Unit direction of the mean of centred token vectors."""
        return normalize(self.tokens[ids].mean(-2) - self.mean, dim=-1)


def token_space(model: LanguageModel, matrix: Matrix, *, fold_norm: bool = False) -> TokenSpace:
    """Read the embedding (`input`) or unembedding (`output`) matrix.

    `fold_norm` multiplies unembedding vectors by the final norm's scale, as the stream meets them. The paper's released
    code does not fold. Errors: NonFiniteError for NaN or infinity in the matrix.
    """
    anatomy = model.anatomy
    stored = anatomy.embedding_weights if matrix == "input" else anatomy.unembedding_weights
    tokens = stored.view(model.module).float()
    if not bool(tokens.isfinite().all()):
        raise NonFiniteError(f"{stored.parameter} of {model.name} holds NaN or infinity; load other weights")
    if fold_norm and matrix == "output":
        tokens = tokens * norm_weight(model)
    return TokenSpace(tokens, token_weights(tokens, _never_trained(model, len(tokens))))


def choose_matrix(model: LanguageModel, layer: int, wanted: Literal["auto", "input", "output"]) -> Matrix:
    """The matrix that a layer is read with: `auto` takes the input embedding in early layers of untied models."""
    if wanted != "auto":
        return wanted
    early = layer < EARLY * len(model.anatomy.layers)
    return "input" if early and not model.anatomy.tied else "output"


def token_weights(tokens: Float[Tensor, "V D"], never_trained: Bool[Tensor, " V"]) -> Float[Tensor, " V"]:
    """1 for ordinary tokens, 0 for those never trained and those that look like them, 1e-4 for outlying norms.

    A row that training never used as a target keeps the direction that softmax pushes all unused rows in. So tokens
    whose centred vector has at least half the cosine to the unused rows' common direction that those have themselves
    are glitch tokens of this very model (after Land and Bartolo 2024); where the unused rows share no direction, only
    they are dropped.
    """
    weights = torch.ones(len(tokens), device=tokens.device)
    norms = tokens.norm(dim=-1)
    rank = max(1, math.ceil(OUTLIER_QUANTILE * len(norms)))
    weights[norms > norms.kthvalue(rank).values] = OUTLIER_WEIGHT
    weights[never_trained] = 0
    if int(never_trained.sum()) >= _LEAST_UNTRAINED:
        mean = tokens.mean(0)
        common = normalize(normalize(tokens[never_trained] - mean, dim=-1).mean(0), dim=0)
        parts = tokens.split(BLOCK)
        cosine = torch.cat([normalize(rows - mean, dim=-1) @ common for rows in parts])
        typical = float(cosine[never_trained].median())
        if typical > _SAME_DIRECTION:
            weights[cosine >= typical / 2] = 0
    return weights


def _never_trained(model: LanguageModel, count: int) -> Bool[Tensor, " V"]:
    """Ids that no text gives rise to: beyond the tokenizer, special, added, or named as reserved."""
    tokenizer = model.tokenizer
    named = tokenizer.get_vocab()
    ids = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values(), *range(len(tokenizer), count)}
    ids |= {index for text, index in named.items() if _RESERVED.fullmatch(text)}
    flags = torch.zeros(count, dtype=torch.bool, device=model.device)
    flags[torch.tensor(sorted(index for index in ids if index < count), dtype=torch.long)] = True
    return flags
