"""Thinking states: a training step against the number of thoughts, reading ahead against chunk by chunk, answers against chains.

SmolLM2-135M as backbone, one thread. Training: questions of equally many tokens with 1 to 20 thoughts, and Coconut with as many
latents. Reading: a question of 12 chunks of which 2 have a thought. Answers: stories and two-hop questions, one at a time, where
every method writes the right thoughts or chain: a scripted model does all its work, then the script's tokens are taken, so that
time alone is compared.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import common
import torch

from shammie.core.model import load
from shammie.thinking_states.methods import Reasoner, Thinking
from shammie.thinking_states.modeling import Begun
from shammie.thinking_states.problems import Example, Problem
from shammie.thinking_states.reading import Prefill, Reader
from shammie.thinking_states.settings import MethodSettings, ThinkingSettings
from shammie.thinking_states.tasks import TASKS
from shammie.thinking_states.training import make_reasoner

CHUNK, COUNTS, QUESTION, THOUGHT = 8, (1, 5, 10, 20), 160, 6
QUESTIONS = 4  # of each kind that are answered
GROUPS = ("training", "reading", "answers")


class Scripted:
    """Thoughts as a script has them: the model thinks its own, and the script's are taken.

    `fewer` counts, over all scripts, the thoughts that the model ended sooner than the script, which would flatter it.
    """

    fewer = 0

    def __init__(self, module: torch.nn.Module, thoughts: Sequence[Sequence[int]]) -> None:
        self.module, self.script, self.at = module, [list(thought) for thought in thoughts], 0
        self.begin, self.thoughts = module.begin, module.thoughts

    def __enter__(self) -> None:
        self.module.begin, self.module.thoughts = self._begin, self._thoughts

    def __exit__(self, *_: object) -> None:
        del self.module.begin, self.module.thoughts

    def _begin(self, hidden: torch.Tensor, filled: torch.Tensor) -> Begun:
        begun = self.begin(hidden, filled)
        ahead = self.script[self.at : self.at + len(hidden)]
        self.at += next((n for n, thought in enumerate(ahead) if thought), len(ahead))
        begun.token = torch.tensor([(thought or [self.module.end])[0] for thought in ahead])
        return begun

    def _thoughts(self, begun: Begun) -> list[list[int]]:
        thought, settings = self.script[self.at], self.module.settings
        self.at += 1
        self.module.settings = replace(settings, longest=len(thought) + 1)
        try:
            Scripted.fewer += len(self.thoughts(begun)[0]) < len(thought)
        finally:
            self.module.settings = settings
        return [thought]


def reasoners() -> dict[str, Reasoner]:
    """SmolLM2 under each method; weights that are not trained take as long."""

    def made(method: str) -> Reasoner:
        backbone = load("smollm2-135m", dtype="float32")
        return make_reasoner(backbone, MethodSettings(method, most=1), ThinkingSettings(CHUNK))

    return {method: made(method) for method in ("thinking", "cot", "coconut")}


def example(count: int) -> Example:
    """A question of random tokens with so many thoughts, as evenly spread as can be, or as many steps."""
    draw = random.Random(count)
    chunks = QUESTION // CHUNK
    thinking = {round((n + 0.5) * chunks / count - 0.5) for n in range(count)}
    steps = tuple(tuple(draw.randrange(100, 40_000) for _ in range(THOUGHT)) for _ in range(count))
    own = iter(steps)
    thoughts = tuple(next(own) if n in thinking else () for n in range(chunks))
    question = tuple(draw.randrange(100, 40_000) for _ in range(QUESTION))
    return Example(Problem("", (), ""), question, thoughts, steps, (draw.randrange(100, 40_000), 2))


def measure_training(report: common.Report, made: dict[str, Reasoner], rounds: int, counts: Sequence[int]) -> None:
    """Loss and backward of two questions."""

    def step(method: str, count: int) -> None:
        reasoner = made[method]
        reasoner.settings = replace(reasoner.settings, most=count)
        reasoner.loss([example(count)] * 2, 1.0, torch.Generator()).total.backward()
        reasoner.model.module.zero_grad()

    sides = {f"{m} {n}": partial(step, m, n) for m in ("thinking", "coconut") for n in counts}
    seconds = common.interleaved(sides, rounds, label="training")
    for method, goal in (("thinking", 1.15), ("coconut", None)):
        for count in counts[1:]:
            measured = common.ratio(seconds[f"{method} {count}"], seconds[f"{method} {counts[0]}"])
            own = goal if count == counts[-1] else None
            report.add(
                common.Line(f"training step, {method}: {count} / {counts[0]} thoughts", measured, own, seconds=seconds)
            )


def measure_reading(report: common.Report, made: dict[str, Reasoner], rounds: int) -> None:
    """Twelve chunks, two thoughts."""
    reasoner = made["thinking"]
    assert isinstance(reasoner, Thinking)
    own = example(2)
    question, thoughts = (
        own.question[: 12 * CHUNK],
        [own.steps[n] if (n := {3: 0, 8: 1}.get(at)) is not None else () for at in range(12)],
    )
    found = {}

    def read(prefill: Prefill) -> None:
        with Scripted(reasoner.module, thoughts):
            found[prefill] = Reader(reasoner.model, prefill).read([question])

    seconds = common.interleaved({p: partial(read, p) for p in ("speculative", "sequential")}, rounds, label="reading")
    apart = (found["speculative"].states - found["sequential"].states).abs().max().item()
    report.check("states of both ways of reading", apart, 1e-3)
    measured = common.ratio(seconds["speculative"], seconds["sequential"])
    report.add(
        common.Line("reading, speculative / chunk by chunk, 2 of 12 thoughts", measured, 1 / 1.5, seconds=seconds)
    )


def answer(reasoner: Reasoner, one: Example) -> None:
    """Read a question and write what is right, a token at a time."""
    chain = (
        []
        if isinstance(reasoner, Thinking)
        else [*(t for step in one.steps for t in step), *reasoner.layout.answer_marker]
    )
    stepper = reasoner.stepper()
    stepper.start([reasoner.prompt(one)], [0])
    for token in [*chain, *one.answer][:-1]:
        stepper.step(torch.tensor([token]))


def measure_answers(report: common.Report, made: dict[str, Reasoner], rounds: int) -> None:
    """Right thoughts against right chains."""
    thinking, chain = made["thinking"], made["cot"]
    for task, length, goal in (("stories", 4, 1 / 2), ("hops", 2, 1 / 1.1)):
        problems = [TASKS[task].problem(0, n, length, shortest=length, test=True) for n in range(QUESTIONS)]
        own = [thinking.layout.encode(problem) for problem in problems]

        def think(own: Sequence[Example] = tuple(own)) -> None:
            for one in own:
                with Scripted(thinking.model.module, one.thoughts):
                    answer(thinking, one)

        def write(own: Sequence[Example] = tuple(own)) -> None:
            for one in own:
                answer(chain, one)

        seconds = common.interleaved({"thinking": think, "cot": write}, rounds, label=task)
        tokens = sum(len(t) for one in own for t in one.steps) / len(own)
        note = f"chains of {tokens:.0f} tokens"
        measured = common.ratio(seconds["thinking"], seconds["cot"])
        report.add(
            common.Line(f"answers, thinking / chain of thought, {task}", measured, goal, note=note, seconds=seconds)
        )
    report.check("thoughts ended sooner than the right ones", Scripted.fewer, 0)


def main() -> int:
    args = common.arguments(__doc__.splitlines()[0], GROUPS).parse_args()
    torch.set_num_threads(1)
    report = common.Report("thinking_states", args, {"threads": 1, "chunk": CHUNK, "question": QUESTION})
    rounds, counts = (2, COUNTS[:2]) if args.quick else (max(5, args.repeats), COUNTS)
    made = reasoners()
    if "training" in args.only:
        measure_training(report, made, rounds, counts)
    if "reading" in args.only:
        measure_reading(report, made, rounds)
    if "answers" in args.only:
        measure_answers(report, made, rounds)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
