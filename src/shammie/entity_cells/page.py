"""The pages of a localization and of a report, from their records alone."""

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
    interval_bars,
    line_chart,
    number,
    of_kind,
    render_page,
    sample,
    scatter,
)

if TYPE_CHECKING:
    from shammie.core.run import RunRecord

Record = dict[str, Any]
_LISTED = 60
ARM_NAMES = {
    "own": "its own cell", "other": "another entity's cell", "other_same_layer": "another's, same layer",
    "random": "a random neuron",
    "own_group": "its own group", "other_group": "another's group", "mean_entity": "mean entity alone",
    "whole_layer": "its whole layer", "placeholder": "nothing", "entity_present": "the name itself",
}  # fmt: skip


def localize_page(record: RunRecord) -> str:
    """Where cells stand, and each entity's."""
    summary, cells = of_kind(record.results, "localization"), of_kind(record.results, "cell")
    blocks: list[Block] = [Prose("Nothing is finished yet.")] if not summary else []
    if summary:
        found = summary[0]
        blocks = [
            Numbers(
                [
                    number("entities with a cell", found["with_cell"]),
                    number("halves of the templates agree", found["halves_agree"]),
                ]
            ),
            Prose(
                f"{found['distinct_cells']} distinct cells; {found['collisions']} entities share theirs with another, "
                f"{found['template_neurons']} cells are among a made-up name's best. A cell that is found need not carry "
                "anything: `shammie entity-cells report` tests it."
            ),
            layer_figure([cell for cell in cells if cell["cell"]]),
            cell_table(cells),
        ]
    section = Section(
        "cells",
        "Cells",
        "Which neuron is active for one entity and few others?",
        "shammie entity-cells localize",
        blocks,
    )
    return _page(record, [section], "shammie entity-cells localize")


def report_page(record: RunRecord) -> str:
    """The atlas of a set."""
    results = record.results
    if not of_kind(results, "trust"):
        blocks: list[Block] = [Prose("The summary is not there yet; go on with --resume.")]
    else:
        blocks = [
            *trust_blocks(results),
            *atlas_blocks(results),
            *injection_blocks(results),
            *depth_blocks(results),
            *form_blocks(results),
        ]
    section = Section(
        "atlas",
        "The atlas",
        "Which entities hang on one neuron, and what does it carry?",
        "shammie entity-cells report",
        blocks,
    )
    return _page(record, [section], "shammie entity-cells report")


def _page(record: RunRecord, sections: list[Section], eyebrow: str) -> str:
    facts = [("weights", str(record.inputs["model"])[:12])]
    return render_page(
        "Entity cells", "Neurons that stand for one entity: found by activity, tested by intervention.", facts, sections,
        footer="Every reading stands in results.jsonl.", eyebrow=eyebrow,
    )  # fmt: skip


def layer_figure(cells: Sequence[Record]) -> Figure:
    """How many cells stand in each layer."""
    layers = [cell["layer"] for cell in cells]
    counts = [(f"layer {layer}", layers.count(layer)) for layer in sorted(set(layers))]
    drawing = interval_bars(counts, value_label="entities") if counts else "No entity has a cell."
    return Figure(drawing, "Where the cells stand")


def cell_table(cells: Sequence[Record]) -> Table:
    """Each entity's cell."""
    rows = [
        [
            c["entity"],
            c["cell"] or "none",
            c.get("mean_z"),
            c.get("uniqueness"),
            c.get("dominance"),
            c.get("shared_by"),
            c["halves_agree"],
        ]
        for c in cells[:_LISTED]
    ]
    columns = ["entity", "cell", "mean z", "uniqueness", "dominance", "shared by", "halves agree"]
    return Table(columns, rows, f"The first {len(rows)} of {len(cells)} entities")


def trust_blocks(records: Sequence[Record]) -> list[Block]:
    """The share of trusted cells with its control, and losses by arm."""
    trusts, ablations = of_kind(records, "trust"), of_kind(records, "ablation")
    main = trusts[0]
    control = main["another_entitys_cell"]
    cards = [
        number(
            "entities with a trusted cell",
            main["trusted"],
            number("given another's cell", control) if control else None,
        )
    ]
    cards.append(number("and it is no other entity's cell", main["exclusive"]))
    cards += [
        number(
            f"the same, read on {', '.join(t['relations'])}",
            t["trusted"],
            number("given another's cell", t["another_entitys_cell"]),
        )
        for t in trusts[1:]
        if t["another_entitys_cell"]
    ]
    chosen = [a for a in ablations if a["scale"] == main["scale"] and a["relation"] == "all" and not a["everywhere"]]
    bars = [
        number(ARM_NAMES[a["arm"]], a["loss"]) for a in sorted(chosen, key=lambda a: list(ARM_NAMES).index(a["arm"]))
    ]
    every = [
        [
            ARM_NAMES[a["arm"]],
            a["scale"],
            a["everywhere"],
            a["relation"],
            a["loss"],
            a["signed_loss"],
            a["log_likelihood_drop"],
            a["knowledge"],
        ]
        for a in ablations
    ]
    columns = [
        "neurons",
        "times",
        "at all tokens",
        "relation",
        "clipped loss",
        "signed loss",
        "drop of log-likelihood",
        "knowledge score",
    ]
    return [
        Numbers(cards),
        Figure(
            interval_bars(bars, value_label="share of the answer's probability that is lost", limits=(0, 1)),
            f"Amnesia: neurons at the entity's last token times {main['scale']:g}",
            "Known facts; clipped loss, 95 % intervals by entity.",
        ),
        Details("All scales and relations", [Table(columns, every, "Ablations")]),
    ]


def atlas_blocks(records: Sequence[Record]) -> list[Block]:
    """Every entity by popularity and loss."""
    entities = [r for r in of_kind(records, "entity") if r["loss"] is not None]
    popular = of_kind(records, "popularity")
    outcomes = {True: "trusted", False: "not trusted"}
    known = all(entity["popularity"] > 0 for entity in entities)
    points = [
        Point(e["popularity"] if known else rank + 1, e["loss"], f"{e['entity']}, {e['cell']}", outcomes[e["trusted"]])
        for rank, e in enumerate(entities)
    ]
    drawing = scatter(
        points, x_label="popularity" if known else "place in the set", y_label="loss by its own cell", log_x=known, y_limits=(0, 1),
        outcomes=tuple(outcomes.values()),
    )  # fmt: skip
    note = ""
    if popular and (area := popular[0]["auroc"]):
        note = f"AUROC of popularity for trust: {area['value']:.2f} [{area['low']:.2f}, {area['high']:.2f}]; 0.5 is no relation."
    rows = [
        [e["entity"], e["cell"], e["shared_by"], e["loss"], e["loss_from_another_cell"], e["trusted"]]
        for e in sorted(entities, key=lambda e: -e["loss"])[:_LISTED]
    ]
    table = Table(
        ["entity", "cell", "shared by", "loss", "loss by another's cell", "trusted"], rows, "Entities by loss"
    )
    return [
        Figure(drawing, "The atlas: popularity and amnesia", note),
        layer_figure([e for e in entities if e["trusted"]]),
        Details("Entities", [table]),
    ]


def injection_blocks(records: Sequence[Record]) -> list[Block]:
    """Recall at a placeholder, at the strength chosen beforehand, and in-sample."""
    rows = of_kind(records, "injection")
    held = [row for row in rows if not row["in_sample"]]
    if not held:
        return []
    bars = [number(ARM_NAMES[row["arm"]], row["relprob"]) for row in held]
    table = [
        [
            ARM_NAMES[row["arm"]],
            row["strength"],
            row["in_sample"],
            row["relprob"],
            row["pass_at_5"],
            row["log_likelihood"],
        ]
        for row in rows
    ]
    columns = ["injected", "strength", "strength chosen on the same facts", "RelProb", "pass@5", "log-likelihood"]
    return [
        Figure(
            interval_bars(bars, value_label="probability of the answer, as a share of that with the name"),
            "Recall: an X in place of the name, and what is written at it",
            "Strength chosen on one relation and read on the others.",
        ),
        Details("Every condition, also with the strength chosen in-sample", [Table(columns, table, "Injections")]),
    ]


def depth_blocks(records: Sequence[Record]) -> list[Block]:
    """The entity's own states put at the placeholder, layer by layer."""
    rows = of_kind(records, "depth_curve")
    if not rows:
        return []
    names = {"residual": "stream after it", "mlps": "MLPs up to it"}
    series = {
        name: [sample(row["layer"], row["relprob"]) for row in rows if row["arm"] == arm] for arm, name in names.items()
    }
    drawing = line_chart(series, x_label="layer", y_label="RelProb")
    note = "A jump at one early layer is compact retrieval; a slow rise over many is gradual enrichment."
    return [Figure(drawing, "How deep the entity is before its facts can be read", note)]


def form_blocks(records: Sequence[Record]) -> list[Block]:
    """Other spellings of the names."""
    forms = of_kind(records, "form")
    kinds = sorted({form["form_kind"] for form in forms})
    rows = []
    for kind in kinds:
        own = [form for form in forms if form["form_kind"] == kind]
        same = sum(form["same_cell"] for form in own)
        unique = sum(form["rank"] is not None for form in own)
        rows.append([kind, len(own), same, unique])
    blocks: list[Block] = []
    if rows:
        blocks.append(Table(["form", "names", "same best cell", "cell still unique"], rows, "Surface forms"))
    injected = {(r["form_kind"], r["arm"]): r for r in of_kind(records, "form_injection")}
    titles = {
        "own_at_form": "the entity's cell, as active as for the form", "form": "the form's own best cell",
        "form_group": "the form's best cells together",
    }  # fmt: skip
    arms = [arm for arm in titles if ("all", arm) in injected]
    if arms:
        shown = [
            [kind, injected[kind, arms[0]]["forms"], *(injected[kind, arm]["relprob"] for arm in arms)]
            for kind in dict.fromkeys(kind for kind, _ in injected)
        ]
        head = ["form", "readings", *(titles[arm] for arm in arms)]
        blocks.append(Table(head, shown, "Recall (RelProb) by what other forms of the name put at the placeholder"))
    return blocks
