"""Are the channels true to the neuron? Ablation, reconstruction, faithfulness, stability and descriptions, with controls.

Everything here is arithmetic on weights and on a `Reading`; each measure returns values per channel or neuron, and
callers put intervals on them, clustered by neuron.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from shammie.core.batch import pad
from shammie.core.capture import capture
from shammie.core.model import LanguageModel
from shammie.core.patch import WeightPatch, rows
from shammie.core.position import LAST
from shammie.core.ranking import auroc
from shammie.rotate.equations import reconstruct, remove
from shammie.rotate.neurons import Population, weight_slice
from shammie.rotate.reading import Reading
from shammie.rotate.settings import Part
from shammie.rotate.tokens import TokenSpace

LEAST = 5  # positions of either kind that an AUROC needs
FIRING = 0.02  # share of positions, those of largest |activity|, at which a neuron counts as firing


def matched_direction(
    w: Float[Tensor, " D"], channel: Float[Tensor, " D"], generator: torch.Generator
) -> Float[Tensor, " D"]:
    """A random direction of the channel's norm and of the channel's cosine to w: the control of an ablation."""
    cosine = cosine_similarity(w, channel, dim=0)
    noise = torch.randn(len(w), generator=generator).to(w)
    across = normalize(remove(noise, w), dim=0)
    return channel.norm() * (cosine * normalize(w, dim=0) + (1 - cosine**2).clamp(min=0).sqrt() * across)


def touched(reading: Reading, tokens: Int[Tensor, " k"], following: bool) -> Bool[Tensor, " T"]:
    """Positions whose current, or whose following, token is one of these."""
    return torch.isin(reading.following if following else reading.current, tokens)


def reads_following(tuning: Reading, w: Float[Tensor, " D"], tokens: Int[Tensor, " k"], side: int) -> bool:
    """Whether a channel's tokens tell more of the neuron's input as following than as current tokens, on tuning text.

    States of late layers hold what the model is about to say rather than what it has just read.
    """
    areas = [faithfulness(tuning, w, tokens, side, following) or 0.0 for following in (False, True)]
    return areas[1] > areas[0]


def input_selectivity(
    reading: Reading, direction: Float[Tensor, " D"], side: int, own: Bool[Tensor, " T"], others: Bool[Tensor, " T"]
) -> float | None:
    """AUROC of what an ablation takes from the neuron's input at positions of own tokens against other channels' tokens.

    The ablation of `direction` takes (w . d)(x . d) from the pre-activation of a state x, so the AUROC is that of
    side * (x . d). None with fewer than five positions of either kind.
    """
    others = others & ~own
    if min(int(own.sum()), int(others.sum())) < LEAST:
        return None
    scores = side * (reading.states @ direction)
    chosen = own | others
    return auroc(scores[chosen].numpy(), own[chosen].numpy())


class OutputProbe:
    """Contexts [n] that end where a neuron is active, and the logits there; `sign` [n] is that of its activity."""

    def __init__(
        self,
        model: LanguageModel,
        layer: int,
        neuron: int,
        contexts: Sequence[Sequence[int]],
        sign: Float[Tensor, " n"],
    ) -> None:
        self.model, self.layer, self.neuron, self.sign = model, layer, neuron, sign
        self.batch = pad([list(ids) for ids in contexts], device=model.device)
        self.before = self._logits()

    def selectivity(
        self, w: Float[Tensor, " D"], direction: Float[Tensor, " D"], side: int, own: Int[Tensor, " k"],
        others: Int[Tensor, " m"],
    ) -> float:  # fmt: skip
        """AUROC, over tokens, of what an ablation of the out row takes from the logits: own against other channels' tokens.

        The row is patched in the model. A channel of side +1 loses logits where the neuron's activity is positive. Own
        tokens are nearest the direction that is removed, so 1 is all but given: the control says what is not.
        """
        others = others[~torch.isin(others, own)]
        values = (remove(w, direction) - w)[None].cpu()
        change = rows(weight_slice(self.model, self.layer, "out"), [self.neuron], values)
        with WeightPatch.make(self.model, [change]).applied(self.model):
            after = self._logits()
        taken = (self.sign[:, None] * side * (self.before - after)).mean(0)
        labels = np.concatenate([np.ones(len(own)), np.zeros(len(others))])
        return auroc(taken[torch.cat([own, others])].numpy(), labels)

    def _logits(self) -> Float[Tensor, "n V"]:
        logits = capture(self.model, self.batch, [], positions=LAST, logits=True).logits
        assert logits is not None
        return logits.float().cpu()


def explained(w: Float[Tensor, "B D"], channels: Float[Tensor, "B C D"]) -> Float[Tensor, "B C"]:
    """Share of each row's squared norm that its first 1, 2, ... C channels explain together."""
    shares = []
    for count in range(1, channels.shape[1] + 1):
        left = w - reconstruct(w, channels[:, :count])
        shares.append(1 - left.square().sum(-1) / w.square().sum(-1))
    return torch.stack(shares, 1)


def faithfulness(
    reading: Reading, w: Float[Tensor, " D"], tokens: Int[Tensor, " k"], side: int, following: bool
) -> float | None:
    """AUROC of side * (x . w) at positions of a channel's tokens against all others; None with fewer than five."""
    own = touched(reading, tokens, following)
    if min(int(own.sum()), int((~own).sum())) < LEAST:
        return None
    return auroc((side * (reading.states @ w)).numpy(), own.numpy())


def completeness(reading: Reading, activity: Float[Tensor, " T"], tokens: Int[Tensor, " k"]) -> tuple[float, float]:
    """Share of firing positions whose current or following token is named by the channels, and that of all positions."""
    named = torch.isin(reading.current, tokens) | torch.isin(reading.following, tokens)
    return float(named[firing(activity)].float().mean()), float(named.float().mean())


def firing(activity: Float[Tensor, " T"]) -> Bool[Tensor, " T"]:
    """The positions of largest |activity|."""
    count = max(LEAST, round(FIRING * len(activity)))
    flags = torch.zeros(len(activity), dtype=torch.bool)
    flags[activity.abs().topk(count).indices] = True
    return flags


@dataclass(frozen=True)
class Agreement:
    """How well the channels of two fits match: mean |cosine| of the best pairing, and Jaccard of its top tokens."""

    cosine: float
    jaccard: float


def agreement(
    a: Float[Tensor, "C D"], b: Float[Tensor, "C D"], a_tokens: Int[Tensor, "C k"], b_tokens: Int[Tensor, "C k"]
) -> Agreement:
    """Pair the channels of one neuron from two fits, each once, for the largest sum of |cosine|."""
    similarity = (normalize(a, dim=-1) @ normalize(b, dim=-1).T).abs()
    pairs = best_pairing(similarity.double().numpy())
    shared = []
    for i, j in pairs:
        left, right = set(a_tokens[i].tolist()), set(b_tokens[j].tolist())
        shared.append(len(left & right) / len(left | right))
    return Agreement(float(np.mean([similarity[i, j] for i, j in pairs])), float(np.mean(shared)))


def best_pairing(gain: NDArray[np.float64]) -> list[tuple[int, int]]:
    """The assignment of rows to columns [C, C] with the largest sum (Hungarian, by networks of shortest paths)."""
    from scipy.optimize import linear_sum_assignment

    return list(zip(*(side.tolist() for side in linear_sum_assignment(gain, maximize=True)), strict=True))


def description_score(
    space: TokenSpace, reading: Reading, named: Int[Tensor, " k"], use_following: bool
) -> Float[Tensor, " T"]:
    """How near each position's token lies to the nearest of the named ones: their largest cosine, 1 for a named one."""
    ids = reading.following if use_following else reading.current
    unique, place = ids.unique(return_inverse=True)
    vectors = normalize(space.tokens[unique] - space.mean, dim=-1)
    anchors = normalize(space.tokens[named] - space.mean, dim=-1)
    return (vectors @ anchors.T).max(-1).values[place]


def description_auroc(
    space: TokenSpace, tuning: Reading, held_out: Reading, neuron: int, named: Int[Tensor, " k"]
) -> float:
    """Does a list of tokens foretell where a neuron fires? AUROC on held-out text.

    Whether the list is matched with the current or the following token is chosen on the tuning text.
    """
    areas = [_area(space, tuning, neuron, named, following) for following in (False, True)]
    return _area(space, held_out, neuron, named, areas[1] > areas[0])


def _area(space: TokenSpace, reading: Reading, neuron: int, named: Int[Tensor, " k"], following: bool) -> float:
    scores = description_score(space, reading, named, following)
    return auroc(scores.numpy(), firing(reading.activity[:, neuron]).numpy())


def projection_tokens(space: TokenSpace, w: Float[Tensor, " D"], count: int, part: Part) -> Int[Tensor, " k"]:
    """Baseline: what the neuron's row itself points to; of both ends but for the gate, which only opens on one."""
    scores = space.cosines(w[None])[0]
    if part == "gate":
        return scores.topk(count).indices
    return torch.cat([scores.topk(count // 2).indices, (-scores).topk(count // 2).indices])


def principal_directions(layer: Float[Tensor, "F D"]) -> Float[Tensor, "D D"]:
    """Principal directions of a layer's rows, the strongest first."""
    values, vectors = torch.linalg.eigh(Population.of(layer).covariance)
    return vectors.T[values.argsort(descending=True)]


def component_tokens(
    space: TokenSpace, directions: Float[Tensor, "D D"], w: Float[Tensor, " D"], count: int, components: int
) -> Int[Tensor, " k"]:
    """Baseline: tokens of the layer's principal directions that the row has most of, signed as it has them."""
    strength = directions @ normalize(w, dim=0)
    top = strength.abs().topk(components).indices
    each = -(-count // components)
    return space.nearest(directions[top] * strength[top].sign()[:, None], each).flatten()[:count]


def activating_tokens(reading: Reading, neuron: int, count: int, least: int = 2) -> Int[Tensor, " k"]:
    """Baseline that needs text: the tokens with the largest mean |activity|, of those seen at least twice."""
    unique, place, seen = reading.current.unique(return_inverse=True, return_counts=True)
    total = torch.zeros(len(unique)).index_add_(0, place, reading.activity[:, neuron].abs())
    mean = torch.where(seen >= least, total / seen, -1.0)
    return unique[mean.topk(min(count, len(unique))).indices]
