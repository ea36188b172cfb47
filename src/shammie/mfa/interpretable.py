"""Interpretable fraction by a rule without a judge: can a reader who sees only the words tell where a feature is on?

A token's reconstruction is a sum of features; a feature's mass there is |code| x |direction|. Of each feature that belongs
to the first 90 % of some held-out token's mass, twenty contexts are taken, one a text: the strongest, or any where it is
on (which says whether the feature means one thing throughout, not at its peak alone). A ridge classifier over the
model's input embeddings (the token's, and the mean of the eight before it) learns them in one half of the texts beside
tokens drawn at random, and ranks those of the other half; both ways. The feature counts as interpretable when the mean
AUROC is at least 0.9. (The paper asks a language model instead; its rule for the mass is ours.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from shammie.core.harvest import Activations
from shammie.core.intervals import Estimate, proportion
from shammie.core.model import LanguageModel
from shammie.core.ranking import auroc
from shammie.core.site import Site
from shammie.mfa.baselines import Principal, SparseAutoencoder
from shammie.mfa.evaluate import HeldOut
from shammie.mfa.mixture import Mixture

MASS, AREA = 0.9, 0.9
_CONTEXTS, _OTHERS, _BEFORE = 20, 200, 8
_LEAST = 5  # contexts in each half; a feature with fewer cannot be shown to be anything
_NULLS = 200
_BLOCK = 8192


@dataclass(frozen=True, eq=False)
class Parts:
    """What the reconstructions of B tokens are made of: m features each. `strength` orders the contexts of a feature."""

    feature: Int[Tensor, "B m"]
    mass: Float[Tensor, "B m"]
    strength: Float[Tensor, "B m"]


Reader = Callable[[Float[Tensor, "B D"]], Parts]


def mixture_reader(mixture: Mixture) -> Reader:
    """Regions (contexts by density, the centroid measured from the mean) and both ends of their local directions."""
    centre = mixture.weights @ mixture.means
    away, spread = (mixture.means - centre).norm(dim=1), mixture.loadings.norm(dim=1)
    count, rank = spread.shape

    def read(x: Tensor) -> Parts:
        posterior = mixture.expectation.posterior(x.to(mixture.means))
        best, share = posterior.components[:, 0], posterior.responsibilities[:, :1]
        z = mixture.latents(x, best)
        ends = count + 2 * (best[:, None] * rank + torch.arange(rank)) + (z < 0)
        local = share * z.abs() * spread[best]
        density = posterior.joint[:, :1] - mixture.weights[best, None].log()
        feature = torch.cat([best[:, None], ends], 1)
        mass = torch.cat([share * away[best, None], local], 1)
        return Parts(feature, mass, torch.cat([density, local], 1))

    return read


def autoencoder_reader(module: SparseAutoencoder) -> Reader:
    """The active features; decoder rows are of length one."""

    def read(x: Tensor) -> Parts:
        values, features = module.codes(x)
        return Parts(features, values, values)

    return read


def principal_reader(principal: Principal) -> Reader:
    """Both ends of each component."""

    def read(x: Tensor) -> Parts:
        codes = (x - principal.centre) @ principal.directions
        features = 2 * torch.arange(codes.shape[1]) + (codes < 0)
        return Parts(features, codes.abs(), codes.abs())

    return read


@dataclass(frozen=True, eq=False)
class Corpus:
    """Consecutive tokens of some texts with their states, in memory."""

    x: Float[Tensor, "N D"]
    text: NDArray[np.int64]
    token: Int[Tensor, " N"]

    @classmethod
    def of(cls, states: Activations, site: Site, tokens: int) -> Corpus:
        """The first shards of a harvest, until there are so many tokens."""
        xs, texts, ids, have = [], [], [], 0
        for shard in states:
            xs.append(shard.states[site])
            texts.append(shard.text)
            ids.append(shard.token)
            have += len(xs[-1])
            if have >= tokens:
                break
        return cls(torch.cat(xs), torch.cat(texts).numpy(), torch.cat(ids).long())

    def words(self, rows: NDArray[np.int64], embedding: Float[Tensor, "V D"]) -> Float[Tensor, "n 2D"]:
        """What a reader sees at these rows: the embedding of the token, and the mean of those before it in its text."""
        back = rows[:, None] - np.arange(1, _BEFORE + 1)
        same = (back >= 0) & (self.text[np.maximum(back, 0)] == self.text[rows][:, None])
        before = embedding[self.token[np.maximum(back, 0)]] * torch.from_numpy(same)[..., None]
        own = embedding[self.token[rows]]
        return torch.cat([normalize(own, dim=-1), normalize(before.sum(1), dim=-1)], dim=1)


@dataclass(frozen=True)
class Interpretable:
    """Mean share of a token's mass in interpretable features, and the share of all features judged."""

    fraction: Estimate
    features: int
    share: float
    null: float
    """Share of sets of tokens drawn at random that pass as features."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        more = {"features": self.features, "share": round(self.share, 4), "null": round(self.null, 4)}
        return {**self.fraction.as_dict(), **more}


def interpretable_fraction(
    read: Reader, held: HeldOut, corpus: Corpus, model: LanguageModel, *, strongest: bool = True, seed: int = 0
) -> Interpretable:
    """The fraction over held-out tokens, an interval over their texts. Features are judged on the corpus.

    Contexts are the strongest, or drawn at random among those where a feature is on.
    """
    embedding = model.anatomy.embedding_weights.view(model.module).detach().float()
    parts = read(held.x)
    kept = _leading(parts.mass)
    wanted = np.unique(parts.feature[kept].numpy())
    draw = np.random.default_rng(seed)
    judge = _Judge(read, corpus, embedding, draw)
    contexts = _contexts(read, corpus, wanted, None if strongest else draw)
    passed = {feature: judge(halves, feature) for feature, halves in contexts.items()}
    good = torch.tensor([bool(passed.get(int(f))) for f in parts.feature.flatten()]).view(parts.feature.shape)
    mass = torch.where(kept, parts.mass, 0)
    fraction = (mass * good).sum(1) / mass.sum(1).clamp(min=1e-12)  # 0 for a token of which nothing is rebuilt
    null = float(np.mean([judge(judge.drawn()) for _ in range(_NULLS)]))
    share = sum(passed.values()) / len(wanted)
    return Interpretable(held.mean(fraction, seed), len(wanted), share, null)


def ends_told_apart(
    read: Reader, held: HeldOut, corpus: Corpus, model: LanguageModel, first: int, seed: int = 0
) -> tuple[Estimate, float]:
    """Share of directions whose two ends words tell apart, and the share where both ends are tokens drawn at random.

    A region's directions are met in that region alone, which words may tell already; here the strongest contexts of one
    end are classified against those of the other, by the same rule. Ends are the features `first`, `first` + 1, and so on
    in pairs; directions are those of which an end belongs to the first 90 % of some held-out token's mass.
    """
    parts = read(held.x)
    met = parts.feature[_leading(parts.mass) & (parts.feature >= first)].numpy()
    lower = np.unique(met - (met - first) % 2)
    judge = _Judge(
        read, corpus, model.anatomy.embedding_weights.view(model.module).detach().float(), np.random.default_rng(seed)
    )
    contexts = _contexts(read, corpus, np.concatenate([lower, lower + 1]), None)
    nothing: Halves = (np.array([], dtype=np.int64), np.array([], dtype=np.int64))
    pairs = [(contexts.get(int(end), nothing), contexts.get(int(end) + 1, nothing)) for end in lower]
    null = float(np.mean([judge.apart(judge.drawn(), judge.drawn()) for _ in range(_NULLS)]))
    return proportion(sum(judge.apart(*ends) for ends in pairs), len(pairs)), null


def _leading(mass: Float[Tensor, "B m"]) -> Tensor:
    """The largest features of each token until 90 % of its mass is there."""
    value, order = mass.sort(dim=1, descending=True)
    before = value.cumsum(1) - value
    inside = (before < MASS * value.sum(1, keepdim=True)) & (value > 0)
    return torch.zeros_like(inside).scatter(1, order, inside)


Halves = tuple[NDArray[np.int64], NDArray[np.int64]]


def _contexts(
    read: Reader, corpus: Corpus, wanted: NDArray[np.int64], draw: np.random.Generator | None
) -> dict[int, Halves]:
    """Rows where each feature is strongest, or any where it is on; one a text, in texts of even and of odd number."""
    table = torch.zeros(int(wanted.max()) + 1, dtype=torch.bool)
    table[torch.from_numpy(wanted)] = True
    features, strengths, places = [], [], []
    for start in range(0, len(corpus.x), _BLOCK):
        parts = read(corpus.x[start : start + _BLOCK].float())
        own = (parts.feature < len(table)) & (parts.mass > 0)
        own &= table[parts.feature.clamp(max=len(table) - 1)]
        features.append(parts.feature[own].numpy())
        strengths.append(parts.strength[own].numpy())
        places.append(start + own.nonzero()[:, 0].numpy())
    feature, strength, place = map(np.concatenate, (features, strengths, places))
    order = np.lexsort((-strength if draw is None else draw.random(len(strength)), feature))
    feature, place = feature[order], place[order]
    _, first = np.unique(feature * (int(corpus.text.max()) + 1) + corpus.text[place], return_index=True)
    first.sort()  # by feature, strongest first, one a text
    found = {}
    for rows in np.split(first, np.flatnonzero(np.diff(feature[first])) + 1):
        odd = corpus.text[place[rows]] % 2 == 1
        found[int(feature[rows[0]])] = (place[rows[~odd]][:_CONTEXTS], place[rows[odd]][:_CONTEXTS])
    return found


class _Judge:
    """Tells whether contexts of one half are found again in the other from their words, beside tokens without the feature."""

    def __init__(self, read: Reader, corpus: Corpus, embedding: Tensor, draw: np.random.Generator) -> None:
        self.corpus, self.embedding, self.draw = corpus, embedding, draw
        self.halves = [np.flatnonzero(corpus.text % 2 == half) for half in (0, 1)]
        rows = [draw.choice(half, _OTHERS) for half in self.halves]
        self.others = [corpus.words(own, embedding) for own in rows]
        self.parts = [read(corpus.x[own].float()) for own in rows]

    def __call__(self, halves: Halves, feature: int | None = None) -> bool:
        if min(map(len, halves)) < _LEAST:
            return False
        own = [self.corpus.words(rows, self.embedding) for rows in halves]
        others = [
            words[~((parts.feature == feature) & (parts.mass > 0)).any(1)] if feature is not None else words
            for words, parts in zip(self.others, self.parts, strict=True)
        ]
        if min(map(len, others)) < _LEAST:  # it is on nearly everywhere and says nothing
            return False
        return (_area(own, others, 0) + _area(own, others, 1)) / 2 >= AREA

    def apart(self, one: Halves, other: Halves) -> bool:
        """Whether words tell the contexts of one end of a direction from those of the other."""
        if min(map(len, (*one, *other))) < _LEAST:
            return False
        ours, theirs = ([self.corpus.words(rows, self.embedding) for rows in halves] for halves in (one, other))
        return (_area(ours, theirs, 0) + _area(ours, theirs, 1)) / 2 >= AREA

    def drawn(self) -> Halves:
        """Contexts of nothing."""
        even, odd = (self.draw.choice(rows, _CONTEXTS) for rows in self.halves)
        return even, odd


def _area(own: list[Tensor], others: list[Tensor], half: int) -> float:
    """AUROC in the other half of the ridge classifier that is learned in this one."""
    x = torch.cat([own[half], others[half]])
    label = torch.zeros(len(x))
    label[: len(own[half])] = 1
    x = x - x.mean(0)
    weights = x.T @ torch.linalg.solve(x @ x.T + torch.eye(len(x)), label - label.mean())
    scores = torch.cat([own[1 - half], others[1 - half]]) @ weights
    return auroc(scores.numpy(), [1] * len(own[1 - half]) + [0] * len(others[1 - half]))
