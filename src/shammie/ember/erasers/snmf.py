"""SNMF-guided ablation: semi-non-negative factors of MLP activations, and the directions they read and write, ablated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from shammie.core.batch import pad, plan_batches
from shammie.core.capture import capture
from shammie.core.errors import DataError, NonFiniteError
from shammie.core.model import LanguageModel
from shammie.core.patch import Delta, WeightPatch, rows
from shammie.core.position import ALL
from shammie.core.site import neurons
from shammie.ember import equations as eq
from shammie.ember.erasers.base import Sides
from shammie.ember.pack import ConceptPack
from shammie.ember.vocabulary import TokenSlice, token_slice

_COVER = 0.95  # share of the selected features' weight that the edited neurons cover


@dataclass(frozen=True)
class Snmf:
    """W_down[:, j] -= delta_out f (f^T W_down[:, j]) and W_up[j, :] -= delta_in (W_up[j, :] f) f^T on a feature's neurons."""

    delta_in: float = 2.0
    delta_out: float = 2.0
    depth: float = 0.33
    """Share of the layers, from the first, that are edited."""
    features: int = 50
    share: float = 0.01
    """Share of the neurons that a feature keeps."""
    iterations: int = 40
    ratio: float = 2.0

    @classmethod
    def grid(cls) -> list[Snmf]:
        """Strengths and depths."""
        cells = (
            (2.0, 2.0, 0.33),
            (2.0, 2.0, 0.2),
            (2.0, 1.0, 0.33),
            (1.0, 2.0, 0.33),
            (1.0, 1.0, 0.5),
            (3.0, 3.0, 0.2),
        )
        return [cls(delta_in=a, delta_out=b, depth=depth) for a, b, depth in cells]

    def erase(
        self,
        model: LanguageModel,
        pack: ConceptPack,
        directory: Path,  # noqa: ARG002 - nothing is trained
        seed: int,
        *,
        resume: bool,  # noqa: ARG002
    ) -> WeightPatch:
        """Factorize the activations of each early layer and ablate its concept features."""
        vocabulary = token_slice(model, pack.concept_sentences, pack.neutral_sentences)
        deltas: list[Delta] = []
        for layer in range(max(1, round(self.depth * len(model.anatomy.layers)))):
            states, tokens = _activations(model, pack, layer)
            features = self._concept_features(states, tokens, vocabulary, seed)
            if len(features):
                deltas += self._ablations(model, layer, features)
        if not deltas:
            raise DataError(
                f"no MLP feature of the first layers passes as {pack.concept!r}; lower ratio or give more sentences"
            )
        return WeightPatch.make(model, deltas, method="snmf")

    def _concept_features(
        self, states: Float[Tensor, "N F"], tokens: Int[Tensor, " N"], vocabulary: TokenSlice, seed: int
    ) -> Float[Tensor, "k F"]:
        """Sparse features over neurons whose loadings are larger on concept-only tokens."""
        features, g = semi_nmf(states, self.features, math.ceil(self.share * states.shape[1]), self.iterations, seed)
        place = torch.searchsorted(vocabulary.ids, tokens).clamp(max=len(vocabulary.ids) - 1)
        here = vocabulary.ids[place] == tokens  # special tokens are no part of the slice
        ratio = eq.activity_ratio(g, vocabulary.concept_only[place] & here, vocabulary.neutral_only[place] & here)
        return features[ratio >= self.ratio]

    def _ablations(self, model: LanguageModel, layer: int, features: Float[Tensor, "k F"]) -> list[Delta]:
        weights = model.anatomy.mlp_weights(layer)
        allowed = _covering(features)
        deltas = []
        for target, strength in ((weights.write, self.delta_out), (weights.read, self.delta_in)):
            matrix = target.view(model.module).float().cpu().clone()
            before = matrix.clone()
            for feature in features:
                support = (feature != 0) & allowed
                direction = feature @ before  # what the feature writes, or reads
                if support.any() and float(direction.norm()) > 0:
                    unit = direction / direction.norm()
                    matrix[support] += eq.ablate_direction(matrix[support], unit, strength)
            changed = (matrix != before).any(1).nonzero()[:, 0]
            if not matrix.isfinite().all():
                raise NonFiniteError(f"the ablation of layer {layer} makes its weights infinite; lower its strengths")
            deltas.append(rows(target, changed, (matrix - before)[changed]))
        return deltas


def semi_nmf(
    states: Float[Tensor, "N F"], count: int, size: int, iterations: int, seed: int
) -> tuple[Float[Tensor, "K F"], Float[Tensor, "N K"]]:
    """States ~ G features with G >= 0 and each feature on its `size` strongest neurons; returns features and G."""
    generator = torch.Generator().manual_seed(seed)
    g = torch.rand(len(states), count, generator=generator) + 0.1
    features = torch.zeros(count, states.shape[1])
    for _ in range(iterations):
        solved = eq.solve_features(g.T @ states, eq.gram(g))
        index, value = eq.winner_take_all(solved.T, size)
        features = eq.scatter(index, value, states.shape[1]).T
        g = eq.semi_nmf_loadings(g, states @ features.T, features @ features.T)
        norms = g.norm(dim=0).clamp(min=1e-12)
        g, features = g / norms, features * norms[:, None]
    if not (features.isfinite().all() and g.isfinite().all()):
        raise NonFiniteError("the factorization of MLP activations broke down; lower the number of features")
    return features, g


def _activations(model: LanguageModel, pack: ConceptPack, layer: int) -> tuple[Float[Tensor, "N F"], Int[Tensor, " N"]]:
    """Neuron activations of every token of the pack's sentences, with the token ids."""
    sides = Sides.of(model, pack)
    sequences = [*sides.forget, *sides.retain]
    states, tokens = [], []
    for members in plan_batches([len(ids) for ids in sequences]):
        batch = pad([sequences[i] for i in members], device=model.device)
        captured = capture(model, batch, [neurons(layer)], positions=ALL)
        states.append(captured[neurons(layer)].float().cpu())
        tokens.append(batch.ids[batch.mask.bool()].cpu())
    return torch.cat(states), torch.cat(tokens)


def _covering(features: Float[Tensor, "k F"]) -> Bool[Tensor, " F"]:
    """The fewest neurons that hold 95 % of sum_k |F_jk| / |F_k|."""
    weight = (features.abs() / features.norm(dim=1, keepdim=True)).sum(0)
    order = weight.argsort(descending=True)
    reached = weight[order].cumsum(0) / weight.sum()
    kept = torch.zeros(len(weight), dtype=torch.bool)
    kept[order[: int((reached < _COVER).sum()) + 1]] = True
    return kept
