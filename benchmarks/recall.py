"""Thinking to recall: answers after traces of 256 tokens that are given, against model.generate with the same batch size.

50 questions, 16 samples each, under three conditions: a dummy of 256 tokens, one dummy sentence, and the facts of a trace of that
length, which are taken to be four statements (about 45 tokens) that differ from sample to sample. `model.generate` reads each
prompt of a batch in full and samples as many tokens. The whole would take an hour a side, so every round measures another of
the questions, spread over all of them; times are CPU seconds. Beside it the same with facts as long as the trace, and the
log-probabilities of a given answer after the same prompts: shared and read at once, against a plain forward pass a prompt.
"""

from __future__ import annotations

import sys
import time

import common
import torch

from shammie.core.backends import LocalBackend
from shammie.core.batch import pad
from shammie.core.decoding import GenerationSettings
from shammie.core.model import load
from shammie.core.score import score_tokens
from shammie.recall.data import load_questions
from shammie.recall.knowledge import load_knowledge
from shammie.recall.settings import Condition, RecallSettings, SwitchSettings
from shammie.recall.switch import Prompter, settle

MODEL, QUESTIONS, SAMPLES, TRACE, ANSWER = "smollm2-135m", 50, 16, 256, 16
ROWS = 16  # of a batch on both sides: one question
GROUPS = ("time", "scores")
CONDITIONS = ("dummy", "single", "on-facts")
FACTS = 4


class Problem:
    """The model and the prompts of every (condition, question, sample)."""

    def __init__(self, facts: int = FACTS) -> None:
        self.facts = facts
        self.model = load(MODEL, dtype="float32")
        self.prompter = Prompter(self.model, settle(self.model, SwitchSettings()))
        knowledge, asked = load_knowledge("geonames:"), load_questions("geonames:countries", limit=QUESTIONS).questions
        told = [
            knowledge.sentence(r, s, o[0]) for r, known in knowledge.known.items() for s, o in sorted(known.items())
        ]
        self.prompts: dict[str, list[list[int]]] = {name: [] for name in CONDITIONS}
        for number, question in enumerate(asked):
            for sample in range(SAMPLES):
                start = 97 * (number * SAMPLES + sample)
                facts = self.prompter.tokens("\n".join(told[start : start + self.facts]))[:TRACE]
                held = {
                    "dummy": self.prompter.filler("sentence", TRACE),
                    "single": self.prompter.filler("sentence", 0),
                    "on-facts": facts,
                }
                for name in CONDITIONS:
                    condition = Condition.parse(name)
                    self.prompts[name].append(self.prompter.answered(question.text, condition, held[name]))
        self.backend = LocalBackend(self.model, rows=ROWS)

    def part(self, name: str, question: int) -> list[list[int]]:
        """The prompts of a question."""
        return self.prompts[name][question * SAMPLES : (question + 1) * SAMPLES]

    def ours(self, question: int) -> None:
        settings = GenerationSettings(ANSWER, RecallSettings().temperature, samples=SAMPLES)
        for name in CONDITIONS:
            prompts = self.part(name, question)
            self.backend.complete(prompts, [(number, 0) for number in range(len(prompts))], settings)

    def theirs(self, question: int) -> None:
        """Hugging Face's own sampling at the same temperature, prompts padded on the left."""
        for name in CONDITIONS:
            prompts = self.part(name, question)
            for start in range(0, len(prompts), ROWS):
                batch = pad([ids[::-1] for ids in prompts[start : start + ROWS]])
                with torch.no_grad():
                    self.model.module.generate(
                        input_ids=batch.ids.flip(1), attention_mask=batch.mask.flip(1), max_new_tokens=ANSWER, do_sample=True,
                        temperature=RecallSettings().temperature, top_k=0, pad_token_id=0,
                    )  # fmt: skip

    def gap(self, count: int = 8) -> float:
        """Largest difference of a token's log-probability: all prompts at once, against one plain pass each."""
        answer = self.prompter.tokens(" The capital is Lima.")
        prompts = [ids for name in CONDITIONS for ids in self.prompts[name][:count]]
        found = score_tokens(self.model, [(ids, answer) for ids in prompts])
        worst = 0.0
        for ids, scored in zip(prompts, found, strict=True):
            whole = torch.tensor([[*ids, *answer]])
            with torch.no_grad():
                logs = self.model.module(input_ids=whole).logits[0].float().log_softmax(-1)
            plain = logs[len(ids) - 1 : -1].gather(-1, torch.tensor(answer)[:, None])[:, 0]
            worst = max(worst, float((plain - torch.tensor(scored.token_log_probabilities)).abs().max()))
        return worst


def measure_time(report: common.Report, rounds: int, facts: int, name: str, goal: float | None) -> None:
    problem = Problem(facts)
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    sides = {"ours": problem.ours, "theirs": problem.theirs}
    for index in range(rounds):
        question = index * QUESTIONS // rounds
        for side in sides if index % 2 == 0 else reversed(sides):
            start = time.process_time()
            sides[side](question)
            seconds[side].append(time.process_time() - start)
        common.progress(f"round {index + 1}/{rounds}")
    measured = common.ratio(seconds["ours"], seconds["theirs"])
    report.add(common.Line(f"{name} / model.generate", measured, goal, seconds=seconds))


def measure_scores(report: common.Report) -> None:
    gap = Problem().gap()
    report.add(common.Line("largest gap of log-probabilities", common.Measured(gap, gap, gap, 1), 1e-4, "nats"))


def main() -> int:
    args = common.arguments(__doc__.splitlines()[0], GROUPS).parse_args()
    torch.set_num_threads(1)
    report = common.Report("recall", args, {"model": MODEL, "samples": SAMPLES, "trace": TRACE, "threads": 1})
    if "time" in args.only:
        rounds = 1 if args.quick else max(5, args.repeats)
        measure_time(report, rounds, FACTS, "answers after given traces of 256 tokens", 0.4)
        measure_time(report, 1 if args.quick else 3, 40, "the same with 256 tokens of facts", None)
    if "scores" in args.only:
        measure_scores(report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
