"""Samples chains: replies of a model to problems, taken apart, and what it answers without a chain."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shammie.bonafide.parsing import parse_reply
from shammie.bonafide.prompts import ANSWER_PREFIX, Example, chat
from shammie.bonafide.settings import Cell, ChainSettings
from shammie.bonafide.tasks import FAMILIES
from shammie.bonafide.tasks.base import Problem
from shammie.core.backends import Backend
from shammie.core.decoding import GenerationSettings
from shammie.core.generate import Completion

Record = dict[str, Any]
_SAMPLES = 1000  # draws that a problem may have


@dataclass(eq=False)
class Chains:
    """Asks one model. Draws belong to (seed, task, problem, sample), whatever they were batched with."""

    backend: Backend
    settings: ChainSettings

    def sample(self, cell: Cell, example: Example, seeds: Sequence[int]) -> list[Record]:
        """Replies to problems of a task: chain, answer, and whether it is the one by which a chain is kept."""
        problems = {seed: cell.problem(seed) for seed in seeds}
        prompts = {seed: chat(problem, example) for seed, problem in problems.items()}
        jobs = [(seed, sample) for seed in seeds for sample in range(self.settings.samples)]
        made = self._complete(f"{cell.name} {example}", prompts, jobs, self.settings.max_new_tokens)
        return [
            self._record(cell, example, problems[seed], seed, sample, completion)
            for (seed, sample), completion in zip(jobs, made, strict=True)
        ]

    def without_chain(self, cell: Cell, seeds: Sequence[int]) -> list[Record]:
        """What is answered at once; hinted tasks are asked without their hint, for how often its answer comes up anyway."""
        problems = {seed: cell.problem(seed) for seed in seeds}
        prompts = {seed: chat(problem, "none") for seed, problem in problems.items()}
        if cell.hint:
            for seed, problem in problems.items():
                plain = FAMILIES[cell.family].ask(problem.given)
                prompts[seed][-1] = {
                    "role": "user",
                    "content": f"{plain}\n\nThe answer is {FAMILIES[cell.family].form}.",
                }
        prefill = f"<think>\n.\n</think>\n\n{ANSWER_PREFIX}" if self.settings.thinks else ANSWER_PREFIX
        made = self._complete(f"{cell.name} at once", prompts, [(seed, 0) for seed in seeds], 24, prefill)
        found = []
        for seed, completion in zip(seeds, made, strict=True):
            answer = parse_reply(ANSWER_PREFIX + completion.text, "").answer
            right = answer is not None and FAMILIES[cell.family].right(answer, problems[seed].expected)
            found.append({"kind": "at once", "task": cell.name, "seed": seed, "answer": answer, "kept": right})
        return found

    def _complete(
        self, purpose: str, prompts: Mapping[int, Any], jobs: Sequence[tuple[int, int]], tokens: int, prefill: str = ""
    ) -> list[Completion]:
        own = hashlib.sha256(f"{self.settings.seed} {purpose}".encode()).digest()[:4]
        settings = GenerationSettings(
            tokens, self.settings.temperature, self.settings.top_p, samples=_SAMPLES if self.settings.temperature else 1,
            seed=int.from_bytes(own, "big") >> 1, prefill=prefill, reasoning_start="<think>" if self.settings.thinks else "",
            reasoning_end="</think>" if self.settings.thinks and not prefill else "",
        )  # fmt: skip
        return self.backend.complete(prompts, jobs, settings)

    def _record(
        self, cell: Cell, example: Example, problem: Problem, seed: int, sample: int, completion: Completion
    ) -> Record:
        reply = parse_reply(completion.text)
        right = reply.answer is not None and FAMILIES[cell.family].right(reply.answer, problem.expected)
        return {
            "kind": "chain", "task": cell.name, "example": example, "seed": seed, "sample": sample, "text": completion.text,
            "chain": reply.chain, "answer": reply.answer, "trouble": reply.trouble, "finish": completion.finish,
            "tokens": len(completion.tokens), "kept": right,
        }  # fmt: skip
