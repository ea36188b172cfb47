"""Do regions keep kinds of things apart, and do cycles of weekdays and months lie on a circle inside them?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from shammie.core.batch import encode, pad
from shammie.core.capture import capture
from shammie.core.model import LanguageModel
from shammie.core.position import text_spans
from shammie.core.site import Site
from shammie.mfa.concepts import CYCLES, Mention

_BATCH = 32
_NULLS = 200


def mention_states(model: LanguageModel, site: Site, mentions: Sequence[Mention]) -> Float[Tensor, "N D"]:
    """The state at the last token of each thing."""
    parts = []
    for start in range(0, len(mentions), _BATCH):
        some = mentions[start : start + _BATCH]
        places = text_spans(model.tokenizer, [m.text for m in some], [m.part for m in some]).last()
        batch = pad([encode(model, m.text) for m in some], device=model.device)
        parts.append(capture(model, batch, [site], positions=places)[site].float())
    return torch.cat(parts)


@dataclass(frozen=True)
class Agreement:
    """Normalized mutual information of two labellings, and the same for labels in random order."""

    value: float
    null: float
    null_95: float

    def as_dict(self) -> dict[str, float]:
        """Plain values."""
        return {"value": round(self.value, 4), "null": round(self.null, 4), "null_95": round(self.null_95, 4)}


def agreement(regions: Int[Tensor, " N"], kinds: Sequence[str], seed: int = 0) -> Agreement:
    """How much the region of a token says about its kind, between 0 and 1."""
    names = {kind: number for number, kind in enumerate(dict.fromkeys(kinds))}
    labels = np.array([names[kind] for kind in kinds])
    own = regions.numpy()
    draw = np.random.default_rng(seed)
    nulls = [normalized_information(own, draw.permutation(labels)) for _ in range(_NULLS)]
    return Agreement(normalized_information(own, labels), float(np.mean(nulls)), float(np.quantile(nulls, 0.95)))


def normalized_information(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """Mutual information over the mean of the entropies."""
    joint = np.zeros((int(a.max()) + 1, int(b.max()) + 1))
    np.add.at(joint, (a, b), 1)
    joint /= joint.sum()

    def entropy(p: np.ndarray[Any, Any]) -> float:
        return float(-(p[p > 0] * np.log(p[p > 0])).sum())

    rows, columns, both = entropy(joint.sum(1)), entropy(joint.sum(0)), entropy(joint.ravel())
    return (rows + columns - both) / max(1e-12, 0.5 * (rows + columns))


@dataclass(frozen=True)
class Cycle:
    """Explained variance of the angle (cosine and sine) of a cycle from coordinates, in sentences that were left out."""

    r_squared: float
    line: float
    """The same for the best single direction, which can only order things along a line."""
    p_value: float
    """Share of random orders of the things that explain as much."""


def cycle(coordinates: Float[Tensor, "N d"], mentions: Sequence[Mention], seed: int = 0) -> Cycle:
    """Ridge regression from coordinates onto the circle, leaving out one sentence pattern at a time."""
    period = CYCLES[mentions[0].kind]
    z = coordinates.double().numpy()
    z = (z - z.mean(0)) / (z.std(0) + 1e-9)
    index = np.array([m.index for m in mentions])
    fold = np.array([m.template for m in mentions])
    draw = np.random.default_rng(seed)
    found = _explained(z, _circle(index, period), fold)
    nulls = [_explained(z, _circle(draw.permutation(period)[index], period), fold) for _ in range(_NULLS)]
    line = _explained_by_line(z, index, _circle(index, period), fold)
    return Cycle(found, line, (1 + sum(null >= found for null in nulls)) / (1 + len(nulls)))


def _circle(index: np.ndarray[Any, Any], period: int) -> np.ndarray[Any, Any]:
    angle = 2 * math.pi * index / period
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def _ridge(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.linalg.solve(x.T @ x + 1.0 * np.eye(x.shape[1]), x.T @ y)


def _explained(z: np.ndarray[Any, Any], target: np.ndarray[Any, Any], fold: np.ndarray[Any, Any]) -> float:
    error = 0.0
    for left in np.unique(fold):
        train = fold != left
        centre = target[train].mean(0)
        predicted = z[~train] @ _ridge(z[train], target[train] - centre) + centre
        error += float(((predicted - target[~train]) ** 2).sum())
    return 1 - error / float(((target - target.mean(0)) ** 2).sum())


def _explained_by_line(
    z: np.ndarray[Any, Any], index: np.ndarray[Any, Any], target: np.ndarray[Any, Any], fold: np.ndarray[Any, Any]
) -> float:
    """The angle from one linear reading of the place in the cycle: what a single direction can tell."""
    error = 0.0
    for left in np.unique(fold):
        train = fold != left
        reading = z @ _ridge(z[train], (index[train] - index[train].mean())[:, None].astype(float))
        centre = target[train].mean(0)
        predicted = reading[~train] @ _ridge(reading[train], target[train] - centre) + centre
        error += float(((predicted - target[~train]) ** 2).sum())
    return 1 - error / float(((target - target.mean(0)) ** 2).sum())
