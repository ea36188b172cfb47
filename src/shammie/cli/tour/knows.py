"""Chapter: what the model knows, and how that goes with how well known the subject is."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

from shammie.cli.tour.context import TourContext
from shammie.cli.tour.facts import Fact, capitals, cities
from shammie.report import Block, Chapter, Figure, Numbers, Point, Prose, Table, number, sample, scatter

Record = dict[str, Any]
_BINS = 6


def measure(context: TourContext, _settings: object = None) -> Iterator[Record]:
    """Greedy answers to capital and country questions, beside the same answers scored against shuffled truths."""
    for facts in (capitals(context.size(100, 190)), cities(context.size(120, 1000))):
        records = list(_ask(context, facts))
        yield from records
        yield from _accuracy(context, facts, records)


def _ask(context: TourContext, facts: Sequence[Fact]) -> Iterator[Record]:
    from shammie.core.answers import contains_match
    from shammie.core.generate import GenerationSettings, generate

    settings = GenerationSettings(max_new_tokens=6, stop=("\n",))
    completions = generate(context.model, [fact.prompt for fact in facts], settings, rows=64)
    for fact, completion in zip(facts, completions, strict=True):
        said = completion.answer or ""
        yield {
            "kind": "answer", "relation": fact.relation, "subject": fact.subject, "answer": fact.answers[0],
            "said": said.strip(), "correct": contains_match(said, fact.answers), "population": fact.population,
        }  # fmt: skip


def _accuracy(context: TourContext, facts: Sequence[Fact], records: list[Record]) -> Iterator[Record]:
    from shammie.core.answers import contains_match
    from shammie.core.stats import auroc_interval, permutation_test, proportion

    # The control keeps what was said and shuffles what counts as right: how often would such answers fit by chance?
    shuffled = list(facts)
    random.Random(context.seed).shuffle(shuffled)
    by_chance = sum(contains_match(r["said"], f.answers) for r, f in zip(records, shuffled, strict=True))
    right = [r["correct"] for r in records]
    relation = facts[0].relation
    yield {
        "kind": "accuracy", "relation": relation, "accuracy": proportion(sum(right), len(right)).as_dict(),
        "control": proportion(by_chance, len(right)).as_dict(),
    }  # fmt: skip
    if len(set(right)) < 2:
        return
    population = [math.log10(max(1, r["population"])) for r in records]
    test = permutation_test(
        [p for p, r in zip(population, right, strict=True) if r], [p for p, r in zip(population, right, strict=True) if not r],
        seed=context.seed,
    )  # fmt: skip
    yield {
        "kind": "fame", "relation": relation, "auroc": auroc_interval(population, right).as_dict(),
        "permutation_p": test.p_value,
    }  # fmt: skip
    size = -(-len(records) // _BINS)  # facts come largest first
    for start in range(0, len(records), size):
        group = records[start : start + size]
        middle = group[len(group) // 2]["population"]
        share = proportion(sum(r["correct"] for r in group), len(group)).as_dict()
        yield {"kind": "bin", "relation": relation, "population": middle, "accuracy": share}


def draw(records: list[Record]) -> list[Block]:
    """Accuracy with its control, accuracy against population, and a look at the answers."""
    blocks: list[Block] = []
    accuracies = [r for r in records if r["kind"] == "accuracy"]
    shown = [number(r["relation"], r["accuracy"], number("shuffled truths", r["control"])) for r in accuracies]
    blocks.append(Numbers(shown))
    blocks.append(
        Prose(
            "Each question is continued greedily and counts when the right name stands in the first few words. "
            "The control keeps what the model said and shuffles what counts as right."
        )
    )
    for row in accuracies:
        relation = row["relation"]
        answers = [r for r in records if r["kind"] == "answer" and r["relation"] == relation]
        fame = [r for r in records if r["kind"] == "fame" and r["relation"] == relation]
        points = [
            Point(r["population"], 1.0 if r["correct"] else 0.0, f"{r['subject']}: {r['said']}", _outcome(r))
            for r in answers
        ]
        bins = [r for r in records if r["kind"] == "bin" and r["relation"] == relation]
        trend = sorted(sample(r["population"], r["accuracy"]) for r in bins)
        note = _fame_note(fame[0]) if fame else ""
        drawing = scatter(
            points, x_label="population of the subject", y_label="answered correctly", log_x=True, y_limits=(0, 1), trend=trend,
            trend_label="share in sixths of the ranking", outcomes=("right", "wrong"),
        )  # fmt: skip
        blocks.append(Figure(drawing, f"The {relation}, against population", note))
        rows = [[r["subject"], r["answer"], r["said"], r["correct"]] for r in answers[:10]]
        blocks.append(
            Table(["subject", "truth", "the model says", "right"], rows, f"The ten most populous of {len(answers)}.")
        )
    return blocks


def _outcome(record: Record) -> str:
    return "right" if record["correct"] else "wrong"


def _fame_note(fame: Record) -> str:
    area = fame["auroc"]
    if area["low"] > 0.5:
        says = "Larger subjects are answered more often"
    elif area["high"] < 0.5:
        says = "Larger subjects are answered less often"
    else:
        says = "No clear relation with population at this number of facts"
    return (
        f"{says}: AUROC of population {area['value']:.2f} [{area['low']:.2f}, {area['high']:.2f}] (0.5 is no relation), "
        f"permutation p = {fame['permutation_p']:.3g}."
    )


CHAPTER = Chapter(
    "knows", "What it knows", "How many plain facts can it say, and does it depend on how well known the subject is?",
    "shammie tour --only knows", measure, draw,
)  # fmt: skip
