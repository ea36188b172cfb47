"""The pages of the room's runs, from their records alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from shammie.report import (
    Block,
    Details,
    Figure,
    Numbers,
    Point,
    Prose,
    Section,
    Table,
    heat_map,
    line_chart,
    number,
    of_kind,
    render_page,
    scatter,
)

if TYPE_CHECKING:
    from shammie.core.run import RunRecord

Record = dict[str, Any]
_SHOWN, _CURVES = 4, 8  # layers whose matrices a page shows, and curves of a chart


def train_page(record: RunRecord) -> str:
    """Loss and loads by step, then what the model is at the end."""
    recipe = record.config["recipe"] or "own settings"
    blocks = [*curve_blocks(record.results), *quality_blocks(record.results), *load_blocks(record.results)]
    sections = [
        Section("training", "Training", "Does it learn, and do its experts share the work?", "shammie routing train", blocks),
        Section(
            "coupling", "Router and experts", "Do router and experts move together?", "shammie routing inspect",
            coupling_blocks(record.results),
        ),
    ]  # fmt: skip
    return render_page(
        "A sparse model trained", "How its experts get their tokens.", [("recipe", str(recipe))], sections,
        footer="Every step stands in artifacts/training/metrics.jsonl.", eyebrow="shammie routing train",
    )  # fmt: skip


def inspect_page(record: RunRecord) -> str:
    """Loads, coupling, geometry and what experts are for."""
    found = record.results
    command = "shammie routing inspect"
    loads = [*quality_blocks(found), *load_blocks(found)]
    sections = [
        Section("loads", "Loads", "Do the experts share the work?", command, loads),
        Section(
            "coupling", "Router and experts", "Do scores say what experts will do?", command, coupling_blocks(found)
        ),
        Section("geometry", "Geometry", "Would plain centroids route as well?", command, geometry_blocks(found)),
        Section("experts", "What experts are for", "Do they go by token, by place?", command, expert_blocks(found)),
    ]
    return render_page(
        "How a sparse model routes", "Loads, coupling, geometry, specialization.", [("model", str(record.config["model"]))],
        sections, footer="Every figure stands in results.jsonl.", eyebrow="shammie routing inspect",
    )  # fmt: skip


def compare_page(record: RunRecord) -> str:
    """The front of perplexity against unevenness, a table, and the curves."""
    blocks = front_blocks(record.results)
    section = Section(
        "front",
        "Side by side",
        "What does balance cost, and what becomes of the router?",
        "shammie routing compare",
        blocks,
    )
    return render_page(
        "Ways of routing compared", "Perplexity, unevenness, coupling, similarity.", [], [section],
        footer="Every figure stands in results.jsonl.", eyebrow="shammie routing compare",
    )  # fmt: skip


def curve_blocks(records: Sequence[Record]) -> list[Block]:
    """Loss and unevenness by step."""
    points = of_kind(records, "curve")
    if not points:
        return [Prose("Nothing is trained yet.")]
    loss = line_chart(
        {"loss": [(p["step"], p["token_loss"]) for p in points]}, x_label="step", y_label="loss, nats a token"
    )
    loads = {
        "mean over layers": [(p["step"], p["max_violation"]) for p in points],
        "worst layer": [(p["step"], p["worst_violation"]) for p in points],
    }
    note = "Tokens of the fullest expert over the mean, less 1, in each step's batch: 0 is even."
    uneven = line_chart(loads, x_label="step", y_label="largest load over the mean, less 1", reference=0.0)
    return [Figure(loss, "The loss"), Figure(uneven, "Unevenness", note)]


def quality_blocks(records: Sequence[Record]) -> list[Block]:
    """Perplexity on what was read."""
    found = of_kind(records, "perplexity")
    return [Numbers([number("perplexity, a token", found[0]["perplexity"])])] if found else []


def load_blocks(records: Sequence[Record]) -> list[Block]:
    """The load of every expert of every layer, and the measures of unevenness."""
    layers = [r for r in of_kind(records, "load") if r["layer"] is not None]
    if not layers:
        return []
    shares = [sorted((n / (sum(r["loads"]) / len(r["loads"])) for n in r["loads"]), reverse=True) for r in layers]
    grid = heat_map(
        shares, [str(r["layer"]) for r in layers], [str(rank + 1) for rank in range(len(shares[0]))], scale="diverging",
        midpoint=1.0, limits=(0, 2), row_title="layer", column_title="experts, fullest first", value_label="load over the mean",
    )  # fmt: skip
    columns = ("max_violation", "variation", "entropy", "least", "dead")
    rows = [[r["layer"], *(r[name] for name in columns), r["batch"]["max_violation"]] for r in layers]
    heads = ["layer", "largest less 1", "deviation", "entropy", "least", "dead", "largest less 1, by batch"]
    return [Figure(grid, "Loads", "1 is an even share."), Details("Measures of every layer", [Table(heads, rows)])]


def coupling_blocks(records: Sequence[Record]) -> list[Block]:
    """Scores against activations, weights of pairs, rows among each other, histories."""
    blocks: list[Block] = []
    scores = of_kind(records, "score")
    if scores:
        ranked = {
            f"layer {r['layer']}": [(rank + 1, v) for rank, v in enumerate(r["by_rank"])] for r in scores[:_CURVES]
        }
        chart = line_chart(
            ranked, x_label="rank of the expert by score", y_label="activation over the mean", reference=1.0
        )
        blocks.append(Figure(chart, "Activation by rank", "Where scores predict what experts do, curves fall."))
        rows = [[r["layer"], r["by_token"], r["control"], r["pooled"], r["pooled_control"]] for r in scores]
        heads = ["layer", "within tokens", "with another expert", "over all pairs", "with another expert"]
        blocks.append(Table(heads, rows, caption="Rank correlation of score and activation"))
    aligned = of_kind(records, "alignment")
    if aligned:
        rows = [[r["layer"], r["weights"], r["matched"], r["mismatched"], r["ratio"], r["random"]] for r in aligned]
        heads = ["layer", "weights", "own expert", "other experts", "ratio", "random directions"]
        blocks.append(Table(heads, rows, caption="|cosine| of a router's rows with experts' weights"))
    similar = of_kind(records, "similarity")
    for r in similar[:_SHOWN]:
        names = [str(number) for number in range(len(r["matrix"]))]
        grid = heat_map(r["matrix"], names, names, scale="diverging", limits=(-1, 1), value_label="cosine")
        note = f"Mean |cosine| {r['absolute']:.3f}; of random directions {r['random']:.3f}."
        blocks.append(Figure(grid, f"Router rows among each other, layer {r['layer']}", note))
    history = of_kind(records, "history")
    if history:
        rows = [[r["layer"], r["weights"], r["matched"], r["mismatched"]] for r in history]
        caption = "Cosine with the sum of the states that training routed to an expert (gate rows: without sign)"
        blocks.append(Table(["layer", "weights", "own expert", "other experts"], rows, caption=caption))
    return blocks or [Prose("Nothing is measured yet.")]


def geometry_blocks(records: Sequence[Record]) -> list[Block]:
    """Agreement of centroids with the router, and perplexity with them in its place."""
    agreed, replaced = of_kind(records, "agreement"), of_kind(records, "replaced")
    if not agreed:
        return [Prose("Nothing is measured yet.")]
    rows = [[r["layer"], r["agreement"], r["control"], r["chance"]] for r in agreed]
    heads = ["layer", "experts in common", "each centroid's neighbour", "chance"]
    blocks: list[Block] = [Table(heads, rows, caption="Centroids' choice beside the router's")]
    if replaced:
        found = {r["choice"]: r["perplexity"] for r in replaced}
        items = [
            number("the router's own choice", found["own"]),
            number("centroids in every layer", found["centroids"]),
        ]
        blocks.append(Numbers([*items, number("chance in every layer", found["random"])]))
        blocks.append(
            Prose("Perplexity when another choice of experts is made; the weights of those chosen stay the router's.")
        )
    return blocks


def expert_blocks(records: Sequence[Record]) -> list[Block]:
    """What tells experts apart, their favourite tokens, and a sentence as it is routed."""
    kinds = of_kind(records, "specialization")
    if not kinds:
        return [Prose("Nothing is measured yet.")]
    rows = [[r["layer"], r["by"], r["explained"], r["control"], r["more"]] for r in kinds]
    heads = ["layer", "by", "explained", "with labels shuffled", "more"]
    blocks: list[Block] = [Table(heads, rows, caption="Share of the first expert's entropy that is explained")]
    for r in of_kind(records, "sentence"):
        layers = list(r["experts"])
        cells = [[str(expert) for expert in r["experts"][layer]] for layer in layers]
        values = [[float(expert) for expert in r["experts"][layer]] for layer in layers]
        grid = heat_map(values, layers, r["tokens"], cell_text=cells, row_title="layer", value_label="expert")
        blocks.append(Figure(grid, "A text as it is routed", "The first expert of every token, layer by layer."))
    for r in of_kind(records, "favourites"):
        listed = [[number, "  ".join(tokens)] for number, tokens in enumerate(r["experts"])]
        blocks.append(Details(f"Favourite tokens, layer {r['layer']}", [Table(["expert", "tokens"], listed)]))
    return blocks


def _balanced_by(name: str) -> str:
    """What keeps loads even in a run of this name."""
    groups = {"aux": "balancing loss", "loss-free": "bias", "kmeans": "running means"}
    return next((group for start, group in groups.items() if name.startswith(start)), "other")


def front_blocks(records: Sequence[Record]) -> list[Block]:
    """Perplexity against unevenness of every run, a table of all measures, unevenness by step."""
    found = of_kind(records, "compared")
    if not found:
        return [Prose("Nothing is compared yet.")]
    points = [Point(r["max_violation"], r["perplexity"]["value"], r["name"], _balanced_by(r["name"])) for r in found]
    chart = scatter(
        points, x_label="largest load over the mean, less 1", y_label="perplexity", annotate=[r["name"] for r in found],
        log_x=all(point.x > 0 for point in points),
    )  # fmt: skip
    names = ("max_violation", "variation", "dead", "similarity", "score", "alignment", "agreement")
    rows = [[r["name"], r["seed"], r["perplexity"], *(r[name] for name in names)] for r in found]
    heads = [
        "run",
        "seed",
        "perplexity",
        "largest less 1",
        "deviation",
        "dead",
        "alike rows",
        "score",
        "aligned",
        "centroids",
    ]
    note = (
        "Alike rows: mean |cosine| of the router's rows among each other. Score: rank correlation of score and activation. "
        "Aligned: |cosine| of router and own expert over that with others. Centroids: share of experts that centroids choose too."
    )
    curves: dict[str, list[tuple[float, float]]] = {}
    plain_first = sorted(of_kind(records, "curve"), key=lambda r: (r["seed"], "=" in r["name"]))
    for r in plain_first:
        curves.setdefault(f"{r['name']}, seed {r['seed']}", []).append((r["step"], r["max_violation"]))
    drawn = dict(list(curves.items())[:_CURVES])
    uneven = line_chart(drawn, x_label="step", y_label="largest load over the mean, less 1", reference=0.0)
    return [
        Figure(chart, "What balance costs", "Down and to the left is better."), Table(heads, rows), Prose(note),
        Figure(uneven, "Unevenness by step"),
    ]  # fmt: skip
