"""The room's pages and the blocks that its tour chapter shares with them; drawn from records alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shammie.report import (
    Block,
    Details,
    Figure,
    Numbers,
    Prose,
    Section,
    Table,
    TextPair,
    line_chart,
    number,
    of_kind,
    render_page,
    sample,
)

Record = dict[str, Any]
_PAIRS, _TOKENS = 6, 60


def outcome_numbers(records: Sequence[Record], style: str = "choice") -> Block:
    """Efficacy, specificity and coherence, each beside the random-feature control."""
    ours = of_kind(records, "outcome", arm="erased", format=style, values="hits")
    control = of_kind(records, "outcome", arm="random features", format=style, values="hits")
    if not ours or "unknown" in ours[0]:
        return Prose(f"The untouched model cannot do the questions as {style}.")
    cards = []
    for name in ("efficacy", "specificity", "coherence"):
        beside = number("random features", control[0][name]) if control and "unknown" not in control[0] else None
        cards.append(number(name, ours[0][name], beside))
    return Numbers(cards)


def outcome_table(records: Sequence[Record]) -> Block:
    """Every format and arm."""
    names = ("accuracy_before", "accuracy", "efficacy", "similar", "general", "coherence")
    rows = [
        [r["arm"], r["format"], r["values"], *(r.get(name) for name in names)]
        for r in of_kind(records, "outcome")
        if "unknown" not in r
    ]
    columns = [
        "arm",
        "format",
        "values",
        "accuracy before",
        "accuracy",
        "efficacy",
        "similar kept",
        "general kept",
        "coherence",
    ]
    return Table(columns, rows, "Test questions, never looked at while settings were chosen.")


def strength_figure(records: Sequence[Record]) -> Block:
    """What each strength did on the validation split, and which was chosen."""
    lines = of_kind(records, "strength")
    curves = {name: [sample(r["delta"], r[name]) for r in lines] for name in ("efficacy", "specificity", "coherence")}
    chosen = of_kind(records, "chosen")
    note = f"Chosen: {chosen[0]['delta']:g}, the best harmonic mean." if chosen and chosen[0]["delta"] else ""
    if chosen and chosen[0].get("bracketed") is False:
        note += " It stands at an end of the grid."
    return Figure(
        line_chart(curves, x_label="strength", y_label="share", log_x=True, y_limits=(0, 1)),
        "Strength against what it does, on the validation questions",
        note,
    )


def answer_pairs(records: Sequence[Record], questions: Mapping[int, str] | None = None) -> list[Block]:
    """Open answers to the concept's questions, before and after."""

    def said(arm: str) -> dict[int, Record]:
        own = of_kind(records, "answer", arm=arm, split="test", set="questions", format="open")
        return {r["question"]: r for r in own}

    before, after = said("untouched"), said("erased")
    order = sorted(before, key=lambda i: (-before[i]["hit"], after[i]["hit"] if i in after else 1, i))
    return [
        TextPair(before[i]["said"], after[i]["said"], prompt=(questions or {}).get(i, f"question {i + 1}"))
        for i in order[:_PAIRS]
        if i in after
    ]


def token_blocks(records: Sequence[Record]) -> list[Block]:
    """Which tokens are edited, and where on texts about the concept that costs."""
    tokens = sorted(of_kind(records, "edited_token"), key=lambda r: -r["size"])
    costs = of_kind(records, "cost", arm="erased")
    blocks: list[Block] = []
    if tokens:
        words = ", ".join(f"`{r['text'].strip() or r['text']!s}`" for r in tokens[:_TOKENS])
        blocks.append(Prose(f"**{len(tokens)} tokens are edited**, the strongest change first: {words}."))
    if costs:
        rows = [[r["place"], r["tokens"], r["share"], r["added_loss"]] for r in costs]
        caption = "Loss added to each token of paragraphs about the concept, by whether an edited token was read."
        blocks.append(Table(["place", "tokens", "share of the text", "added loss"], rows, caption))
    return blocks


def feature_fold(records: Sequence[Record]) -> list[Block]:
    """The features that passed, folded away."""
    found = of_kind(records, "feature")
    rows = [
        [r["factorization"], ", ".join(w.strip() for w in r["tokens"][:10]), r["ratio"], r["keyness_p"], r["test_p"]]
        for r in found
    ]
    if not rows:
        return []
    table = Table(["factorization", "strongest tokens", "activity ratio", "keyness p", "permutation p"], rows)
    return [Details(f"The {len(rows)} features that passed", [table])]


def erase_page(record: Mapping[str, Any]) -> str:
    """The report of `shammie ember erase`."""
    results, config = record["results"], record["config"]
    asked = {r["number"]: r["text"] for r in of_kind(results, "question")}
    sections = [
        Section("outcome", "What was erased", "Is the concept gone, and is everything else still there?", "", [
            outcome_numbers(results), outcome_table(results), *answer_pairs(results, asked),
        ]),
    ]  # fmt: skip
    if of_kind(results, "strength"):
        sections.append(
            Section(
                "strength", "How strongly", "Which strength, and by what was it chosen?", "", [strength_figure(results)]
            )
        )
        blocks = [*token_blocks(results), *feature_fold(results)]
        sections.append(
            Section("tokens", "Which tokens paid", "Where in the vocabulary and the texts is the cost?", "", blocks)
        )
    if cells := of_kind(results, "cell"):
        rows = [
            [r["cell"], r["settings"], r["efficacy"], r["specificity"], r["coherence"], r["overall"]] for r in cells
        ]
        table = Table(
            ["cell", "settings", "efficacy", "specificity", "coherence", "harmonic mean"], rows, "Validation split."
        )
        sections.append(Section("cells", "The eraser on top", "Which of its settings?", "", [table]))
    facts = [
        ("model", config["model"]),
        ("concept", config["concept"]),
        ("weights", str(record["inputs"]["model"])[:12]),
    ]
    facts += [
        ("method", str(config["method"] or "EMBER alone")),
        ("seed", str(config["seed"])),
        ("made", record["started"][:10]),
    ]
    return render_page(
        f"Erasing {record['inputs']['concept']}", "What a concept's removal from the embeddings did, beside its controls.", facts,
        sections, footer="Every number stands in results.jsonl beside this page.", eyebrow="shammie ember erase",
    )  # fmt: skip


def relearning_figure(records: Sequence[Record], kind: str, *, arms: Sequence[str] = ("untouched", "erased")) -> Block:
    """Accuracy on the concept against steps of relearning."""
    curves = {}
    for arm in arms:
        start = of_kind(records, "answered", arm=arm, attack="none", set="questions")
        lines = of_kind(records, "answered", arm=arm, attack=kind, set="questions")
        first = min((r["seed"] for r in lines), default=0)
        curves[arm] = [sample(r["step"], r["accuracy"]) for r in [*start, *(r for r in lines if r["seed"] == first)]]
    drawing = line_chart(
        {name: curve for name, curve in curves.items() if curve}, x_label="steps of relearning",
        y_label="test questions answered", y_limits=(0, 1), reference=0.25, controls=[a for a in arms if a == "untouched"],
    )  # fmt: skip
    return Figure(drawing, f"Relearning ({kind})", "The line at 0.25 is what guessing among four choices gives.")


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}" if len(values) > 1 else ""


def attack_page(record: Mapping[str, Any]) -> str:
    """The report of `shammie ember attack`."""
    results, config = record["results"], record["config"]
    rows = [
        [r["attack"], len(r["by_seed"]), r["untouched"], r["erased"], _range(r["by_seed"]), r["difference"]]
        for r in of_kind(results, "regained")
    ]
    blocks: list[Block] = [
        Table(
            ["attack", "seeds", "untouched model", "erased model", "its seeds", "difference"], rows,
            "Share of the concept's test questions answered (choices) after each attack.",
        )
    ]  # fmt: skip
    blocks += [relearning_figure(results, kind) for kind in config["kinds"] if kind in ("full", "lora")]
    facts = [("model", config["model"]), ("concept", config["concept"]), ("patch", str(record["inputs"]["patch"])[:12])]
    return render_page(
        f"Attacking the erasure of {record['inputs']['concept']}", "What comes back, and how fast.", facts,
        [Section("attacks", "What comes back", "Can the concept be regained?", "", blocks)],
        footer="Every number stands in results.jsonl beside this page.", eyebrow="shammie ember attack",
    )  # fmt: skip
