"""The pages of the room's runs, from their records alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from shammie.report import (
    Block,
    Figure,
    Number,
    Prose,
    Section,
    Table,
    interval_bars,
    line_chart,
    number,
    of_kind,
    render_page,
    sample,
)

if TYPE_CHECKING:
    from shammie.core.run import RunRecord

Record = dict[str, Any]
NAMES = {
    "thinking": "thinking states", "direct": "no reasoning", "cot": "chain of thought", "icot": "implicit chain",
    "coconut": "Coconut",
}  # fmt: skip
_CONTROL = NAMES["direct"]


def train_page(record: RunRecord) -> str:
    """Loss and checks by step, then what the model can do."""
    config = record.config
    sections = [
        Section(
            "training", "Training", "Does it learn?", "shammie thinking-states train", curve_blocks(record.results)
        ),
        *measured_sections(record.results, "shammie thinking-states train"),
    ]
    facts = [("task", str(config["task"])), ("method", NAMES[config["reasoning"]["method"]])]
    return render_page(
        "Reasoning, trained", "How far it carries beyond what was trained on.", facts, sections,
        footer="Every step stands in artifacts/training/metrics.jsonl.", eyebrow="shammie thinking-states train",
    )  # fmt: skip


def evaluate_page(record: RunRecord) -> str:
    """What a model can do."""
    facts = [("model", str(record.config["model"])), ("task", str(record.config["task"]))]
    return render_page(
        "Reasoning, measured", "Accuracy, thoughts, states.", facts,
        measured_sections(record.results, "shammie thinking-states evaluate"),
        footer="Every figure stands in results.jsonl.", eyebrow="shammie thinking-states evaluate",
    )  # fmt: skip


def think_page(record: RunRecord) -> str:
    """A text with its thoughts."""
    answer = of_kind(record.results, "answer")
    blocks = [
        *thought_blocks([record_of(record.results)]),
        Prose(f"Answer: **{answer[0]['answer'] or 'none'}**" if answer else ""),
    ]
    section = Section(
        "thoughts", "Thoughts", "What does it think while it reads?", "shammie thinking-states think", blocks
    )
    return render_page(
        "A text, read with thoughts", "A thought after every few words.", [("model", str(record.config["model"]))], [section],
        footer="Every figure stands in results.jsonl.", eyebrow="shammie thinking-states think",
    )  # fmt: skip


def compare_page(record: RunRecord) -> str:
    """Every way to reason on one task."""
    found, command = record.results, "shammie thinking-states compare"
    sections = [
        Section("accuracy", "Accuracy by length", "Which way of reasoning carries on?", command, compare_blocks(found)),
        Section("cost", "What an answer costs", "How often must the model run?", command, cost_blocks(found)),
    ]  # fmt: skip
    return render_page(
        "Ways to reason compared", "Same problems, weights and stopping rule.", [], sections,
        footer="Every figure stands in results.jsonl.", eyebrow="shammie thinking-states compare",
    )  # fmt: skip


def measured_sections(records: Sequence[Record], command: str) -> list[Section]:
    """Accuracy, states, and problems as they are answered."""
    return [
        Section("accuracy", "Accuracy", "How far does it carry?", command, accuracy_blocks(records)),
        Section("states", "States", "Do the answers come from the states?", command, state_blocks(records)),
        Section("problems", "Thoughts", "What does it think while it reads?", command, thought_blocks(of_kind(records, "shown"))),
    ]  # fmt: skip


def curve_blocks(records: Sequence[Record]) -> list[Block]:
    """Loss by step and accuracy of the checks."""
    points = of_kind(records, "curve")
    if not points:
        return [Prose("Nothing is trained yet.")]
    names = [name for name in ("answer", "thought", "written") if name in points[0]]
    loss = line_chart({n: [(p["step"], p[n]) for p in points] for n in names}, x_label="step", y_label="loss, nats")
    blocks: list[Block] = [Figure(loss, "The loss", "Of answers and thoughts by question, of written text by token.")]
    if checks := of_kind(records, "check"):
        chart = line_chart(
            {"right answers": [(c["step"], c["accuracy"]) for c in checks]},
            x_label="step",
            y_label="share",
            y_limits=(0, 1),
        )
        blocks.append(Figure(chart, "Checks on problems as long as those trained on"))
    if dropped := of_kind(records, "dropped"):
        blocks.append(Table(["row", "why it was dropped"], [[r["row"], r["why"]] for r in dropped]))
    return blocks


def accuracy_blocks(records: Sequence[Record]) -> list[Block]:
    """Answers and thoughts by length."""
    found = of_kind(records, "accuracy")
    if not found:
        return [Prose("Nothing is measured yet.")]
    thoughts = {r["length"]: r for r in of_kind(records, "thoughts")}
    rows = [
        [
            r["length"] or "all",
            r["accuracy"],
            r["unread"],
            *(thoughts[r["length"]][k] for k in ("forced", "free", "cut") if thoughts),
        ]
        for r in found
    ]
    heads = [
        "operations",
        "right answers",
        "no answer",
        *(["thoughts, after right ones", "after its own", "cut off"] if thoughts else []),
    ]
    blocks: list[Block] = []
    if len(found) > 1:
        curves = {"answers": [sample(r["length"], r["accuracy"]) for r in found]}
        if thoughts:
            curves |= {"after right thoughts": [sample(n, r["forced"]) for n, r in thoughts.items()]}
            curves |= {"after its own": [sample(n, r["free"]) for n, r in thoughts.items()]}
        chart = line_chart(curves, x_label="operations", y_label="share that is right", y_limits=(0, 1))
        blocks.append(Figure(chart, "Accuracy by length"))
    return [*blocks, Table(heads, rows)]


def state_blocks(records: Sequence[Record]) -> list[Block]:
    """Answers with the own states, without any, and with another question's."""
    found = of_kind(records, "causal")
    if not found:
        return [Prose("There are no states here, or no two questions that could swap them.")]
    bars = causal_bars(found)
    note = "Given another question's states, a model that reasons by them gives that question's answer."
    return [Figure(interval_bars(bars, limits=(0, 1)), "Whose answer?", note)]


def causal_bars(found: Sequence[Record]) -> list[Number]:
    """Share of own answers and of the other question's, under each kind of states."""
    named = {"own": "its own states", "none": "no states", "another's": "another's states"}
    kinds = {"accuracy": "own answer", "donor": "the other's answer"}
    return [number(f"{named[r['states']]}: {kinds[kind]}", r[kind]) for kind in kinds for r in found]


def thought_blocks(shown: Sequence[Record]) -> list[Block]:
    """Each question chunk by chunk, with the thought after each."""
    blocks: list[Block] = []
    for r in shown:
        rows = [[text, thought or "·"] for text, thought in zip(r["chunks"], r["thoughts"], strict=False)]
        verdict = (
            "" if r.get("right") is None else f"Answer: {r['answer'] or 'none'}, {'right' if r['right'] else 'wrong'}."
        )
        blocks.append(Table(["read", "thought"], rows, caption=verdict))
    return blocks or [Prose("It has no thoughts while it reads.")]


def record_of(records: Sequence[Record]) -> Record:
    """The records of `think` as one question."""
    read = of_kind(records, "read")
    return {"chunks": [r["text"] for r in read], "thoughts": [r["thought"] for r in read]}


def compare_blocks(records: Sequence[Record]) -> list[Block]:
    """Accuracy by length, a curve a method over its seeds, and every seed's own."""
    found = of_kind(records, "accuracy")
    if not found:
        return [Prose("Nothing is compared yet.")]
    methods, lengths = list(dict.fromkeys(r["method"] for r in found)), sorted({r["length"] for r in found})
    seeds: dict[tuple[str, int], dict[int, Record]] = {}
    for r in found:
        seeds.setdefault((r["method"], r["seed"]), {})[r["length"]] = r
    rows = [
        [
            NAMES[method], seed, *(own[n]["accuracy"] if n in own else "" for n in lengths),
            sum(r["unread"] for r in own.values()) / len(own),
        ]
        for (method, seed), own in seeds.items()
    ]  # fmt: skip
    table = Table(
        ["method", "seed", *(f"{n} operations" if n else "right answers" for n in lengths), "share without answer"],
        rows,
    )
    points = {
        NAMES[method]: {n: across(own) for n in lengths if (own := [r for r in found if (r["method"], r["length"]) == (method, n)])}
        for method in methods
    }  # fmt: skip
    note = "Means over seeds, from the worst seed to the best; a seed alone has the interval of its problems."
    if len(lengths) == 1:
        bars = [number(name, own[lengths[0]]) for name, own in points.items()]
        return [Figure(interval_bars(bars, limits=(0, 1)), "Right answers", note), table]
    chart = line_chart(
        {name: [sample(n, estimate) for n, estimate in own.items()] for name, own in points.items()},
        x_label="operations", y_label="share of right answers", y_limits=(0, 1),
        controls=[_CONTROL] if _CONTROL in points else [],
    )  # fmt: skip
    return [Figure(chart, "Accuracy by length", note), table]


def across(seeds: Sequence[Record]) -> Record:
    """The mean accuracy of some seeds with its range; a seed alone keeps its interval."""
    if len(seeds) == 1:
        return seeds[0]["accuracy"]
    values = [r["accuracy"]["value"] for r in seeds]
    return {"value": sum(values) / len(values), "low": min(values), "high": max(values), "n": len(values)}


def cost_blocks(records: Sequence[Record]) -> list[Block]:
    """Forward passes of a question alone."""
    found = of_kind(records, "passes")
    if not found:
        return [Prose("Nothing is compared yet.")]
    bars = [number(f"{NAMES[r['method']]}, {r['prefill']}, seed {r['seed']}", r["decoder"]) for r in found]
    note = "One question at a time; passes of a thinking model's blocks, of one layer each, stand in results.jsonl."
    return [Figure(interval_bars(bars, value_label="passes of the decoder"), "Forward passes a question", note)]
