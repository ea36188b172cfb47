"""What the command run does: which samples are drawn, in what order, and how it goes on after a kill."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from shammie.core.backends import Backend, BackendCompleter, LocalBackend, backend_for, open_backend
from shammie.core.decoding import GenerationSettings
from shammie.core.errors import ShammieError
from shammie.core.judge import Judge
from shammie.core.task import Task
from shammie.recall.data import QuestionSet, load_questions
from shammie.recall.knowledge import Knowledge, load_knowledge
from shammie.recall.sample import Key, Record, Sampler
from shammie.recall.settings import Condition, RecallSettings
from shammie.recall.switch import Prompter, settle

if TYPE_CHECKING:
    from shammie.core.run import Run
    from shammie.recall.config import RecallRun

JUDGEMENTS = "judgements"


def prepare_run(config: RecallRun) -> Task:
    """Open the backend, the questions and what is known of them."""
    questions = load_questions(
        config.questions, limit=config.limit, relations=config.relations, seed=config.settings.seed
    )
    knowledge = load_knowledge(config.knowledge) if config.knowledge else None
    check_conditions(config.settings, questions, knowledge)
    backend, reader = open_backend(config.model, config.tokenizer, config.device, config.dtype, config.rows)
    prompter = Prompter(reader, settle(reader, config.switch))
    completer = BackendCompleter(backend_for(config.judge), GenerationSettings(8)) if config.judge else None

    def execute(run: Run) -> int:
        judge = Judge(completer, run.artifacts / JUDGEMENTS) if completer else None
        sampler = Sampler(backend, prompter, questions.questions, config.settings, knowledge, judge)
        Plan(run, sampler, max(1, config.rows // config.settings.samples)).carry_out()
        return 0

    inputs = {
        "backend": backend.identity, "questions": questions.sha256, "switch": asdict(prompter.switch),
        "knowledge": knowledge and knowledge.sha256, "judge": completer and completer.identity,
    }  # fmt: skip
    return Task(inputs, lambda: _estimate(config.settings, questions, backend, prompter), execute)


def check_conditions(settings: RecallSettings, questions: QuestionSet, knowledge: Knowledge | None) -> None:
    """Refuse conditions for which something is missing."""
    for condition in settings.parsed():
        if condition.facts in ("subject", "corrupted") and knowledge is None:
            raise ShammieError(f"the condition {condition.name} needs true statements; name them with --knowledge")
        if condition.facts == "subject" and not any(question.subject for question in questions.questions):
            raise ShammieError(
                f"no question of {questions.source} names its subject, which {condition.name} needs; leave it out"
            )


@dataclass
class Plan:
    """The work of a run in keyed items of a few questions each: traces, off, on, facts, the rest, then more samples.

    What an item needs of others is read back from the run's records, so that nothing is drawn twice after a kill.
    """

    run: Run
    sampler: Sampler
    chunk: int

    def carry_out(self) -> None:
        """Do what is pending."""
        settings, everyone = self.sampler.settings, range(len(self.sampler.questions))
        if self.run.pending(["questions"]):
            self.run.record("questions", [{"kind": "question", **asdict(q)} for q in self.sampler.questions])
        first, conditions = range(settings.samples), {c.name: c for c in settings.parsed()}
        self._each("traces", everyone, lambda numbers: self.sampler.traces(numbers, first))
        traces = self._traces()
        for name in ("off", "on"):
            self._answers(name, conditions.pop(name), everyone, first, traces)
        facts: dict[Key, list[Record]] = {}
        if any(condition.holds == "facts" for condition in conditions.values()) or self.sampler.knowledge:
            said = {(r["question"], r["sample"]): r["answer"] for r in self.run.results() if r.get("condition") == "on"}
            self._each("facts", everyone, lambda numbers: self._facts(numbers, traces, said))
            facts = {(r["question"], r["sample"]): r["facts"] for r in self.run.results() if r["kind"] == "facts"}
        for name, condition in conditions.items():
            self._answers(name, condition, everyone, first, traces, facts)
        if settings.more > settings.samples:
            self._more(range(settings.samples, settings.more))

    def _more(self, samples: range) -> None:
        """Further samples for the questions that none of the first answers without reasoning."""
        reached = {r["question"] for r in self.run.results() if r["kind"] == "answer" and _hit(r, samples.start)}
        numbers = [number for number in range(len(self.sampler.questions)) if number not in reached]
        off, on = Condition.parse("off"), Condition.parse("on")
        self._answers("more-off", off, numbers, samples, {})
        self._each("more-traces", numbers, lambda some: self.sampler.traces(some, samples))
        self._answers("more-on", on, numbers, samples, self._traces())

    def _each(self, stage: str, numbers: Sequence[int], make: Callable[[Sequence[int]], list[Record]]) -> None:
        parts = {f"{stage}/{part[0]:05d}": part for part in _parts(numbers, self.chunk)}
        for key in self.run.items(list(parts), f"recall {stage}"):
            self.run.record(key, make(parts[key]))

    def _answers(
        self, stage: str, condition: Condition, numbers: Sequence[int], samples: range, traces: Mapping[Key, str],
        facts: Mapping[Key, Sequence[Record]] | None = None,
    ) -> None:  # fmt: skip
        def make(some: Sequence[int]) -> list[Record]:
            keys = [(number, sample) for number in some for sample in samples]
            return self.sampler.answers(condition, keys, traces, facts or {})

        self._each(stage, numbers, make)

    def _facts(self, numbers: Sequence[int], traces: Mapping[Key, str], said: Mapping[Key, str]) -> list[Record]:
        own = [{"question": n, "sample": s, "text": text} for (n, s), text in traces.items() if n in set(numbers)]
        return self.sampler.facts(own, said)

    def _traces(self) -> dict[Key, str]:
        return {(r["question"], r["sample"]): r["text"] for r in self.run.results() if r["kind"] == "trace"}


def _hit(record: Mapping[str, Any], samples: int) -> bool:
    return record["condition"] == "off" and record["sample"] < samples and record["correct"]


def _parts(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]


def _estimate(settings: RecallSettings, questions: QuestionSet, backend: Backend, prompter: Prompter) -> dict[str, Any]:
    """Counts of the whole; for a local model also the time, from a few tokens of the first question."""
    asked = len(questions.questions) * settings.samples
    conditions = len(settings.conditions)
    found = {
        "questions": len(questions.questions), "traces": f"{asked:,} of at most {settings.trace_tokens} tokens",
        "answers": f"{asked * conditions:,} of at most {settings.answer_tokens} tokens in {conditions} conditions",
        "more": f"up to {2 * max(0, settings.more - settings.samples) * len(questions.questions):,} samples for questions "
        "without a hit",
    }  # fmt: skip
    if isinstance(backend, LocalBackend):
        found["time"] = _time(settings, questions, backend, prompter)
    return found


def _time(settings: RecallSettings, questions: QuestionSet, backend: LocalBackend, prompter: Prompter) -> str:
    prompt, probe = {0: prompter.opened(questions.questions[0].text)}, 4
    started = time.perf_counter()
    jobs = [(0, sample) for sample in range(backend.rows)]
    backend.complete(prompt, jobs, GenerationSettings(probe, settings.temperature, samples=backend.rows))
    step = (time.perf_counter() - started) / probe / backend.rows
    asked = len(questions.questions) * settings.samples
    tokens = asked * (settings.trace_tokens + len(settings.conditions) * settings.answer_tokens)
    return f"at most about {step * tokens / 60:,.0f} minutes, further samples apart"
