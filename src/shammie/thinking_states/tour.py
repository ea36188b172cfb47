"""The tour's chapter: the small model that comes with the package reads problems and thinks aloud."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shammie.report import (
    Block,
    Chapter,
    Context,
    Figure,
    Prose,
    Table,
    interval_bars,
    line_chart,
    of_kind,
    sample,
)
from shammie.thinking_states.page import causal_bars, thought_blocks

Record = dict[str, Any]
TASK = "parity"
LENGTHS = (5, 10, 20, 40, 100)


def measure(context: Context, _settings: object = None) -> Iterator[Record]:
    """Accuracy by length with thoughts and their causes, then a problem as it is read."""
    from typing import cast

    from shammie.thinking_states.config import SHIPPED
    from shammie.thinking_states.evaluate import answers, by_length, causal, passes
    from shammie.thinking_states.methods import Thinking
    from shammie.thinking_states.running import open_reasoner, read_record, tested_problems

    reasoner = cast(Thinking, open_reasoner(SHIPPED))
    count = context.size(20, 200)

    def examples(length: int) -> list[Any]:
        return [reasoner.layout.encode(problem) for problem in tested_problems(TASK, length, count, context.seed)]

    yield from by_length(reasoner, {length: examples(length) for length in LENGTHS})
    yield from causal(reasoner, examples(LENGTHS[1]))
    for prefill in ("sequential", "speculative"):
        yield passes(reasoner, examples(LENGTHS[1])[:8], prefill)
    for example in examples(LENGTHS[0])[:1]:
        one = answers(reasoner, [example])[0]
        yield {
            "kind": "shown", **read_record(reasoner.layout, example.question, one.thoughts), "answer": one.text,
            "right": one.right(example),
        }  # fmt: skip


def draw(records: list[Record]) -> list[Block]:
    """A problem with its thoughts, accuracy by length, and whose states decide."""
    found, thoughts = of_kind(records, "accuracy"), of_kind(records, "thoughts")
    curves = {
        "answers": [sample(r["length"], r["accuracy"]) for r in found],
        "thoughts": [sample(r["length"], r["free"]) for r in thoughts],
    }
    chart = line_chart(curves, x_label="operations", y_label="share that is right", y_limits=(0, 1), reference=0.5)
    bars = causal_bars(of_kind(records, "causal"))
    rows = [[r["prefill"], r["decoder"], r["blocks"]] for r in of_kind(records, "passes")]
    return [
        Prose(
            "A chain of thought is written after the question, one token at a time. A model with **thinking states** reasons while "
            "it reads: after every few words it makes a short thought, turns it back into vectors, and adds these to the words "
            "that come next. The thoughts never enter the text, and one can read them."
        ),
        *thought_blocks(of_kind(records, "shown")),
        Figure(
            chart,
            "Far beyond what was trained on",
            "Trained on up to ten operations; attention reaches back 12 tokens, states do the rest. Guessing gives one half.",
        ),
        Figure(
            interval_bars(bars, limits=(0, 1)),
            "Whose answer?",
            "Given another question's states it gives that question's answer.",
        ),
        Table(["prefill", "passes of the decoder", "passes of its blocks"], rows),
    ]


CHAPTER = Chapter(
    "thinking-states", "Thinking while reading", "Can a model reason before it has read to the end?",
    "shammie tour --only thinking-states", measure, draw,
)  # fmt: skip
