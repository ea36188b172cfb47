"""The tour's chapter: the same questions with and without reasoning, and with what could stand in its place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shammie.recall.page import help_blocks, mechanism_blocks, trace_blocks
from shammie.report import Block, Chapter, Context, Prose

Record = dict[str, Any]
CONDITIONS = ("off", "on", "single", "dummy", "on-facts", "on-dummy-facts")


def measure(context: Context, _settings: object = None) -> Iterator[Record]:
    """Capitals of populous countries, asked a few times under each condition."""
    from shammie.core.backends import LocalBackend
    from shammie.recall.data import load_questions
    from shammie.recall.evaluate import contrasts, curves, effectiveness, shown_ks, traces
    from shammie.recall.knowledge import load_knowledge
    from shammie.recall.reporting import listed
    from shammie.recall.sample import Sampler
    from shammie.recall.samples import Samples
    from shammie.recall.settings import RecallSettings, SwitchSettings
    from shammie.recall.switch import Prompter, settle

    asked = load_questions("geonames:countries", relations=("capital",)).questions[: context.size(10, 60)]
    settings = RecallSettings(
        conditions=CONDITIONS, samples=max(2, context.size(4, 16)), more=0, trace_tokens=context.size(40, 128), answer_tokens=16,
        seed=context.seed,
    )  # fmt: skip
    model = context.model
    prompter = Prompter(model, settle(model, SwitchSettings()))
    sampler = Sampler(LocalBackend(model, rows=64), prompter, asked, settings, load_knowledge("geonames:"))
    samples = Samples(model.name, settings.samples, 0)
    for question in asked:
        samples.add({"kind": "question", **vars(question)})
    for record in sampler.everything(range(len(asked))):
        samples.add(record)
    yield {"kind": "setting", "questions": len(asked), "samples": settings.samples, "switch": prompter.switch.kind}
    yield from curves(samples, shown_ks(samples), context.seed)
    yield from effectiveness(samples, context.seed)
    yield from contrasts(samples, context.seed)
    yield from traces(samples)
    yield from list(listed(samples))[:6]


def draw(records: list[Record]) -> list[Block]:
    """Whether it helps, why, and what was written."""
    setting = records[0]
    how = {
        "template": "by its chat template", "prompts": "by a turn of its own before the question",
        "text": "by a line before the answer",
    }[setting["switch"]]  # fmt: skip
    return [
        Prose(
            f"{setting['questions']} capitals, each asked {setting['samples']} times under every condition. Reasoning is "
            f"switched on {how}. A single fact needs no steps, so what could reasoning add: time to compute, or facts that bring "
            "the answer to mind? Meaningless tokens of the same length, and the facts alone, tell the two apart."
        ),
        *help_blocks(records),
        *mechanism_blocks(records),
        *trace_blocks(records),
    ]


CHAPTER = Chapter(
    "recall", "Does it recall more when it thinks first?",
    "Can the model answer more questions after reasoning, and is it the computation or the facts it writes?",
    "shammie tour --only recall", measure, draw,
)  # fmt: skip
