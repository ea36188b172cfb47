"""What lies in regions: contexts, token counts and the ends of local directions, in one pass over the states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shammie.core.harvest import Activations, Shard
from shammie.core.model import LanguageModel
from shammie.core.vocabulary import project_top, token_text
from shammie.mfa.expectation import groups
from shammie.mfa.mixture import Mixture

_BEFORE, _AFTER = 12, 4  # tokens of a context around its token
_NEIGHBOURS, _TOKENS = 4, 10
_ROWS = 16_384


@dataclass(frozen=True, order=True)
class Context:
    """A token in its surroundings; the token stands between [[ and ]]."""

    score: float
    text: int
    position: int
    words: str


@dataclass(eq=False)
class Region:
    """What is gathered of one region."""

    number: int
    tokens: int = 0
    occurrences: Counter[int] = field(default_factory=Counter)
    contexts: list[Context] = field(default_factory=list)
    ends: dict[tuple[int, int], list[Context]] = field(default_factory=dict)


def principal_loadings(mixture: Mixture, region: int) -> tuple[Float[Tensor, "D R"], Float[Tensor, "R R"]]:
    """The loadings turned so that the first varies most, and the rotation of the latents that does it."""
    u, size, v = torch.linalg.svd(mixture.loadings[region], full_matrices=False)
    return u * size, v.T


def gather(
    mixture: Mixture, states: Activations, model: LanguageModel, regions: Sequence[int], contexts: int, directions: int
) -> dict[int, Region]:
    """Read all states once. Tokens belong to their likeliest region; contexts are those of highest density in it."""
    found = {number: Region(number) for number in regions}
    turns = {number: principal_loadings(mixture, number)[1] for number in regions}
    site = mixture.at()
    for index in range(len(states)):
        shard = states[index]
        x = shard.states[site].float()
        posterior = [mixture.expectation.posterior(rows) for rows in x.split(_ROWS)]
        best = torch.cat([part.components[:, 0] for part in posterior])
        joint = torch.cat([part.joint[:, 0] for part in posterior])
        for number, rows in groups(best, len(mixture.weights)):
            if number not in found:
                continue
            region = found[number]
            region.tokens += len(rows)
            region.occurrences.update(shard.token[rows].tolist())
            density = joint[rows] - mixture.weights[number].log()
            region.contexts = _best(region.contexts, density, rows, shard, model, contexts)
            z = mixture.latents(x[rows], torch.full((len(rows),), number)) @ turns[number]
            for direction in range(min(directions, z.shape[1])):
                for sign in (1, -1):
                    former = region.ends.get((direction, sign), [])
                    region.ends[direction, sign] = _best(former, sign * z[:, direction], rows, shard, model, contexts)
    return found


def _best(
    former: list[Context],
    scores: Float[Tensor, " n"],
    rows: Int[Tensor, " n"],
    shard: Shard,
    model: LanguageModel,
    count: int,
) -> list[Context]:
    """The best so far: no two from one text, so that a region is not shown by one passage."""
    floor = former[-1].score if len(former) == count else -float("inf")
    kept = {context.text: context for context in former}
    values, places = scores.topk(min(4 * count, len(scores)))
    for score, place in zip(values.tolist(), rows[places].tolist(), strict=True):
        text = int(shard.text[place])
        if score > floor and (text not in kept or kept[text].score < score):
            kept[text] = Context(round(score, 3), text, int(shard.position[place]), _words(shard, place, model))
    return sorted(kept.values(), reverse=True)[:count]


def _words(shard: Shard, place: int, model: LanguageModel) -> str:
    """The token in its surroundings, from the tokens that the shard holds of the same text."""
    around = range(max(0, place - _BEFORE), min(len(shard.token), place + _AFTER + 1))
    same = [i for i in around if shard.text[i] == shard.text[place]]
    decode = model.tokenizer.decode
    before = decode([int(shard.token[i]) for i in same if i < place])
    after = decode([int(shard.token[i]) for i in same if i > place])
    return " ".join(f"{before}[[{decode([int(shard.token[place])])}]]{after}".split())


def records(mixture: Mixture, found: dict[int, Region], model: LanguageModel, directions: int) -> list[dict[str, Any]]:
    """One plain record a region and one a local direction."""
    numbers = list(found)
    centre = mixture.weights @ mixture.means
    promoted = project_top(model, mixture.means[numbers] - centre, _TOKENS, fold_norm=True).text(model)
    distance = torch.cdist(mixture.means[numbers], mixture.means)
    near = distance.argsort(dim=1)[:, 1 : _NEIGHBOURS + 1]
    lines: list[dict[str, Any]] = []
    for row, (number, region) in enumerate(found.items()):
        common = region.occurrences.most_common(8)
        local = float(mixture.loadings[number].square().sum())
        noise = float(mixture.noise[number if len(mixture.noise) > 1 else 0].sum())
        lines.append({
            "kind": "region", "region": number, "tokens": region.tokens, "weight": round(float(mixture.weights[number]), 6),
            "different_tokens": len(region.occurrences),
            "commonest": [f"{token_text(model, token)} ({count})" for token, count in common],
            "commonest_share": round(common[0][1] / region.tokens, 4) if common else None,
            "breadth": round(local**0.5, 3), "local_share": round(local / (local + noise), 4),
            "promoted": promoted[row], "neighbours": near[row].tolist(),
            "neighbour_distance": round(float(distance[row, near[row, 0]]), 3),
            "contexts": [context.words for context in region.contexts],
        })  # fmt: skip
        turned, _ = principal_loadings(mixture, number)
        for direction in range(min(directions, turned.shape[1])):
            ends = [region.ends.get((direction, sign), []) for sign in (1, -1)]
            both = torch.stack([turned[:, direction], -turned[:, direction]])
            up, down = project_top(model, both, 6, fold_norm=True).text(model)
            lines.append({
                "kind": "direction", "region": number, "direction": direction,
                "spread": round(float(turned[:, direction].norm()), 3),
                "high": [context.words for context in ends[0]], "low": [context.words for context in ends[1]],
                "high_tokens": up, "low_tokens": down,
            })  # fmt: skip
    return lines
