"""Do regions keep kinds of things apart, and do weekdays, months, numbers and places lie in a known plane inside them?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from shammie.mfa.concepts import PLANES, Mention

_BATCH = 32
_NULLS = 200
_LINES = 12  # directions in the plane that a single reading may follow
Matrix = np.ndarray[Any, Any]


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
class Geometry:
    """Explained variance of the things' known places in a plane from coordinates, in sentences that were left out."""

    r_squared: float
    line: float
    """The same from the best single linear reading, which can only order things along a line."""
    p_value: float
    """Share of random orders of the things that explain as much."""


def geometry(coordinates: Float[Tensor, "N d"], mentions: Sequence[Mention], seed: int = 0) -> Geometry:
    """Ridge regression from coordinates onto a kind's plane (`PLANES`), leaving out one sentence pattern at a time."""
    plane = np.array(PLANES[mentions[0].kind], dtype=float)
    plane = (plane - plane.mean(0)) / plane.std(0)
    z = coordinates.double().numpy()
    z = (z - z.mean(0)) / (z.std(0) + 1e-9)
    index = np.array([m.index for m in mentions])
    fold = np.array([m.template for m in mentions])
    draw = np.random.default_rng(seed)
    found = _explained(z, plane[index], fold)
    nulls = [_explained(z, plane[draw.permutation(len(plane))[index]], fold) for _ in range(_NULLS)]
    angles = np.arange(_LINES) * np.pi / _LINES
    line = max(_explained_by_line(z, plane[index], np.array([np.cos(a), np.sin(a)]), fold) for a in angles)
    return Geometry(found, line, (1 + sum(null >= found for null in nulls)) / (1 + len(nulls)))


def _ridge(x: Matrix, y: Matrix) -> Matrix:
    return np.linalg.solve(x.T @ x + 1.0 * np.eye(x.shape[1]), x.T @ y)


def _explained(z: Matrix, target: Matrix, fold: Matrix) -> float:
    return _share(target, fold, lambda train: z[~train] @ _ridge(z[train], target[train] - target[train].mean(0)))


def _explained_by_line(z: Matrix, target: Matrix, way: Matrix, fold: Matrix) -> float:
    """The plane from one linear reading, that of the places' component along `way`."""

    def predicted(train: Matrix) -> Matrix:
        centred = target[train] - target[train].mean(0)
        reading = z @ _ridge(z[train], centred @ way[:, None])
        return reading[~train] @ _ridge(reading[train], centred)

    return _share(target, fold, predicted)


def _share(target: Matrix, fold: Matrix, predicted: Callable[[Matrix], Matrix]) -> float:
    """Variance explained in the folds that were left out; predictions are from the training mean."""
    error = 0.0
    for left in np.unique(fold):
        train = fold != left
        error += float(((predicted(train) + target[train].mean(0) - target[~train]) ** 2).sum())
    return 1 - error / float(((target - target.mean(0)) ** 2).sum())
