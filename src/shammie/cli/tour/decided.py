"""Chapter: where the answer is decided, and an edit that changes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shammie.cli.tour.context import TourContext
from shammie.cli.tour.known import Known, known_facts, last_logits
from shammie.core.errors import DataError
from shammie.report import Block, Chapter, Figure, Numbers, Prose, TextPair, heat_map, line_chart, number, sample

if TYPE_CHECKING:
    from torch import Tensor

Record = dict[str, Any]
_OTHER_TEXTS = ("The people of {0}", "A map of {0}", "She was born in {0}", "The history of {0}")
_STRENGTHS = (0.5, 1.0, 1.5, 2.0)
_RANDOM = 4  # random directions a pair
_PAIRS = 6  # whatever the limit: two to choose a layer and a strength by, the others to try them on


@dataclass(frozen=True)
class Pair:
    """Two countries whose prompts have the same tokens but for the name, and a third as a control."""

    source: Known
    target: Known
    other: Known


def measure(context: TourContext, _settings: object = None) -> Iterator[Record]:
    """Activation patching between two entities over layer x position, then steering on pairs not used to choose it."""
    pairs = _pairs(context, max(_PAIRS, context.size(24, 60)))
    third = max(2, len(pairs) // 3)
    yield from _patching(context, pairs[:third])
    yield from _steering(context, pairs[:third], pairs[third:])


def _pairs(context: TourContext, count: int) -> list[Pair]:
    from shammie.core.batch import encode

    groups: dict[int, list[Known]] = {}
    for fact in known_facts(context, 70):
        groups.setdefault(len(encode(context.model, fact.prompt)), []).append(fact)
    group = max(groups.values(), key=len)
    if len(group) < 4:
        raise DataError("fewer than four known countries have names of equally many tokens, too few to patch between")
    size = len(group)
    return [
        Pair(group[i % size], group[(i + 1 + i // size) % size], group[(i + 2 + i // size) % size])
        for i in range(min(count, size * (size - 3)))
    ]


def _patching(context: TourContext, pairs: Sequence[Pair]) -> Iterator[Record]:
    from shammie.core.batch import encode
    from shammie.core.stats import mean_interval
    from shammie.core.vocabulary import token_text

    model = context.model
    base = _margins(context, pairs)
    tokens = encode(model, pairs[0].target.prompt)
    name = _name_position(context, pairs[0].target)
    effects = _patched(context, pairs, base)
    words = [token_text(model, token) for token in tokens]
    words[name] = " [country]"
    yield {
        "kind": "patching", "pairs": len(pairs), "tokens": words,
        "effect": _rounded(effects["source"].mean(0)), "control": _rounded(effects["other"].mean(0)),
    }  # fmt: skip
    for place, position in (("country name", name), ("last token", len(tokens) - 1)):
        for layer in range(len(model.anatomy.layers)):
            effect, control = (
                mean_interval(effects[role][:, layer, position].tolist(), seed=context.seed).as_dict()
                for role in ("source", "other")
            )
            yield {"kind": "place", "place": place, "layer": layer, "effect": effect, "control": control}


def _patched(context: TourContext, pairs: Sequence[Pair], base: Tensor) -> dict[str, Tensor]:
    """Normalized effect of putting the source's, or the other's, state into the target's prompt: each [pairs, layers, T].

    Tokens before the first one in which the prompts differ have equal states, so patching them is exactly nothing.
    """
    import torch

    from shammie.core.batch import encode, make_batch
    from shammie.core.capture import capture
    from shammie.core.edit import edited, replace
    from shammie.core.position import RowSpans
    from shammie.core.site import residual

    model, roles = context.model, ("source", "other")
    length, first = len(encode(model, pairs[0].target.prompt)), _shared(context, pairs)
    donors = [getattr(pair, role) for role in roles for pair in pairs]
    rows = [(donor, position) for donor in range(len(donors)) for position in range(first, length)]
    owners = [pairs[donor % len(pairs)] for donor, _ in rows]
    bases = base[[donor % len(pairs) for donor, _ in rows]]
    spans = RowSpans(tuple((position, position + 1) for _, position in rows))
    sites = [residual(layer) for layer in range(len(model.anatomy.layers))]
    states = capture(model, make_batch(model, [donor.prompt for donor in donors]), sites)
    grid = torch.zeros(len(donors), len(sites), length)
    for layer, site in enumerate(sites):
        values = torch.stack([states[site][donor, position] for donor, position in rows])
        with edited(model, [replace(site, values, positions=spans)]):
            logits = last_logits(model, [pair.target.prompt for pair in owners], rows=len(rows))
        grid[:, layer, first:] = _normalized(logits, owners, bases).view(len(donors), length - first)
    return dict(zip(roles, grid.split(len(pairs)), strict=True))


def _shared(context: TourContext, pairs: Sequence[Pair]) -> int:
    """How many tokens all the prompts begin with."""
    from shammie.core.batch import encode

    prompts = [encode(context.model, fact.prompt) for pair in pairs for fact in (pair.source, pair.target, pair.other)]
    return next(i for i, column in enumerate(zip(*prompts, strict=True)) if len(set(column)) > 1)


def _name_position(context: TourContext, fact: Known) -> int:
    from shammie.core.position import text_spans

    return text_spans(context.model.tokenizer, [fact.prompt], [fact.country]).spans[0][1] - 1


def _margins(context: TourContext, pairs: Sequence[Pair]) -> Tensor:
    """Logit of the source's answer minus the target's [pairs, 2]: after the target's prompt, after the source's."""
    import torch

    runs = [last_logits(context.model, [getattr(pair, role).prompt for pair in pairs]) for role in ("target", "source")]
    return torch.stack([_margin(logits, pairs) for logits in runs], -1)


def _margin(logits: Tensor, pairs: Sequence[Pair]) -> Tensor:
    import torch

    source, target = (
        torch.tensor([getattr(pair, role).token for pair in pairs], device=logits.device)
        for role in ("source", "target")
    )
    return (logits.gather(-1, source[:, None]) - logits.gather(-1, target[:, None]))[:, 0]


def _normalized(logits: Tensor, pairs: Sequence[Pair], base: Tensor) -> Tensor:
    """0 where the edit changes nothing, 1 where the target's prompt answers as the source's does."""
    return (_margin(logits, pairs) - base[:, 0]) / (base[:, 1] - base[:, 0])


def _steering(context: TourContext, choosing: Sequence[Pair], testing: Sequence[Pair]) -> Iterator[Record]:
    from shammie.core.stats import mean_interval, proportion

    layers = len(context.model.anatomy.layers)
    candidates = range(layers // 4, 2 * layers // 3, 2)  # mid-model, where a name has become more than its token
    directions, base = _directions(context, choosing, candidates), _margins(context, choosing)
    gains = [float(_pushed(context, choosing, base, layer, directions[layer])[0].mean()) for layer in candidates]
    layer = candidates[gains.index(max(gains))]
    direction, base = _directions(context, testing, [layer])[layer], _margins(context, testing)
    noise = _random_like(direction, _RANDOM, context.seed)  # [pairs * _RANDOM, D]
    repeated = [pair for pair in testing for _ in range(_RANDOM)]
    for strength in _STRENGTHS:
        effect, flips = _pushed(context, testing, base, layer, strength * direction)
        random, random_flips = _pushed(context, repeated, base.repeat_interleave(_RANDOM, 0), layer, strength * noise)
        clusters = [i // _RANDOM for i in range(len(repeated))]
        yield {
            "kind": "steering", "layer": layer, "strength": strength,
            "effect": mean_interval(effect.tolist(), seed=context.seed).as_dict(),
            "control": mean_interval(random.tolist(), clusters=clusters, seed=context.seed).as_dict(),
            "answers_changed": proportion(int(flips.sum()), len(flips)).as_dict(),
            "answers_changed_control": proportion(int(random_flips.sum()), len(random_flips)).as_dict(),
        }  # fmt: skip
    for pair, vector in list(zip(testing, direction, strict=True))[:3]:
        yield _spoken(context, pair, layer, vector)


def _directions(context: TourContext, pairs: Sequence[Pair], layers: Sequence[int]) -> dict[int, Tensor]:
    """Source minus target at the name's last token, over texts that speak of no capital: [pairs, D] for each layer."""
    from shammie.core.batch import make_batch
    from shammie.core.capture import capture
    from shammie.core.position import LAST
    from shammie.core.site import residual

    countries = list(dict.fromkeys(fact.country for pair in pairs for fact in (pair.source, pair.target)))
    batch = make_batch(context.model, [text.format(country) for country in countries for text in _OTHER_TEXTS])
    states = capture(context.model, batch, [residual(layer) for layer in layers], positions=LAST)
    source = [countries.index(pair.source.country) for pair in pairs]
    target = [countries.index(pair.target.country) for pair in pairs]
    means = {layer: states[residual(layer)].view(len(countries), len(_OTHER_TEXTS), -1).mean(1) for layer in layers}
    return {layer: mean[source] - mean[target] for layer, mean in means.items()}


def _random_like(directions: Tensor, count: int, seed: int) -> Tensor:
    """`count` random directions of each direction's norm."""
    import torch

    noise = torch.randn(len(directions), count, directions.shape[-1], generator=torch.Generator().manual_seed(seed))
    noise = noise / noise.norm(dim=-1, keepdim=True) * directions.norm(dim=-1).cpu()[:, None, None]
    return noise.flatten(0, 1).to(directions)


def _pushed(
    context: TourContext, pairs: Sequence[Pair], base: Tensor, layer: int, vectors: Tensor
) -> tuple[Tensor, Tensor]:
    """Each pair's vector added at the country's name: normalized effect, and whether the source's answer comes first."""
    import torch

    from shammie.core.edit import Edit, edited
    from shammie.core.position import text_spans
    from shammie.core.site import residual

    prompts = [pair.target.prompt for pair in pairs]
    spans = text_spans(context.model.tokenizer, prompts, [pair.target.country for pair in pairs]).last()
    edit = Edit(residual(layer), lambda state, _position, row: state + vectors[row][:, None], spans)
    with edited(context.model, [edit]):
        logits = last_logits(context.model, prompts, rows=len(prompts))
    flips = logits.argmax(-1) == torch.tensor([pair.source.token for pair in pairs], device=logits.device)
    return _normalized(logits, pairs, base), flips


def _spoken(context: TourContext, pair: Pair, layer: int, vector: Tensor) -> Record:
    from shammie.core.edit import add, edited
    from shammie.core.generate import GenerationSettings, generate
    from shammie.core.position import text_spans
    from shammie.core.site import residual

    prompt, settings = pair.target.prompt, GenerationSettings(max_new_tokens=16, stop=("\n",))
    span = text_spans(context.model.tokenizer, [prompt], [pair.target.country]).last()
    (before,) = generate(context.model, [prompt], settings)
    with edited(context.model, [add(residual(layer), vector, positions=span)]):
        (after,) = generate(context.model, [prompt], settings)
    return {
        "kind": "spoken", "prompt": prompt, "source": pair.source.country, "before": before.answer, "after": after.answer,
    }  # fmt: skip


def _rounded(values: Tensor) -> list[list[float]]:
    return [[round(float(value), 5) for value in row] for row in values]


def draw(records: list[Record]) -> list[Block]:
    """The patching map, its two decisive columns with controls, the steering dose and what the model then says."""
    (grid,) = (r for r in records if r["kind"] == "patching")
    steering = [r for r in records if r["kind"] == "steering"]
    rows = range(len(grid["effect"]) - 1, -1, -1)
    picture = heat_map(
        [grid["effect"][row] for row in rows], [str(row) for row in rows], grid["tokens"], scale="diverging", limits=(-1, 1),
        row_title="after layer", column_title="patched token", value_label="how far the answer moves to the other country's",
    )  # fmt: skip
    lines = {}
    for place in ("country name", "last token"):
        for key, name in (("effect", place), ("control", f"{place} (control)")):
            at = [r for r in records if r["kind"] == "place" and r["place"] == place]
            lines[name] = [sample(r["layer"], r[key]) for r in at]
    controls = [name for name in lines if name.endswith("(control)")]
    dose = {
        name: [sample(r["strength"], r[key]) for r in steering]
        for name, key in (("country direction", "effect"), ("random direction", "control"))
    }
    whole = next(r for r in steering if r["strength"] == 1)  # the full difference; nothing was tuned on these pairs
    changed, control = whole["answers_changed"], whole["answers_changed_control"]
    blocks: list[Block] = [
        Prose(
            f"Over {grid['pairs']} pairs of countries, the state of one prompt is put in the other's place, one layer and one "
            "token at a time: 0 leaves the answer alone, 1 makes it the other country's capital."
        ),
        Figure(picture, "The country moves from its name to the last token"),
        Figure(
            line_chart(lines, x_label="after layer", y_label="normalized effect", controls=controls, reference=0.0),
            "The two places that decide, with a third country as control",
            "Means over pairs with 95 % intervals. A third country's state takes the old answer away, which is part of "
            "the way, but does not bring this one.",
        ),
        Prose(
            f"Then an edit: the difference of two countries at their names, read off texts that speak of no capital, is added "
            f"after layer {whole['layer']} (chosen on other pairs than the {changed['n']} measured here)."
        ),
        Numbers([number("answers that are now the other capital", changed, number("random direction, same norm", control))]),
        Figure(
            line_chart(dose, x_label="strength", y_label="normalized effect", controls=("random direction",), reference=0.0),
            "How far the push moves the answer",
        ),
    ]  # fmt: skip
    spoken = [r for r in records if r["kind"] == "spoken"]
    blocks.extend(
        TextPair(r["before"], r["after"], "as it is", f"pushed towards {r['source']}", r["prompt"]) for r in spoken
    )
    return blocks


CHAPTER = Chapter(
    "decided", "Where it is decided", "Which token of which layer carries the answer, and can we change it there?",
    "shammie tour --only decided", measure, draw,
)  # fmt: skip
