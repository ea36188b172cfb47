"""EMBER itself: pooled factorizations of the embedding slice, their concept features, and the patch that removes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from shammie.core.artifact import Pretrained, check_model
from shammie.core.errors import DataError, NonFiniteError
from shammie.core.judge import Judge
from shammie.core.model import LanguageModel
from shammie.core.patch import Tied, WeightPatch, rows
from shammie.core.vocabulary import token_text, token_vectors
from shammie.ember import equations as eq
from shammie.ember.factorization import Factorization, factorize
from shammie.ember.features import judged, score_features
from shammie.ember.pack import ConceptPack
from shammie.ember.settings import EmberSettings
from shammie.ember.vocabulary import TokenSlice, embedding_scale, token_slice

_SHOWN = 20  # tokens by which a judge and a reader know a feature


@dataclass(frozen=True, eq=False)
class ConceptDirections(Pretrained):
    """What EMBER found: for each token to edit, the component c_i to take out, in the model's scale (as it reads rows).

    Attributes:
        tokens: ids, ascending.
        components: c_i, the mean over the pooled factorizations.
        votes: share of the factorizations that edit the token.
        scale: what the model multiplies stored rows by.
        agreement: mean Jaccard overlap of the edited tokens of two factorizations; None for a single one.
        features: of each factorization, the features that passed: its strongest tokens, ratio and p-values.
    """

    kind: ClassVar[str] = "ember_directions"
    tokens: Int[Tensor, " T"]
    components: Float[Tensor, "T D"]
    votes: Float[Tensor, " T"]
    scale: float
    agreement: float | None
    explained: float
    features: list[dict[str, Any]]
    provenance: dict[str, Any]

    def patch(self, model: LanguageModel, delta: float, *, tied: Tied = "input") -> WeightPatch:
        """e_i <- e_i - delta c_i on the stored rows; `tied` says whether a tied output matrix changes too."""
        check_model(self.provenance, model.hash, model.name)
        values = -delta * self.components / self.scale
        if not values.isfinite().all():
            raise NonFiniteError(f"a delta of {delta} makes the embeddings infinite or NaN; choose a smaller one")
        target = model.anatomy.embedding_weights
        decided = tied if model.anatomy.tied else None
        return WeightPatch.make(
            model, [rows(target, self.tokens, values)], tied=decided, method="ember", delta=delta,
            embedding_scale=self.scale, concept=self.provenance.get("concept"),
        )  # fmt: skip


def find_directions(
    model: LanguageModel, pack: ConceptPack, settings: EmberSettings, seed: int = 0, judge: Judge | None = None
) -> ConceptDirections:
    """Factorize the slice under several seeds, pick each one's concept features, and pool what they would take out.

    Errors: DataError where no feature passes or no token is left to edit.
    """
    vocabulary = token_slice(model, pack.concept_sentences, pack.neutral_sentences)
    scale = embedding_scale(model)
    vectors = token_vectors(model, vocabulary.ids, "input").cpu() * scale
    found = [
        _concept_of(model, pack, vectors, vocabulary, settings, seed * settings.factorizations + number, judge)
        for number in range(settings.factorizations)
    ]
    if not any(part.features for part in found):
        raise DataError(
            f"no feature of the embeddings passes as {pack.concept!r} ({', '.join(settings.select.criteria)}); "
            "give more concept sentences or fewer criteria"
        )
    votes = torch.stack([part.edits for part in found]).float().mean(0)
    chosen = (votes >= settings.votes) & (vocabulary.keyness >= settings.least_keyness)
    if not chosen.any():
        raise DataError(
            f"no token of {pack.concept!r} is edited by {settings.votes:.0%} of the factorizations; "
            "lower votes or least_keyness, or add sentences"
        )
    components = torch.stack([part.component for part in found]).mean(0)[chosen]
    provenance = {
        "model": model.name,
        "model_hash": model.hash,
        "concept": pack.concept,
        "pack": pack.sha256,
        "seed": seed,
    }
    return ConceptDirections(
        vocabulary.ids[chosen], components, votes[chosen], scale, _agreement([part.edits for part in found]),
        sum(part.explained for part in found) / len(found), [line for part in found for line in part.features], provenance,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Part:
    """What one factorization says: which tokens it edits, and what it takes out of each token of the slice."""

    edits: Bool[Tensor, " V"]
    component: Float[Tensor, "V D"]
    explained: float
    features: list[dict[str, Any]]


def _concept_of(
    model: LanguageModel, pack: ConceptPack, vectors: Float[Tensor, "V D"], vocabulary: TokenSlice,
    settings: EmberSettings, seed: int, judge: Judge | None,
) -> _Part:  # fmt: skip
    cut = factorize(vectors, settings.factorization, seed)
    g = cut.loadings
    scores = score_features(g, vocabulary, settings.select, seed)
    words = [[token_text(model, int(i)) for i in vocabulary.ids[_strongest(cut, k)]] for k in range(len(cut.features))]
    passed = scores.passed
    if judge is not None and passed.any():
        asked = passed.nonzero()[:, 0]
        passed = passed.clone()
        passed[asked] = judged(judge, pack.concept, [words[int(k)] for k in asked])
    component = torch.zeros_like(vectors)
    edits = vocabulary.concept_only & (g[:, passed] != 0).any(1)
    component[edits] = eq.concept_component(g[edits][:, passed], cut.features[passed])
    lines = [
        {
            "factorization": seed, "feature": int(k), "tokens": words[int(k)], "ratio": float(scores.ratio[k]),
            "test_p": float(scores.test_p[k]), "keyness_p": float(scores.keyness_p[k]), "concept_tokens": int(scores.tokens[k]),
        }
        for k in passed.nonzero()[:, 0]
    ]  # fmt: skip
    return _Part(edits, component, cut.explained, lines)


def _strongest(cut: Factorization, feature: int) -> Int[Tensor, " n"]:
    order = cut.value[feature].abs().argsort(descending=True)[:_SHOWN]
    return cut.index[feature][order]


def _agreement(edits: list[Bool[Tensor, " V"]]) -> float | None:
    """Mean Jaccard overlap over pairs; two that edit nothing agree."""
    pairs = [(a, b) for i, a in enumerate(edits) for b in edits[:i]]
    overlaps = [float((a & b).sum() / (a | b).sum()) if (a | b).any() else 1.0 for a, b in pairs]
    return sum(overlaps) / len(overlaps) if overlaps else None


def random_directions(
    model: LanguageModel, pack: ConceptPack, settings: EmberSettings, like: ConceptDirections, seed: int = 0
) -> ConceptDirections:
    """The control: as many tokens and components of the same sizes, but from features drawn at random.

    A token is drawn from those of the random features, whatever sentences it comes from; the sizes of `like` are dealt
    out so that the longest component stays the longest.
    """
    vocabulary = token_slice(model, pack.concept_sentences, pack.neutral_sentences)
    vectors = token_vectors(model, vocabulary.ids, "input").cpu() * like.scale
    cut = factorize(vectors, settings.factorization, seed)
    generator = torch.Generator().manual_seed(seed)
    order, g = torch.randperm(len(cut.features), generator=generator), cut.loadings
    count = 1
    while count < len(order) and int((g[:, order[:count]] != 0).any(1).sum()) < len(like.tokens):
        count += 1
    chosen = order[:count]
    active = (g[:, chosen] != 0).any(1).nonzero()[:, 0]
    active = active[torch.randperm(len(active), generator=generator)[: len(like.tokens)]].sort().values
    component = eq.concept_component(g[active][:, chosen], cut.features[chosen])
    sizes = like.components.norm(dim=1).sort().values[-len(active) :]
    ranks = component.norm(dim=1).argsort().argsort()
    component = torch.nn.functional.normalize(component, dim=1) * sizes[ranks][:, None]
    return ConceptDirections(
        vocabulary.ids[active], component, torch.ones(len(active)), like.scale, None, cut.explained, [],
        {**like.provenance, "control": "random features"},
    )  # fmt: skip
