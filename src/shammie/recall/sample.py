"""Samples traces and answers: each trace once, then the answer after it, or after whatever stands in its place."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from shammie.core.answers import contains_match, first_line, match
from shammie.core.backends import Backend
from shammie.core.decoding import GenerationSettings
from shammie.core.generate import Completion
from shammie.core.judge import Judge
from shammie.recall.data import Question
from shammie.recall.facts import extract
from shammie.recall.knowledge import Knowledge
from shammie.recall.settings import SPAN, Condition, RecallSettings
from shammie.recall.switch import Prompter

Record = dict[str, Any]
Key = tuple[int, int]  # (question, sample)


@dataclass(eq=False)
class Sampler:
    """What asks: the backend that continues prompts, the questions, and what is known of them.

    Draws belong to (seed, condition, question, sample), so an answer depends neither on what it was batched with nor on
    which questions were asked before.
    """

    backend: Backend
    prompter: Prompter
    questions: Sequence[Question]
    settings: RecallSettings
    knowledge: Knowledge | None = None
    judge: Judge | None = None
    _pool: dict[int, list[str]] = field(default_factory=dict)

    def traces(self, numbers: Iterable[int], samples: range) -> list[Record]:
        """The model's own reasoning on each question, up to its end or the settings' number of tokens."""
        prompts = {n: self.prompter.opened(self.questions[n].text) for n in numbers}
        jobs = [(n, sample) for n in prompts for sample in samples]
        made = self._complete("trace", prompts, jobs, self.settings.trace_tokens, self.prompter.stop)
        found = []
        for (number, sample), completion in zip(jobs, made, strict=True):
            text = completion.text.strip()
            size = len(self.prompter.tokens(text))
            found.append({
                "kind": "trace", "question": number, "sample": sample, "text": text, "tokens": size, "finish": completion.finish,
            })  # fmt: skip
        return found

    def facts(self, traces: Sequence[Mapping[str, Any]], said: Mapping[Key, str]) -> list[Record]:
        """The facts of each trace; `said` is the answer that came after it."""
        found = []
        for trace in traces:
            key = trace["question"], trace["sample"]
            told = extract(trace["text"], self.questions[key[0]], said[key], self.knowledge, self.judge)
            found.append(
                {"kind": "facts", "question": key[0], "sample": key[1], "facts": [asdict(fact) for fact in told]}
            )
        return found

    def answers(
        self, condition: Condition, keys: Sequence[Key], traces: Mapping[Key, str], facts: Mapping[Key, Sequence[Record]]
    ) -> list[Record]:  # fmt: skip
        """The answer of each sample under a condition.

        A record says how many tokens stood in the trace's place and of how many facts, which of them was swapped, and
        whether the answer is correct; an empty one is not.
        """
        if condition.facts == "irrelevant":
            self._pool = _by_question(facts)
        held = {key: self._held(condition, key, traces, facts) for key in keys}
        prompts = {
            n * SPAN + sample: self.prompter.answered(self.questions[n].text, condition, self._ids(held[n, sample]))
            for n, sample in keys
        }
        if condition.of_trace:  # every sample has a prompt of its own
            jobs = [(number, 0) for number in prompts]
        else:
            jobs = [(n * SPAN, sample) for n, sample in keys]
            prompts |= {n * SPAN: prompts[n * SPAN + sample] for n, sample in keys}
        made = self._complete(condition.name, prompts, jobs, self.settings.answer_tokens, ("\n",))
        return [self._graded(condition, key, completion, held[key]) for key, completion in zip(keys, made, strict=True)]

    def everything(self, numbers: Sequence[int]) -> Iterator[Record]:
        """Traces, answers under every condition and facts of some questions at once, without a run to resume."""
        conditions = {condition.name: condition for condition in self.settings.parsed()}
        keys = [(number, sample) for number in numbers for sample in range(self.settings.samples)]
        traces = self.traces(numbers, range(self.settings.samples))
        texts = {(trace["question"], trace["sample"]): trace["text"] for trace in traces}
        own = self.answers(conditions.pop("on"), keys, texts, {})
        facts = self.facts(traces, {(record["question"], record["sample"]): record["answer"] for record in own})
        told = {(record["question"], record["sample"]): record["facts"] for record in facts}
        yield from (*traces, *own, *facts)
        for condition in conditions.values():
            yield from self.answers(condition, keys, texts, told)

    def _complete(
        self, purpose: str, prompts: Mapping[int, Sequence[int]], jobs: Sequence[Key], tokens: int, stop: tuple[str, ...]
    ) -> list[Completion]:  # fmt: skip
        seed = int.from_bytes(hashlib.sha256(f"{self.settings.seed} {purpose}".encode()).digest()[:4], "big") >> 1
        settings = GenerationSettings(
            tokens, self.settings.temperature, self.settings.top_p, samples=SPAN, seed=seed, stop=stop
        )
        return self.backend.complete(prompts, jobs, settings)

    def _graded(self, condition: Condition, key: Key, completion: Completion, held: Held) -> Record:
        answer, question = first_line(completion.answer or ""), self.questions[key[0]]
        if question.matching == "text":
            correct = contains_match(answer, question.answers, self.settings.answer_words)
        else:
            correct = match(answer, question.answers, question.matching)
        record = {
            "kind": "answer", "condition": condition.name, "question": key[0], "sample": key[1], "answer": answer,
            "correct": correct, "finish": completion.finish, "held": len(self._ids(held)), "facts": held.facts,
        }  # fmt: skip
        return record | ({"swapped": held.swapped} if condition.facts == "corrupted" else {})

    def _ids(self, held: Held) -> list[int]:
        return held.ids if held.ids is not None else self.prompter.tokens(held.text)

    def _held(
        self, condition: Condition, key: Key, traces: Mapping[Key, str], facts: Mapping[Key, Sequence[Record]]
    ) -> Held:
        """What stands in the trace's place."""
        if condition.holds == "nothing":
            return Held()
        if condition.holds == "trace":
            return Held(traces[key])
        if condition.holds == "filler":
            count = len(self.prompter.tokens(traces[key])) if condition.tokens is None else condition.tokens
            return Held(ids=self.prompter.filler(condition.filler, count) if count or condition.tokens == 0 else [])
        if condition.facts == "all":
            return _listed([fact["text"] for fact in facts[key]])
        own = _kept(facts[key])
        if condition.facts == "own":
            return _listed([fact["text"] for fact in own])
        if condition.facts == "dummy":
            count = len(self.prompter.tokens(_listed([fact["text"] for fact in own]).text))
            return Held(ids=self.prompter.filler(condition.filler, count) if count else [], facts=len(own))
        if condition.facts == "irrelevant":
            return self._irrelevant(key, len(own))
        if condition.facts == "subject":
            return self._subject(key, len(own))
        return self._corrupted(key, own)

    def _irrelevant(self, key: Key, count: int) -> Held:
        """Facts of another question's traces, of the same relation where there are any; none of them gives this answer."""
        question, draw = self.questions[key[0]], _draw(self.settings.seed, "irrelevant", *key)
        others = [n for n in self._pool if n != key[0] and self.questions[n].answers != question.answers]
        same = [n for n in others if self.questions[n].relation == question.relation] or others
        draw.shuffle(same)
        found: list[str] = []
        for number in same:
            if len(found) >= count:
                break
            found += [text for text in self._pool[number] if not contains_match(text, question.answers)]
        return _listed(found[:count])

    def _subject(self, key: Key, count: int) -> Held:
        """What is known of the question's subject besides the answer, as many facts as the trace had and at least one."""
        assert self.knowledge is not None, "checked when the run was prepared"
        question = self.questions[key[0]]
        found = self.knowledge.about(question.subject, question.relation, question.answers)
        _draw(self.settings.seed, "subject", *key).shuffle(found)
        return _listed(found[: max(1, count)])

    def _corrupted(self, key: Key, own: Sequence[Record]) -> Held:
        """The facts with the first true one that allows it made false."""
        assert self.knowledge is not None, "checked when the run was prepared"
        draw, texts = _draw(self.settings.seed, "corrupted", *key), [fact["text"] for fact in own]
        for place, fact in enumerate(own):
            if fact["verdict"] != "true":
                continue
            new = self.knowledge.swapped(fact["text"], self.questions[key[0]].answers, draw)
            if new:
                return _listed([*texts[:place], new, *texts[place + 1 :]], swapped=new)
        return _listed(texts)


@dataclass(frozen=True)
class Held:
    """What stands in the trace's place: a text, or token ids; how many facts, and the one that was made false."""

    text: str = ""
    ids: list[int] | None = None
    facts: int = 0
    swapped: str | None = None


def _listed(facts: Sequence[str], swapped: str | None = None) -> Held:
    return Held("\n".join(facts), facts=len(facts), swapped=swapped)


def _kept(facts: Sequence[Record]) -> list[Record]:
    """The facts that do not give the answer away."""
    return [fact for fact in facts if fact["leak"] is None]


def _by_question(facts: Mapping[Key, Sequence[Record]]) -> dict[int, list[str]]:
    """The different facts of each question's traces, in order."""
    found: dict[int, dict[str, None]] = {}
    for (number, _), own in sorted(facts.items()):
        found.setdefault(number, {}).update((fact["text"], None) for fact in _kept(own))
    return {number: list(texts) for number, texts in found.items()}


def _draw(*parts: object) -> random.Random:
    return random.Random(hashlib.sha256(" ".join(map(str, parts)).encode()).digest())
