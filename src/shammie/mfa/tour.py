"""Chapter: the states of one layer as regions, found without labels; one opened, and text steered into another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from shammie.report import (
    Block,
    Chapter,
    Context,
    Figure,
    Point,
    Prose,
    Table,
    TextPair,
    interval_bars,
    number,
    scatter,
)

if TYPE_CHECKING:
    from torch import Tensor

    from shammie.core.model import LanguageModel
    from shammie.mfa.concepts import Mention
    from shammie.mfa.mixture import Mixture

Record = dict[str, Any]
_PROMPT = "I think that"
_ALPHA = 0.4


def measure(context: Context) -> Iterator[Record]:
    """Fit a small mixture to sentences about known kinds of things, map its regions, open one, and steer into one."""
    from shammie.core.site import residual
    from shammie.mfa.concepts import mentions

    model: LanguageModel = context.model
    site = residual(len(model.anatomy.layers) // 2)
    kept = mentions()
    kept = kept[:: max(1, round(len(kept) / max(40, context.size(260, 260))))]
    states, tokens, owner = _states(model, site, kept)
    mixture = _fit(model, site, states, owner, context)
    yield from _map(model, mixture, states, tokens)
    yield from _kinds(model, mixture, kept, context)
    yield from _steered(model, mixture, kept, context)


def _states(model: LanguageModel, site: Any, kept: list[Mention]) -> tuple[Tensor, Tensor, Tensor]:
    """States, token ids and sentence of every token but the first two of each sentence."""
    import torch

    from shammie.core.batch import make_batch
    from shammie.core.harvest import stream
    from shammie.core.position import Span

    texts = [mention.text for mention in kept]
    ids = make_batch(model, texts).ids.cpu()
    read = list(stream(model, texts, [site], positions=Span(2)))
    row, position = torch.cat([part.row for part in read]).cpu(), torch.cat([part.position for part in read]).cpu()
    return torch.cat([part[site].float() for part in read]).cpu(), ids[row, position], row


def _fit(model: LanguageModel, site: Any, states: Tensor, owner: Tensor, context: Context) -> Mixture:
    from shammie.mfa.fit import fit
    from shammie.mfa.settings import MfaSettings
    from shammie.mfa.source import TensorSource

    components = max(6, min(48, len(states) // 40))
    settings = MfaSettings(components, 4, ridge=20.0, passes=8, restarts=3, held_out=0.1, seed=context.seed)
    source = TensorSource(states, 0.1, context.seed, owner)
    return fit(source, site, settings, {"model": model.name, "model_hash": model.hash})


def _map(model: LanguageModel, mixture: Mixture, states: Tensor, tokens: Tensor) -> Iterator[Record]:
    """Each region with its place in the plane that spreads the centroids most, and its tokens."""
    import torch

    from shammie.core.vocabulary import token_text

    best = mixture.regions(states)[0][:, 0]
    centred = mixture.means - mixture.means.mean(0)
    u, size, _ = torch.linalg.svd(centred, full_matrices=False)
    for region in range(len(mixture.weights)):
        own = tokens[best == region]
        if not len(own):
            continue
        ids, counts = own.unique(return_counts=True)
        order = counts.argsort(descending=True, stable=True)
        yield {
            "kind": "region", "region": region, "tokens": len(own), "x": float(u[region, 0] * size[0]),
            "y": float(u[region, 1] * size[1]), "different": len(ids),
            "commonest": [token_text(model, int(ids[i])) for i in order[:10]],
        }  # fmt: skip


def _kinds(model: LanguageModel, mixture: Mixture, kept: list[Mention], context: Context) -> Iterator[Record]:
    """How far regions keep kinds apart, and the region that holds most of one kind."""
    from collections import Counter

    from shammie.core.stats import proportion
    from shammie.mfa.structure import agreement, mention_states

    x = mention_states(model, mixture.at(), kept)
    regions = mixture.regions(x)[0][:, 0]
    found = agreement(regions, [mention.kind for mention in kept], context.seed)
    yield {"kind": "kinds", "things": len(kept), **found.as_dict()}
    for kind in dict.fromkeys(mention.kind for mention in kept):
        own = [int(region) for region, mention in zip(regions, kept, strict=True) if mention.kind == kind]
        region, hits = Counter(own).most_common(1)[0]
        inside = [mention.kind == kind for where, mention in zip(regions, kept, strict=True) if int(where) == region]
        yield {
            "kind": "home", "name": kind, "region": region, "recall": proportion(hits, len(own)).as_dict(),
            "precision": proportion(sum(inside), len(inside)).as_dict(),
        }  # fmt: skip


def _steered(model: LanguageModel, mixture: Mixture, kept: list[Mention], context: Context) -> Iterator[Record]:
    """The prompt continued in the regions of two kinds, and how much likelier each kind's words become in its own."""
    from shammie.core.decoding import GenerationSettings
    from shammie.core.edit import edited
    from shammie.core.generate import generate
    from shammie.core.score import score
    from shammie.core.stats import mean_interval
    from shammie.mfa.concepts import CONCEPTS
    from shammie.mfa.steer import steer
    from shammie.mfa.structure import mention_states

    regions = mixture.regions(mention_states(model, mixture.at(), kept))[0][:, 0]
    homes = {m.kind: int(region) for region, m in zip(regions, kept, strict=True)}
    settings = GenerationSettings(max_new_tokens=context.size(20, 40))
    plain = generate(model, [_PROMPT], settings)[0].text
    gains: dict[str, list[float]] = {"own": [], "other": []}
    words = {
        kind: [(_PROMPT, f" {thing}") for thing in things[: context.size(7, 12)]] for kind, things in CONCEPTS.items()
    }
    chosen = [kind for kind in ("weekday", "place", "animal") if kind in homes]
    base = {kind: [one.log_probability for one in score(model, words[kind])] for kind in chosen}
    for kind in chosen:
        with edited(model, [steer(mixture, homes[kind], _ALPHA)]):
            text = generate(model, [_PROMPT], settings)[0].text
            after = {other: [one.log_probability for one in score(model, words[other])] for other in chosen}
        for other in chosen:
            rise = [now - then for now, then in zip(after[other], base[other], strict=True)]
            gains["own" if other == kind else "other"] += rise
        yield {"kind": "steered", "name": kind, "region": homes[kind], "before": plain, "after": text}
    yield {
        "kind": "gain",
        **{name: mean_interval(values, None, context.seed).as_dict() for name, values in gains.items()},
    }


def draw(records: list[Record]) -> list[Block]:
    """The map, the kinds, one region and the steered texts."""
    regions = [record for record in records if record["kind"] == "region"]
    kinds = next(record for record in records if record["kind"] == "kinds")
    homes = [record for record in records if record["kind"] == "home"]
    gain = next(record for record in records if record["kind"] == "gain")
    where = {home["region"]: home["name"] for home in homes}
    points = [
        Point(
            r["x"],
            r["y"],
            where.get(r["region"], r["commonest"][0].strip() or "·"),
            "home of a kind" if r["region"] in where else "other",
        )
        for r in regions
    ]
    blocks: list[Block] = [
        Prose(
            "The states of a middle layer are not spread evenly: they lie in **regions**, each a Gaussian with a centroid and a "
            f"few directions of its own. {len(regions)} regions were fitted to the tokens of plain sentences without any label."
        ),
        Figure(
            scatter(
                points, x_label="first direction between centroids", y_label="second", outcomes=["home of a kind", "other"],
                annotate=set(where.values()),
            ),
            "A map of regions",
            "Every mark is a region's centroid. "
            "Named ones hold most mentions of a kind of thing. Each kind has sentences of its own, which keeps it apart.",
        ),
        Prose(
            f"What a region tells about the kind of thing a token names (normalized mutual information, 0 to 1): "
            f"**{kinds['value']:.2f}**; with kinds in random order {kinds['null']:.2f}, 95 % of them below {kinds['null_95']:.2f}."
        ),
        Table(
            ["kind", "region", "of its mentions there", "of the region's mentions"],
            [[h["name"], h["region"], h["recall"]["value"], h["precision"]["value"]] for h in homes],
            "The region that holds most of each kind",
        ),
    ]  # fmt: skip
    opened = max(homes, key=lambda home: home["recall"]["value"] * home["precision"]["value"])
    inside = next(r for r in regions if r["region"] == opened["region"])
    blocks.append(
        Prose(
            f"Opened: region {inside['region']}, home of the {opened['name']}s. Its tokens: "
            + ", ".join(f"“{token.strip()}”" for token in inside["commonest"])
            + "."
        )
    )
    for steered in (record for record in records if record["kind"] == "steered"):
        caption = f"{_PROMPT} … pulled {_ALPHA:.0%} of the way to region {steered['region']} ({steered['name']})"
        blocks.append(TextPair(steered["before"], steered["after"], "as it is", "steered", caption))
    bars = [number("the region's own kind", gain["own"], number("two other kinds", gain["other"]))]
    blocks.append(
        Figure(
            interval_bars(bars, value_label="rise in log-probability of a kind's words, nats"),
            "What steering promotes",
            "Words of the region's kind after the prompt, beside the words of the other kinds under the same pull.",
        )
    )
    return blocks


CHAPTER = Chapter(
    "mfa", "Where states live", "Which regions do a layer's states fall into, and what happens when text is pulled into one?",
    "shammie tour --only mfa", measure, draw,
)  # fmt: skip
