"""Chapter: where the answer is decided, and an edit that changes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shammie.cli.tour.context import TourContext
from shammie.cli.tour.known import Known, known_facts, last_logits
from shammie.core.errors import DataError
from shammie.report import Block, Chapter, Figure, Numbers, Prose, TextPair, heat_map, line_chart

if TYPE_CHECKING:
    from torch import Tensor

Record = dict[str, Any]
_OTHER_TEXTS = ("The people of {0}", "A map of {0}", "She was born in {0}", "The history of {0}")
_STRENGTHS = (0.5, 1.0, 1.5, 2.0)
_RANDOM = 8  # random directions a pair


@dataclass(frozen=True)
class Pair:
    """Two countries whose prompts have the same tokens but for the name, and a third as a control."""

    source: Known
    target: Known
    other: Known


def measure(context: TourContext, _settings: object = None) -> Iterator[Record]:
    """Activation patching between two entities over layer x position, then steering on pairs not used to choose it."""
    pairs = _pairs(context, context.size(12, 40))
    yield from _patching(context, pairs)
    yield from _steering(context, pairs)


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
    import torch

    from shammie.core.batch import encode, make_batch
    from shammie.core.capture import capture
    from shammie.core.edit import edited, replace
    from shammie.core.position import RowSpans
    from shammie.core.site import residual
    from shammie.core.stats import mean_interval
    from shammie.core.vocabulary import token_text

    model = context.model
    layers = len(model.anatomy.layers)
    base = _margins(context, pairs)
    length = len(encode(model, pairs[0].target.prompt))
    rows = [(p, position) for p in range(len(pairs)) for position in range(length)]
    spans = RowSpans(tuple((position, position + 1) for _, position in rows))
    prompts = [pairs[p].target.prompt for p, _ in rows]
    sites = [residual(layer) for layer in range(layers)]
    effects = {}
    for role in ("source", "other"):
        states = capture(model, make_batch(model, [getattr(pair, role).prompt for pair in pairs]), sites)
        grid = []
        for site in sites:
            values = torch.stack([states[site][p, position] for p, position in rows])
            with edited(model, [replace(site, values, positions=spans)]):
                logits = last_logits(model, prompts, rows=len(rows))
            grid.append(_normalized(logits, [pairs[p] for p, _ in rows], base[[p for p, _ in rows]]))
        effects[role] = torch.stack(grid).view(layers, len(pairs), length).transpose(0, 1)  # [pairs, layers, T]
    names = [token_text(model, token) for token in encode(model, pairs[0].target.prompt)]
    names[_name_position(context, pairs[0].target)] = " [country]"
    yield {
        "kind": "patching", "pairs": len(pairs), "tokens": names,
        "effect": _rounded(effects["source"].mean(0)), "control": _rounded(effects["other"].mean(0)),
    }  # fmt: skip
    for place, position in (("country name", _name_position(context, pairs[0].target)), ("last token", length - 1)):
        for layer in range(layers):
            effect, control = (
                mean_interval(effects[role][:, layer, position].tolist(), seed=context.seed).as_dict() for role in ("source", "other")
            )
            yield {"kind": "place", "place": place, "layer": layer, "effect": effect, "control": control}


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

    source, target = (torch.tensor([getattr(pair, role).token for pair in pairs]) for role in ("source", "target"))
    return (logits.gather(-1, source[:, None]) - logits.gather(-1, target[:, None]))[:, 0]


def _normalized(logits: Tensor, pairs: Sequence[Pair], base: Tensor) -> Tensor:
    """0 where the edit changes nothing, 1 where the target's prompt answers as the source's does."""
    return (_margin(logits, pairs) - base[:, 0]) / (base[:, 1] - base[:, 0])


def _steering(context: TourContext, pairs: Sequence[Pair]) -> Iterator[Record]:
    from shammie.core.stats import mean_interval, proportion

    half = len(pairs) // 2
    choosing, testing = pairs[:half], pairs[half:]
    layers = range(0, len(context.model.anatomy.layers) * 2 // 3, 2)
    gains = {layer: float(_steered(context, choosing, layer, 1.0)[0].mean()) for layer in layers}
    layer = max(gains, key=gains.__getitem__)
    for strength in _STRENGTHS:
        effect, flips = _steered(context, testing, layer, strength)
        random, random_flips = _steered(context, testing, layer, strength, random=_RANDOM)
        clusters = [i // _RANDOM for i in range(len(random))]
        yield {
            "kind": "steering", "layer": layer, "strength": strength,
            "effect": mean_interval(effect.tolist(), seed=context.seed).as_dict(),
            "control": mean_interval(random.tolist(), clusters=clusters, seed=context.seed).as_dict(),
            "answers_changed": proportion(int(flips.sum()), len(flips)).as_dict(),
            "answers_changed_control": proportion(int(random_flips.sum()), len(random_flips)).as_dict(),
        }  # fmt: skip
    for pair in testing[:3]:
        yield _spoken(context, pair, layer)


def _directions(context: TourContext, pairs: Sequence[Pair], layer: int) -> Tensor:
    """Source minus target at the name's last token, over texts that speak of no capital [pairs, D]."""
    import torch

    from shammie.core.batch import make_batch
    from shammie.core.capture import capture
    from shammie.core.position import LAST
    from shammie.core.site import residual

    def mean_state(country: str) -> Tensor:
        batch = make_batch(context.model, [text.format(country) for text in _OTHER_TEXTS])
        return capture(context.model, batch, [residual(layer)], positions=LAST)[residual(layer)].mean(0)

    return torch.stack([mean_state(pair.source.country) - mean_state(pair.target.country) for pair in pairs])


def _steered(
    context: TourContext, pairs: Sequence[Pair], layer: int, strength: float, *, random: int = 0
) -> tuple[Tensor, Tensor]:
    """Normalized effect and whether the source's answer comes first, for each pair (for each random direction)."""
    import torch

    from shammie.core.edit import Edit, edited
    from shammie.core.position import text_spans
    from shammie.core.site import residual

    model = context.model
    directions = _directions(context, pairs, layer) * strength
    rows = list(pairs)
    if random:
        generator = torch.Generator().manual_seed(context.seed)
        noise = torch.randn(len(pairs), random, directions.shape[-1], generator=generator)
        directions = (noise / noise.norm(dim=-1, keepdim=True) * directions.norm(dim=-1)[:, None, None].cpu()).flatten(0, 1)
        rows = [pair for pair in pairs for _ in range(random)]
    spans = text_spans(model.tokenizer, [p.target.prompt for p in rows], [p.target.country for p in rows]).last()
    added = directions.to(model.device, model.dtype)
    edit = Edit(residual(layer), lambda state, _position, row: state + added[row][:, None], spans)
    with edited(model, [edit]):
        logits = last_logits(model, [pair.target.prompt for pair in rows], rows=len(rows))
    base = _margins(context, pairs).repeat_interleave(max(1, random), 0)
    flips = logits.argmax(-1) == torch.tensor([pair.source.token for pair in rows])
    return _normalized(logits, rows, base), flips


def _spoken(context: TourContext, pair: Pair, layer: int) -> Record:
    from shammie.core.edit import add, edited
    from shammie.core.generate import GenerationSettings, generate
    from shammie.core.position import text_spans
    from shammie.core.site import residual

    model, settings = context.model, GenerationSettings(max_new_tokens=16, stop=("\n",))
    prompt = pair.target.prompt
    span = text_spans(model.tokenizer, [prompt], [pair.target.country]).last()
    edit = add(residual(layer), _directions(context, [pair], layer)[0], strength=_STRENGTHS[-2], positions=span)
    (before,) = generate(model, [prompt], settings)
    with edited(model, [edit]):
        (after,) = generate(model, [prompt], settings)
    return {"kind": "spoken", "prompt": prompt, "source": pair.source.country, "before": before.text, "after": after.text}


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
            lines[name] = [(r["layer"], r[key]["value"], r[key]["low"], r[key]["high"]) for r in at]
    controls = [name for name in lines if name.endswith("(control)")]
    dose = {
        name: [(r["strength"], r[key]["value"], r[key]["low"], r[key]["high"]) for r in steering]
        for name, key in (("country direction", "effect"), ("random, same norm (control)", "control"))
    }
    best = max(steering, key=lambda r: r["answers_changed"]["value"])
    changed, control = best["answers_changed"], best["answers_changed_control"]
    blocks: list[Block] = [
        Prose(
            f"Over {grid['pairs']} pairs of countries, the state of one prompt is put in the other's place, one layer and one token "
            "at a time: 0 leaves the answer alone, 1 makes it the other country's capital. The control puts in a third country, "
            "whose state should not bring the second one's capital."
        ),
        Figure(picture, "The country moves from its name to the last token"),
        Figure(
            line_chart(lines, x_label="after layer", y_label="normalized effect", controls=controls, reference=0.0),
            "The two places that decide, with the third country as control", "Means over pairs with 95 % intervals.",
        ),
        Prose(
            f"Then an edit: the difference of two countries at their names, read off texts that speak of no capital, is added after "
            f"layer {best['layer']} (chosen on other pairs than those shown)."
        ),
        Numbers([(
            f"answers changed to the other capital at strength {best['strength']:g}", changed["value"], changed["low"],
            changed["high"], changed["n"],
            ("random direction, same norm", control["value"], control["low"], control["high"], control["n"]),
        )]),
        Figure(
            line_chart(dose, x_label="strength", y_label="normalized effect", controls=("random, same norm (control)",), reference=0.0),
            "A stronger push, a surer answer",
        ),
    ]  # fmt: skip
    for r in records:
        if r["kind"] == "spoken":
            blocks.append(TextPair(r["before"], r["after"], "as it is", f"pushed towards {r['source']}", r["prompt"]))
    return blocks


CHAPTER = Chapter(
    "decided", "Where it is decided", "Which token of which layer carries the answer, and can we change it there?",
    "shammie tour --only decided", measure, draw,
)  # fmt: skip
