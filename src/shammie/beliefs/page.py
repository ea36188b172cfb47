"""The pages of the room's runs, from their records alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from shammie.report import (
    Block,
    Details,
    Figure,
    Numbers,
    Prose,
    Section,
    Table,
    heat_map,
    interval_bars,
    line_chart,
    number,
    of_kind,
    render_page,
)

if TYPE_CHECKING:
    from shammie.core.run import RunRecord

Record = dict[str, Any]
_SHOWN = 60  # tokens of a map


def trace_page(record: RunRecord) -> str:
    """The map of positions and layers."""
    return _page(
        record,
        "trace",
        "What the states hold",
        "Which belief surfaces where, while the model writes?",
        trace_blocks(record.results),
    )


def settings_page(record: RunRecord) -> str:
    """Frames beside one another."""
    return _page(
        record,
        "settings",
        "Beliefs by frame",
        "Does who says it change what the states hold?",
        settings_blocks(record.results),
    )


def intervene_page(record: RunRecord) -> str:
    """What moves the margin, and what its controls move."""
    return _page(
        record, "intervene", "Beliefs changed", "Do beliefs drive the choice?", intervene_blocks(record.results)
    )


def monitor_page(record: RunRecord) -> str:
    """What is said, beside what needs no looking inside."""
    title, question = "Beliefs reported", "Can the model say what it believed, and does it look inside for it?"
    return _page(record, "monitor", title, question, monitor_blocks(record.results))


def report_page(record: RunRecord) -> str:
    """The verdict, then what it rests on."""
    rows = [
        [r["claim"], r["clause"], r["against"], r["verdict"], r["estimate"]] for r in of_kind(record.results, "verdict")
    ]
    columns = ["claim", "clause", "beside", "verdict", "difference"]
    verdict: list[Block] = [
        Prose(
            "A clause is supported where the interval of its difference lies above zero, and opposed where it lies below. "
            "Intervals are not corrected for the number of clauses."
        ),
        Table(columns, rows),
    ]
    sections = [
        Section("verdict", "The verdict", "Which clauses hold, and beside what?", "shammie beliefs report", verdict)
    ]
    parts = {"settings": settings_blocks, "intervene": intervene_blocks, "monitor": monitor_blocks}
    titles = {"settings": "Beliefs by frame", "intervene": "Beliefs changed", "monitor": "Beliefs reported"}
    for part, blocks in parts.items():
        own = [r for r in record.results if r.get("part") == part]
        if own:
            sections.append(Section(part, titles[part], "", f"shammie beliefs {part}", blocks(own)))
    return render_page(
        "Beliefs", "Do hidden states hold beliefs that drive the choice, and can the model tell?",
        [("weights", str(record.inputs["model"])[:12])], sections, footer="Every reading stands in the runs' results.jsonl.",
        eyebrow="shammie beliefs report",
    )  # fmt: skip


def _page(record: RunRecord, name: str, title: str, question: str, blocks: list[Block]) -> str:
    section = Section(name, title, question, f"shammie beliefs {name}", blocks)
    facts = [("weights", str(record.inputs["model"])[:12])]
    if record.config["model"]:
        facts.insert(0, ("model", str(record.config["model"]).rsplit("/", 1)[-1]))
    return render_page(
        "Beliefs", "What hidden states hold while a model decides between what it knows and what it is told.", facts, [section],
        footer="Every reading stands in results.jsonl.", eyebrow=f"shammie beliefs {name}",
    )  # fmt: skip


def trace_blocks(records: Sequence[Record]) -> list[Block]:
    """What was written, the two dominances, and where they surface."""
    told, read = of_kind(records, "told"), of_kind(records, "dominance")
    if not told:
        return [Prose("Nothing is finished yet.")]
    grids = of_kind(records, "grid")
    found = read[0]
    counted = (
        f"The base belief dominates by {found['difference']:+.2f} over {found['positions']} of {found['of']} positions at which "
        "either surfaces."
        if found["positions"]
        else "Neither belief surfaces at any position, so there is nothing to compare."
    )
    blocks: list[Block] = [
        Prose(
            f"{told[0]['text'].strip() or '(nothing)'}\n\n**{counted}** As the answer the {told[0]['favours']} belief is likelier."
        ),
    ]
    return [*blocks, *(map_figure(grid) for grid in grids)]


def map_figure(grid: Record) -> Figure:
    """Positions by layers: the base belief at one end of the scale, the counter belief at the other."""
    base, counter = grid["hits"]["base"][:_SHOWN], grid["hits"]["counter"][:_SHOWN]
    values = [[float(b - c) for b, c in zip(*rows, strict=True)] for rows in zip(base, counter, strict=True)]
    decoded = grid.get("decoded")
    text = None if decoded is None else [[cell[:24] for cell in row] for row in decoded[:_SHOWN]]
    rows, columns = (
        [f"layer {layer}" for layer in grid["layers"]],
        [token.replace("\n", "⏎") for token in grid["tokens"]],
    )
    drawing = heat_map(
        _turned(values), rows, columns[:_SHOWN], cell_text=None if text is None else _turned(text), scale="diverging",
        limits=(-1, 1), row_title="layer", column_title="token", value_label="1 base, −1 counter, 0 neither or both",
    )  # fmt: skip
    return Figure(drawing, "Where the beliefs surface", "Each cell is one state, read after its token and layer.")


def _turned(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def settings_blocks(records: Sequence[Record]) -> list[Block]:
    """Dominance and choice by frame, frames in pairs, the way over time, and the link to the choice."""
    frames = of_kind(records, "frame")
    if not frames:
        return [Prose("The summary is not there yet; go on with --resume.")]
    favoured = [number(f["frame"], f["favours_counter"]) for f in frames]
    dominance = [
        number(f"{f['frame']}, {belief}", f[belief]) for f in frames for belief in ("base", "counter") if f[belief]
    ]
    rows = [
        [f["frame"], f["cases"], f["uncounted"], f["base_density"], f["counter_density"], f["third_density"]]
        for f in frames
    ]
    pairs = [
        [p["score"], f"{p['frame']} − {p['against']}", p["difference"], p["difference"]["p_value"], p["cases"]]
        for p in of_kind(records, "pair")
    ]
    links = [[c["frames"], c["score"], c["auroc"]] for c in of_kind(records, "choice")]
    return [
        Figure(interval_bars(favoured, value_label="share of cases that favour what they are told"), "What is answered"),
        Figure(interval_bars(dominance, value_label="dominance, over positions at which either surfaces"), "What the states hold"),
        Table(
            ["frame", "cases", "no position counts", "base, all positions", "counter, all positions", "third, all positions"], rows,
            "How often beliefs surface at all",
        ),
        *_path_figures(records),
        Details("Frames in pairs", [Table(["score", "frames", "difference", "p", "cases"], pairs)]),
        Table(["frames", "dominance", "AUROC for the base belief being favoured"], links, "Does dominance tell the choice?"),
    ]  # fmt: skip


def _path_figures(records: Sequence[Record]) -> list[Block]:
    found: list[Block] = []
    for belief in ("base", "counter"):
        own = [r for r in of_kind(records, "path") if r["belief"] == belief]
        series = {r["frame"]: [((at + 0.5) / len(r["share"]), v) for at, v in enumerate(r["share"])] for r in own}
        if series:
            chart = line_chart(series, x_label="share of the text written", y_label="share of states", x_limits=(0, 1))
            found.append(Figure(chart, f"The {belief} belief over time"))
    return found


def intervene_blocks(records: Sequence[Record]) -> list[Block]:
    """Moves of the margin by change, with the matched controls below."""
    rows = of_kind(records, "intervention")
    if not rows:
        return [Prose("The summary is not there yet; go on with --resume.")]
    control = {r["strength"]: r for r in rows if r["arm"] == "inject another entity"}
    removed = next((r for r in rows if r["arm"] == "remove another entity"), None)
    most = max(control, default=0.0)
    bars = []
    for r in rows:
        beside = (
            control.get(r["strength"])
            if r["arm"] == "inject"
            else removed
            if r["arm"] == "remove the favoured"
            else None
        )
        if r["arm"] not in ("zero", "inject another entity", "remove another entity"):
            name = r["arm"] if r["arm"].startswith("remove") else f"{r['arm']}, {r['strength']:g}"
            bars.append(number(name, r["move"], number("another entity", beside["move"]) if beside else None))
    table = [[r["arm"], r["strength"], r["move"], r["expected"], r["flips"], r["cases"]] for r in rows]
    cards = [
        number("moved as expected", r["expected"], number("another entity", control[most]["expected"]))
        for r in rows
        if r["arm"] == "inject" and r["strength"] == most
    ]
    return [
        Numbers(cards),
        Figure(
            interval_bars(bars, value_label="move of the margin towards the other belief, nats", reference=0.0),
            "What each change does to the margin between the beliefs",
            "The text stays as it was written; only states change.",
        ),
        Table(["change", "strength", "move", "as expected", "flips", "cases"], table, "In figures"),
    ]  # fmt: skip


def monitor_blocks(records: Sequence[Record]) -> list[Block]:
    """Balanced accuracy beside its controls, and what changed states do to what is said."""
    rows = of_kind(records, "balanced")
    if not rows:
        return [Prose("The summary is not there yet; go on with --resume.")]
    found = {(r["frame"], r["target"], r["arm"]): r["accuracy"] for r in rows}
    bars = []
    for frame, target in dict.fromkeys((r["frame"], r["target"]) for r in rows):
        permuted = number("permuted examples", found[frame, target, "permuted examples"])
        bars.append(number(f"{target}, {frame}", found[frame, target, "examples"], permuted))
    others = [
        [r["frame"], r["target"], r["arm"], r["accuracy"]]
        for r in rows
        if r["arm"] not in ("examples", "permuted examples")
    ]
    moves = [number(f"{r['target']}: {r['arm']}", r["difference"]) for r in of_kind(records, "moved")]
    one = [[r["frame"], r["target"], r["accuracy"], r["texts"]] for r in of_kind(records, "always one")]
    left_out = [[r["frame"], r["target"], r["why"]] for r in of_kind(records, "left out")]
    missing = [Table(["frame", "target", "why"], left_out, "Left out")] if left_out else []
    return [
        Prose(
            "Texts are sorted into three levels of dominance; the model is shown examples with their levels and labels others. "
            "A third is chance. What follows from the words of a text alone needs no looking inside: the probes below show how "
            "much that is, and the last figure whether what is said follows states that are changed while the text is not."
        ),
        Figure(
            interval_bars(bars, value_label="balanced accuracy", limits=(0, 1), reference=1 / 3),
            "Levels that the model names",
        ),
        Table(["frame", "target", "told from", "balanced accuracy"], others, "Without looking inside"),
        Figure(
            interval_bars(moves, value_label="move of the level that is said, of three", reference=0.0),
            "The counter belief is put into the states of the same texts",
            "`words that say so` is the foil: the states are left alone and the text is told.",
        ),
        *missing,
        Details("Always one level", [Table(["frame", "target", "accuracy", "texts"], one)]),
    ]
