"""The slice of the vocabulary that a pack's sentences use: token ids, never strings, with how often each side has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from shammie.core.errors import DataError
from shammie.core.model import LanguageModel
from shammie.ember import equations as eq


@dataclass(frozen=True, eq=False)
class TokenSlice:
    """Distinct token ids of both kinds of sentences, ascending, special tokens left out, with their counts."""

    ids: Int[Tensor, " V"]
    ours: Float[Tensor, " V"]
    theirs: Float[Tensor, " V"]

    @property
    def concept_only(self) -> Bool[Tensor, " V"]:
        """Tokens that only concept sentences have."""
        return (self.ours > 0) & (self.theirs == 0)

    @property
    def neutral_only(self) -> Bool[Tensor, " V"]:
        """Tokens that only neutral sentences have."""
        return (self.ours == 0) & (self.theirs > 0)

    @cached_property
    def keyness(self) -> Float[Tensor, " V"]:
        """Signed G^2 of each token, positive on the concept's side."""
        return eq.keyness(self.ours, self.theirs, float(self.ours.sum()), float(self.theirs.sum()))


def token_slice(model: LanguageModel, concept: Sequence[str], neutral: Sequence[str]) -> TokenSlice:
    """Count the tokens of both kinds of sentences. Errors: DataError where one side, or what is its own, is empty."""
    ours, theirs = (_count(model, sentences) for sentences in (concept, neutral))
    for name, counts in (("concept", ours), ("neutral", theirs)):
        if not counts:
            raise DataError(
                f"the {name} sentences have no token that {model.name} knows; write them in a language it was trained on"
            )
    ids = sorted(ours.keys() | theirs.keys())
    columns = [torch.tensor([float(side[i]) for i in ids]) for side in (ours, theirs)]
    found = TokenSlice(torch.tensor(ids), *columns)
    if not found.concept_only.any():
        raise DataError(
            "no token occurs in the concept sentences alone; give sentences with words of the concept's own"
        )
    if not found.neutral_only.any():
        raise DataError("no token occurs in the neutral sentences alone; give neutral sentences about other things")
    return found


def _count(model: LanguageModel, sentences: Sequence[str]) -> Counter[int]:
    special = set(model.tokenizer.all_special_ids)
    texts = model.tokenizer(list(sentences), add_special_tokens=False)["input_ids"] if sentences else []
    return Counter(token for ids in texts for token in ids if token not in special)


def embedding_scale(model: LanguageModel) -> float:
    """What the embedding module multiplies stored rows by (sqrt(D) in the Gemma families, else 1)."""
    return float(getattr(model.anatomy.embedding, "scalar_embed_scale", 1.0))
