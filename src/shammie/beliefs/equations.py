"""The room's equations. P positions, L layers of the window, E entities, D model width, C classes."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def dominance(hits: Bool[Tensor, "P L"], counted: Bool[Tensor, " P"]) -> float | None:
    """Belief dominance: the share of layers that decode to a belief, averaged over the counted positions; None of none."""
    return float(hits[counted].double().mean()) if bool(counted.any()) else None


def eligible(first: Bool[Tensor, "P L"], second: Bool[Tensor, "P L"], least: int) -> Bool[Tensor, " P"]:
    """Positions at which the two beliefs surface in at least `least` layers together; 0 counts all."""
    return (first | second).sum(-1) >= least


def belief_vector(states: Float[Tensor, "E D"], entity: int) -> Float[Tensor, " D"]:
    """The state of an entity less the mean of all others' of its kind."""
    others = torch.cat([states[:entity], states[entity + 1 :]])
    return states[entity] - others.mean(0)


def of_length(vector: Float[Tensor, " D"], length: float) -> Float[Tensor, " D"]:
    """The vector stretched to a length; zero stays zero."""
    return vector * (length / vector.norm().clamp(min=1e-30))


def balanced_accuracy(truth: Int[Tensor, " N"], said: Int[Tensor, " N"]) -> float:
    """Recall of each class that occurs, averaged; what is said besides the classes is wrong."""
    recalls = [(said[truth == label] == label).double().mean() for label in truth.unique()]
    return float(torch.stack(recalls).mean())


def majority(truth: Int[Tensor, " N"]) -> float:
    """Accuracy of always saying the commonest class; its balanced accuracy is one over the number of classes."""
    return float(torch.bincount(truth).max() / len(truth))


def buckets(scores: Float[Tensor, " N"], count: int = 3) -> Int[Tensor, " N"]:
    """Scores in one dimension by k-means, exactly: classes 0.. from low to high with the least squared distance within.

    By dynamic programming over the sorted scores; equal scores fall into one class. Fewer distinct scores than classes
    give fewer classes.
    """
    values, place = scores.double().unique(return_inverse=True)
    weight = torch.bincount(place).double()
    count = min(count, len(values))
    total, first, second = (torch.cat([weight.new_zeros(1), (weight * values**power).cumsum(0)]) for power in (0, 1, 2))

    def spread(start: Tensor, stop: int) -> Tensor:
        mass = total[stop] - total[start]
        return second[stop] - second[start] - (first[stop] - first[start]) ** 2 / mass

    best = torch.full((count + 1, len(values) + 1), torch.inf, dtype=torch.float64)
    cut = torch.zeros(count + 1, len(values) + 1, dtype=torch.long)
    best[0, 0] = 0
    for group in range(1, count + 1):
        for stop in range(group, len(values) + 1):
            starts = torch.arange(group - 1, stop)
            cost = best[group - 1, starts] + spread(starts, stop)
            best[group, stop], at = cost.min(0)
            cut[group, stop] = starts[at]
    label, stop = torch.zeros(len(values), dtype=torch.long), len(values)
    for group in range(count, 0, -1):
        start = int(cut[group, stop])
        label[start:stop] = group - 1
        stop = start
    return label[place]
