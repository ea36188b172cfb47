"""`shammie rotate find`: the neurons and channels of a whole model that speak of a token or concept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from shammie.core.errors import ShammieError, UnsupportedModelError
from shammie.core.model import LanguageModel, load
from shammie.core.stats import benjamini_hochberg
from shammie.core.task import Task
from shammie.core.vocabulary import Matrix, token_text
from shammie.rotate.channels import Channels
from shammie.rotate.evidence import FALSE_DISCOVERIES
from shammie.rotate.fitting import load_fit
from shammie.rotate.neurons import Population, read_rows
from shammie.rotate.settings import PARTS, Part, parse_parts
from shammie.rotate.tokens import TokenSpace, choose_matrix, token_space

if TYPE_CHECKING:
    from shammie.core.run import Run
    from shammie.rotate.config import Find

_CONTROLS = 8  # random directions that are searched for beside the concept
Record = dict[str, Any]


@dataclass(frozen=True)
class Mention:
    """A neuron's part along a concept: evidence in standard deviations over its layer, and its p-value."""

    layer: int
    part: Part
    neuron: int
    evidence: float
    p_value: float
    significant: bool


def concept_tokens(model: LanguageModel, concept: str) -> list[int]:
    """Ids of a concept's words where they are one token: as written, in lower case and capitalized, with and without space.

    Errors: ShammieError when no form of any word is a single token.
    """
    words = [word.strip() for word in concept.split(",") if word.strip()]
    forms = [
        f"{space}{form}" for word in words for form in (word, word.lower(), word.capitalize()) for space in ("", " ")
    ]
    ids = {tuple(model.tokenizer(form, add_special_tokens=False)["input_ids"]) for form in forms}
    found = sorted({pieces[0] for pieces in ids if len(pieces) == 1})
    if not found:
        raise ShammieError(f"no form of {concept!r} is a single token of {model.name}; name words that stand for it")
    return found


@dataclass(frozen=True)
class Search:
    """All neurons by their evidence, the strongest first, and how many of them random directions would have named."""

    mentions: tuple[Mention, ...]
    by_chance: float


def find(
    model: LanguageModel, concept: str, parts: Sequence[Part] = PARTS, *, fold_norm: bool = False, seed: int = 0
) -> Search:
    """Search all neurons of all layers for a concept.

    The direction is fixed beforehand, so noise has standard normal evidence; discoveries are at a rate of 0.05 over the
    whole search. The control searches for random directions in the same way. Parts that the family lacks are left out.
    """
    ids = torch.tensor(concept_tokens(model, concept), device=model.device)
    has_gate = model.anatomy.family.gate is not None
    places = [(n, part) for n in range(len(model.anatomy.layers)) for part in parts if has_gate or part != "gate"]
    if not places:
        raise UnsupportedModelError(f"the MLPs of {model.name} have two matrices and no gate; search parts in and out")
    noise = torch.randn(_CONTROLS, model.anatomy.width, generator=torch.Generator().manual_seed(seed)).to(model.device)
    spaces: dict[Matrix, TokenSpace] = {}
    found = []
    for layer, part in places:
        matrix = choose_matrix(model, layer, "auto")
        if matrix not in spaces:
            spaces[matrix] = token_space(model, matrix, fold_norm=fold_norm)
        directions = torch.cat([spaces[matrix].centroid(ids[None]), normalize(noise, dim=-1)])
        found.append(_along(read_rows(model, layer, part, fold_norm=fold_norm), directions))
    return _ranked(places, found)


def _along(rows: Float[Tensor, "F D"], directions: Float[Tensor, "k D"]) -> Float[Tensor, "F k"]:
    """Evidence of each row along each direction."""
    population = Population.of(rows)
    return (normalize(rows, dim=-1) - population.mean) @ directions.T / population.spread(directions)


def _ranked(places: Sequence[tuple[int, Part]], found: Sequence[Float[Tensor, "F k"]]) -> Search:
    z = torch.cat(list(found)).double()
    p_values = (2 * torch.special.ndtr(-z.abs())).cpu().numpy()
    named = [benjamini_hochberg(column, FALSE_DISCOVERIES) for column in p_values.T]
    owners = [(layer, part, j) for (layer, part), rows in zip(places, found, strict=True) for j in range(len(rows))]
    mentions = []
    for i in z[:, 0].abs().argsort(descending=True, stable=True).tolist():
        layer, part, neuron = owners[i]
        mentions.append(Mention(layer, part, neuron, float(z[i, 0]), float(p_values[i, 0]), bool(named[0][i])))
    return Search(tuple(mentions), sum(int(control.sum()) for control in named[1:]) / _CONTROLS)


def prepare_find(config: Find) -> Task:
    """Load the model, read the concept's tokens, and the fit where one is named."""
    model = load(config.model, device=config.device, dtype=config.dtype)
    parts = parse_parts(config.part)
    ids = concept_tokens(model, config.concept)
    fitted = [] if config.fit is None else load_fit(config.fit)
    for channels in fitted:
        channels.check_model(model)

    def execute(run: Run) -> int:
        for key in run.items(["neurons", *(["channels"] if fitted else [])], "rotate find"):
            rows = _neurons(model, config, parts) if key == "neurons" else _channels(model, fitted, config, ids)
            run.record(key, list(rows))
        return 0

    inputs = {"model": model.hash, "fit": [channels.provenance for channels in fitted]}
    layers = len(model.anatomy.layers)
    searched = {
        "tokens": [token_text(model, token) for token in ids],
        "neurons": layers * model.anatomy.neuron_count(0),
    }
    return Task(inputs, lambda: searched, execute)


def _neurons(model: LanguageModel, config: Find, parts: Sequence[Part]) -> Iterator[Record]:
    search = find(model, config.concept, parts, fold_norm=config.fold_norm)
    count = sum(mention.significant for mention in search.mentions)
    says = f"{count} of {len(search.mentions):,} neuron parts stand out; random directions name {search.by_chance:g}"
    yield {
        "kind": "search", "concept": config.concept, "searched": len(search.mentions), "significant": count,
        "random_directions": search.by_chance, "says": says,
    }  # fmt: skip
    for mention in search.mentions[: config.top]:
        if mention.significant or config.insignificant:
            row = {**vars(mention), "evidence": round(mention.evidence, 3), "p_value": float(f"{mention.p_value:.3g}")}
            yield {"kind": "neuron", **row}


def _channels(model: LanguageModel, fitted: Sequence[Channels], config: Find, ids: Sequence[int]) -> Iterator[Record]:
    """Fitted channels by the cosine of their tokens' centroid to the concept's."""
    found = []
    spaces: dict[Matrix, TokenSpace] = {}
    for channels in fitted:
        if channels.matrix not in spaces:
            spaces[channels.matrix] = token_space(model, channels.matrix, fold_norm=channels.settings.fold_norm)
        direction = spaces[channels.matrix].centroid(torch.tensor(list(ids), device=model.device)[None])[0]
        cosines = channels.directions.to(direction) @ direction
        shown = channels.significant | config.insignificant
        found += [(float(cosines[row, channel]), channels, row, channel) for row, channel in shown.nonzero().tolist()]
    for cosine, channels, row, channel in sorted(found, key=lambda entry: -abs(entry[0]))[: config.top]:
        yield {
            "kind": "channel", "layer": channels.layer, "part": channels.part, "neuron": channels.neurons[row],
            "channel": channel, "cosine": round(cosine, 4), "evidence": round(float(channels.evidence[row, channel]), 3),
            "significant": bool(channels.significant[row, channel]),
            "tokens": [token_text(model, token) for token in channels.tokens[row, channel, :8].tolist()],
        }  # fmt: skip
