"""The tour's chapter: which tokens of a text a student would be taught, and a short distillation three ways."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shammie.report import (
    Block,
    Chapter,
    Context,
    Figure,
    Numbers,
    Prose,
    Table,
    line_chart,
    number,
    of_kind,
    token_strip,
)
from shammie.sekd.page import cost_bars
from shammie.sekd.settings import DistillSettings

if TYPE_CHECKING:
    from shammie.core.model import LanguageModel
    from shammie.core.windows import Windows
    from shammie.sekd.distill import Examples

Record = dict[str, Any]
ARMS = {
    "random 20 %": DistillSettings(policy="random"),
    "SE-KD 20 %": DistillSettings(),
    "every position": DistillSettings(policy="all"),
}
LEARNING_RATE, TOKENS = 3e-4, 65
_SUBJECTS = ("The old harbour", "A good teacher", "Bread", "The history of mathematics", "A river", "The first railway")
_VERBS = ("is known for", "was once", "can be described as")


def measure(context: Context, _settings: object = None) -> Iterator[Record]:
    """Costs by counting, three short trainings of the same student, and what the selective one would be taught next."""
    from shammie.core.windows import cut_windows
    from shammie.sekd.shrink import shrink
    from shammie.sekd.vocabulary import shared_vocabulary

    model: LanguageModel = context.model
    layers = max(2, len(model.anatomy.layers) // 2)
    student = shrink(model, layers)
    vocabulary = shared_vocabulary(student, model)
    windows = cut_windows(model.tokenizer, _texts(context), TOKENS)
    held = windows.take(range(context.size(3, 8)))
    taught = windows.take(range(len(held), len(windows)))
    yield {"kind": "setting", "layers": layers, "of": len(model.anatomy.layers), "windows": len(taught)}
    yield from _costs(student, model, vocabulary)
    for arm, settings in ARMS.items():
        student = shrink(model, layers)
        student.module.float()
        yield from _trained(context, arm, settings, student, taught, held, vocabulary)
        if arm.startswith("SE-KD"):
            yield from _lesson(student, held, vocabulary)


def _texts(context: Context) -> list[str]:
    """What the model itself has to say on a few subjects: text to learn from that needs no corpus."""
    from shammie.core.decoding import GenerationSettings
    from shammie.core.generate import generate

    settings = GenerationSettings(max_new_tokens=64, temperature=0.8, seed=context.seed)
    subjects = _SUBJECTS[: context.size(len(_SUBJECTS), len(_SUBJECTS))]
    openings = [f"{subject} {verb}" for subject in subjects for verb in _VERBS]
    found = generate(context.model, openings, settings)
    return [opening + one.text for opening, one in zip(openings, found, strict=True)]


def _costs(student: LanguageModel, teacher: LanguageModel, vocabulary: int) -> Iterator[Record]:
    from shammie.sekd.costs import dense_cost, step_cost

    dense = dense_cost(student, teacher, 1024, vocabulary)
    selective = step_cost(student, teacher, DistillSettings(), 1024, vocabulary)
    cached = step_cost(student, None, DistillSettings(classes="sampled"), 1024, vocabulary)
    arms = (("dense", "dense", dense.total), ("se-kd", "SE-KD: a fifth of the positions", selective.total))
    for arm, label, total in (*arms, ("3x", "SE-KD 3X: and a fifth of the texts, cached", cached.total // 5)):
        yield {"kind": "cost", "arm": arm, "label": label, "multiplications": total}
    yield {"kind": "logits", "dense": dense.logit_bytes, "selective": selective.logit_bytes}


def _trained(
    context: Context, arm: str, settings: DistillSettings, student: LanguageModel, taught: Windows, held: Windows,
    vocabulary: int,
) -> Iterator[Record]:  # fmt: skip
    """The distance to the teacher before, along the way and after."""
    from shammie.core.schedule import TrainSettings
    from shammie.sekd.distill import Distiller, Examples
    from shammie.sekd.evaluate import read_windows, summarize_windows
    from shammie.sekd.training import train, trainable

    steps = context.size(8, 60)
    training = TrainSettings(
        steps=steps, batch_size=2, learning_rate=LEARNING_RATE, warmup=2, checkpoint_every=0, seed=context.seed
    )
    distiller = Distiller(student, context.model, settings, vocabulary)
    due = {round(steps * part / 4) for part in range(4)}

    def probe(step: int) -> Record:
        found = summarize_windows(read_windows(student, held, context.model), context.seed)
        kl = next(record["kl"] for record in found if record["kind"] == "divergence")
        return {"kind": "distance", "arm": arm, "step": step, "kl": kl}

    found: list[Record] = []

    def source(piece: Sequence[int], step: int) -> Examples:
        if step in due:
            due.remove(step)
            found.append(probe(step))
        part = taught.take(piece)
        return Examples(part.ids, part.valid)

    with trainable(student), tempfile.TemporaryDirectory() as place:
        train(distiller, source, len(taught), training, Path(place) / "training")
    yield from [*found, probe(steps)]


def _lesson(student: LanguageModel, held: Windows, vocabulary: int) -> Iterator[Record]:
    """One held-out window: each token's entropy before it is read, and whether SE-KD would teach it."""
    import torch

    from shammie.sekd.distill import body
    from shammie.sekd.heads import Head
    from shammie.sekd.policies import Selector
    from shammie.sekd.signals import Side
    from shammie.sekd.signals import measure as measured

    window = held.take([0])
    with torch.no_grad():
        states = body(student, window.ids[:, :-1])
    side = Side(Head(student.anatomy, vocabulary), states[0])
    scores = measured(("student_entropy",), window.targets[0], side, None, torch.float32)["student_entropy"]
    chosen = set(Selector(DistillSettings())(scores[None], window.valid, 0, torch.Generator()).index.tolist())
    texts = [student.tokenizer.decode([int(token)]) for token in window.targets[0]]
    entropies = [float(score) for score in scores]
    yield {"kind": "lesson", "tokens": texts, "entropy": entropies, "chosen": [i in chosen for i in range(len(texts))]}


def draw(records: list[Record]) -> list[Block]:
    """The lesson, the curves of the three trainings, and what a step costs."""
    setting, lesson = of_kind(records, "setting")[0], of_kind(records, "lesson")[0]
    logits = of_kind(records, "logits")[0]
    distances = of_kind(records, "distance")
    series = {
        arm: [(r["step"], r["kl"]["value"], r["kl"]["low"], r["kl"]["high"]) for r in distances if r["arm"] == arm]
        for arm in ARMS
    }
    last = {arm: [r for r in distances if r["arm"] == arm][-1]["kl"] for arm in ARMS}
    shaded = [value if chosen else None for value, chosen in zip(lesson["entropy"], lesson["chosen"], strict=True)]
    found = number(
        "KL to the teacher after SE-KD, nats a position", last["SE-KD 20 %"], number("random 20 %", last["random 20 %"])
    )
    return [
        Numbers([found]),
        Prose(
            f"The student is made of {setting['layers']} of the model's {setting['of']} layers and learns to speak like the whole. "
            "SE-KD teaches it only the fifth of the positions at which its own next-token distribution has the highest entropy. "
            "A few steps on a few windows show how it works, not what it reaches; `shammie sekd train` is for that."
        ),
        Figure(token_strip(lesson["tokens"], shaded, value_label="entropy, nats"), "What it would be taught next",
               "A held-out text. Shaded tokens are those whose prediction SE-KD would teach; the rest it passes over."),
        Figure(line_chart(series, x_label="step", y_label="KL to the teacher, nats a position", controls=["random 20 %"]),
               "Three ways to teach the same student", "Held-out windows, with intervals over windows."),
        cost_bars(of_kind(records, "cost")),
        Table(["largest block of logits for 1,024 positions", "MiB"], [
            ["dense, both models at once", round(logits["dense"] / 2**20, 1)],
            ["a chunk of rows at a time", round(logits["selective"] / 2**20, 1)],
        ]),
    ]  # fmt: skip


CHAPTER = Chapter(
    "sekd", "Taught where it counts", "Which tokens is a student taught, and what does leaving out the others cost it?",
    "shammie tour --only sekd", measure, draw,
)  # fmt: skip
