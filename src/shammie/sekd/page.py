"""The pages of training and evaluation, and the pictures that the tour shares with them; drawn from records alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shammie.report import (
    Block,
    Figure,
    Number,
    Numbers,
    Prose,
    Section,
    Table,
    interval_bars,
    line_chart,
    number,
    of_kind,
    render_page,
)

if TYPE_CHECKING:
    from shammie.core.run import RunRecord

Record = dict[str, Any]


def train_page(record: RunRecord) -> str:
    """What the student was before and after, and how the loss fell."""
    config = record.config
    taught = config["recipe"] or f"{config['distill']['policy']} by {config['distill']['signal']}"
    teacher = config["teacher"] or f"cache {str(config['cache']).rsplit('/', 1)[-1]}"
    facts = [("student", _name(config["student"])), ("teacher", _name(teacher)), ("taught", taught)]
    blocks = [*outcome(record.results), *curves(record.results)]
    section = Section(
        "student", "The student", "How near has the student come to its teacher?", "shammie sekd train", blocks
    )
    return render_page(
        "A student distilled", "Selective knowledge distillation: which positions, which classes, which texts.", facts, [section],
        footer="Every step stands in artifacts/training/metrics.jsonl.", eyebrow="shammie sekd train",
    )  # fmt: skip


def _name(source: str) -> str:
    return str(source).rstrip("/").rsplit("/", 1)[-1]


def outcome(records: list[Record]) -> list[Block]:
    """Distance to the teacher and perplexity on held-out windows, before beside after."""
    rows = [record for record in records if record.get("when") in ("before", "after")]
    if not any(record["when"] == "after" for record in rows):
        return [Prose("Nothing was held out, so the student was not measured.")]
    found = {(record["when"], record["kind"], record.get("model")): record for record in rows}
    items = []
    after, before = (found.get((when, "divergence", None)) for when in ("after", "before"))
    if after and before:
        items.append(number("KL to the teacher, nats a position", after["kl"], number("before", before["kl"])))
        items.append(
            number("same likeliest token as the teacher", after["agreement"], number("before", before["agreement"]))
        )
    read = {when: found[when, "texts", "student"]["perplexity"] for when in ("before", "after")}
    items.append(number("perplexity", read["after"], number("before", read["before"])))
    known = (
        f" The teacher's perplexity is {found['after', 'texts', 'teacher']['perplexity']['value']:.1f}."
        if after
        else ""
    )
    note = "On windows held out from training, with intervals over windows; the control is the student before." + known
    return [Numbers(items), Prose(note)]


def curves(records: list[Record]) -> list[Block]:
    """The loss by step, and the scores of all positions beside those that were taught."""
    points, trained = of_kind(records, "loss"), of_kind(records, "trained")
    if not points:
        return []
    loss = {"loss": [(point["step"], point["loss"]) for point in points]}
    blocks: list[Block] = [
        Figure(line_chart(loss, x_label="step", y_label="loss at the taught positions, nats"), "The loss")
    ]
    if "score" in points[0]:
        scores = {
            "all positions": [(point["step"], point["score"]) for point in points],
            "taught positions": [(point["step"], point["chosen_score"]) for point in points],
        }
        drawing = line_chart(scores, x_label="step", y_label="mean score", controls=["all positions"])
        blocks.append(
            Figure(drawing, "What was taught", "The mean score of the positions that were chosen, beside that of all.")
        )
    rows = [[line["steps"], line["windows"], line["tokens"], line["positions"]] for line in trained]
    return [*blocks, Table(["steps", "windows", "positions read", "positions taught"], rows)]


def cost_bars(costs: list[Record]) -> Figure:
    """Multiplications of a step as a share of the dense step's."""
    dense = next(record["multiplications"] for record in costs if record["arm"] == "dense")
    items = [(record["label"], record["multiplications"] / dense, None, None, None, None) for record in costs]
    drawing = interval_bars(items, value_label="multiplications of a step, share of the dense one", limits=(0, 1))
    return Figure(drawing, "What a step costs", "Counted, not timed; the card has times and memory.")


def evaluate_page(record: RunRecord) -> str:
    """Distances and perplexities, answers, calibration and instructions, each with its interval and control."""
    config, results = record.config, record.results
    facts = [("student", _name(config["student"])), ("teacher", _name(config["teacher"] or "none"))]
    blocks = [*_texts(results), *_answers(results), *_calibration(results)] or [Prose("Nothing was measured.")]
    section = Section(
        "quality",
        "Quality",
        "How near is the student to its teacher, and what does it know?",
        "shammie sekd evaluate",
        blocks,
    )
    return render_page(
        "A student measured", "Distance to the teacher, knowledge, calibration, instructions.", facts, [section],
        footer="Every item stands in results.jsonl.", eyebrow="shammie sekd evaluate",
    )  # fmt: skip


def _texts(records: list[Record]) -> list[Block]:
    blocks: list[Block] = []
    for line in of_kind(records, "divergence"):
        uniform = number("a uniform student", line["uniform_kl"])
        blocks.append(Numbers([number("KL to the teacher, nats a position", line["kl"], uniform)]))
        blocks.append(Table(["between student and teacher", "mean"], [
            ["KL, student to teacher", line["reverse_kl"]], ["same likeliest token", line["agreement"]],
        ]))  # fmt: skip
    rows = [[line["model"], line["perplexity"], line.get("entropy")] for line in of_kind(records, "texts")]
    if not rows:
        return blocks
    note = Prose(
        "The unigram model knows the texts' own token frequencies and no context: the control of a perplexity."
    )
    return [*blocks, Table(["model", "perplexity", "entropy, nats"], rows, "Perplexity of the texts"), note]


def _answers(records: list[Record]) -> list[Block]:
    items = []
    for kind, label in (("last_words", "last words"), ("choices", "choices"), ("instructions", "instructions")):
        for line in of_kind(records, kind):
            found = line.get("accuracy") or line["prompts"]
            name = " · ".join((label, line["name"], line["model"]))
            chance = Number("chance", line["chance"]) if "chance" in line else None
            items.append(number(name, found, chance))
    drawing = interval_bars(items, value_label="share right", limits=(0, 1)) if items else None
    return [Figure(drawing, "What it knows", "The diamond is chance, where there is one.")] if drawing else []


def _calibration(records: list[Record]) -> list[Block]:
    series: dict[str, list[tuple[float, float]]] = {}
    for line in of_kind(records, "reliability"):
        name = f"{line['name']} · {line['model']}"
        series.setdefault(name, []).append((line["confidence"], line["accuracy"]))
    if not series:
        return []
    drawing = line_chart(series, x_label="confidence", y_label="share right", x_limits=(0, 1), y_limits=(0, 1))
    return [Figure(drawing, "How sure it is", "A model that knows what it knows lies on the diagonal.")]
