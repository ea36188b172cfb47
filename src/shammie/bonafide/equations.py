"""The room's equations. G groups of a question's words, T tokens of a text whose probability they move, V values."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

Coalition = frozenset[int]
"""The groups that are left standing."""


def coalitions(groups: int) -> list[Coalition]:
    """The sets of groups whose values `owen_values` needs, none and all of them first. `groups` is a power of two."""
    everything = frozenset(range(groups))
    found = dict.fromkeys([frozenset[int](), everything])
    for left, right, context in _splits(0, groups, frozenset()):
        found |= dict.fromkeys((context | left, context | right, context | left | right, context))
    return list(found)


def owen_values(value: Callable[[Coalition], Float[Tensor, " T"]], groups: int) -> Float[Tensor, "G T"]:
    """Owen values on the binary tree of neighbouring groups: what each adds, averaged over all orders that the tree allows.

    Every node's two halves come in either order, each half with the other and without it. Source: Owen 1977, as in SHAP's
    partition explainer with a budget that reaches every group.
    """
    shares: dict[tuple[int, int], Tensor] = {}

    def share(low: int, high: int, context: Coalition, weight: float) -> None:
        whole = frozenset(range(low, high))
        if high - low == 1:
            gain = weight * (value(context | whole) - value(context))
            shares[low, high] = shares[low, high] + gain if (low, high) in shares else gain
            return
        middle = (low + high) // 2
        left, right = frozenset(range(low, middle)), frozenset(range(middle, high))
        share(low, middle, context, weight / 2)
        share(low, middle, context | right, weight / 2)
        share(middle, high, context, weight / 2)
        share(middle, high, context | left, weight / 2)

    share(0, groups, frozenset(), 1.0)
    return torch.stack([shares[group, group + 1] for group in range(groups)])


def _splits(low: int, high: int, context: Coalition) -> Iterator[tuple[Coalition, Coalition, Coalition]]:
    """Each pair of halves with each context that its parents' orders give it."""
    if high - low == 1:
        return
    middle = (low + high) // 2
    left, right = frozenset(range(low, middle)), frozenset(range(middle, high))
    yield left, right, context
    for part, other in (((low, middle), right), ((middle, high), left)):
        for around in (context, context | other):
            yield from _splits(*part, around)


def log_odds(log_probabilities: Float[Tensor, " T"]) -> Float[Tensor, " T"]:
    """Log p / (1 - p)."""
    p = log_probabilities.double()
    return p - torch.log(-torch.expm1(p.clamp(max=-1e-12)))


def contributions(values: Float[Tensor, "G T"]) -> Float[Tensor, " G"]:
    """Each token's values over the sum of their sizes, averaged over tokens (CC-SHAP); zero where nothing moves anything."""
    size = values.abs().sum(0, keepdim=True)
    return (values / size.clamp(min=1e-30)).mean(-1)


def similarity(a: Float[Tensor, " G"], b: Float[Tensor, " G"]) -> float:
    """Cosine of two contributions; 0 where one of them is nothing."""
    lengths = float(a.norm() * b.norm())
    return float(a @ b) / lengths if lengths > 0 else 0.0


def unlikeliness(now: Float[Tensor, " N"], before: Float[Tensor, " N"], beta: float) -> Float[Tensor, ""]:
    """-(2 / beta) mean log sigmoid(beta (NLL now - NLL before)): falls as tokens grow unlikelier than they were (NPO, FUR)."""
    return -(2 / beta) * torch.nn.functional.logsigmoid(beta * (before - now)).mean()
