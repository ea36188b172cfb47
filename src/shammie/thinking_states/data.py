"""Problems from a task of ours by number, or from a file of questions, steps and answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shammie.core.data import TextRecord, load_records
from shammie.core.errors import DataError
from shammie.core.judge import Completer
from shammie.thinking_states.align import aligned, judged
from shammie.thinking_states.problems import Problem, Step


@dataclass(frozen=True)
class ReasonedRecord:
    """A row of a file: question and answer, and either `steps` (with `at`, the characters read before each) or a `bridge`.

    Layouts of GSM8K-Aug (question, steps, answer) and of two-hop sets (question, subject, bridge, answer).
    """

    question: str
    answer: str
    steps: tuple[str, ...] = ()
    at: tuple[int, ...] = ()
    bridge: str | None = None
    subject: str | None = None


@dataclass(frozen=True)
class Problems:
    """What a file holds: problems whose steps have a place, and why others were dropped."""

    kept: tuple[Problem, ...]
    dropped: tuple[tuple[int, str], ...]
    sha256: str


def load_problems(source: Path, *, limit: int | None = None, judge: Completer | None = None) -> Problems:
    """Read .jsonl or .parquet rows, or iCoT's text lines `question||steps #### answer`; steps get their places.

    By `at` where a row has it, a bridge after its subject, else by `judge`, else by the rule for sums. Rows whose steps have no
    place are dropped, with the reason. Errors: DataError where nothing is left.
    """
    if source.suffix.lower() == ".txt":
        texts = load_records(source, TextRecord, limit=limit)
        records, sha256 = [_line(record.text, n) for n, record in enumerate(texts.records, 1)], texts.sha256
    else:
        read = load_records(source, ReasonedRecord, limit=limit)
        records, sha256 = list(read.records), read.sha256
    found = [_placed(record) for record in records]
    if judge is not None:
        asked = [n for n, record in enumerate(records) if record.steps and not record.at]
        plain = [
            Problem(records[n].question, tuple(Step(_bare(s), 0) for s in records[n].steps), records[n].answer)
            for n in asked
        ]
        for n, problem, steps in zip(asked, plain, judged(plain, judge), strict=True):
            found[n] = steps if isinstance(steps, str) else replace(problem, steps=steps, length=len(steps))
    kept = tuple(one for one in found if isinstance(one, Problem))
    dropped = tuple((n, one) for n, one in enumerate(found, 1) if isinstance(one, str))
    if not kept:
        raise DataError(f"{source}: the steps of no row could be placed; row {dropped[0][0]}: {dropped[0][1]}")
    return Problems(kept, dropped, sha256)


def _placed(record: ReasonedRecord) -> Problem | str:
    question, answer = record.question.strip(), record.answer.strip()
    if not question or not answer:
        return "question or answer is empty"
    if record.bridge is not None:
        subject = record.subject or ""
        behind = question.find(subject) + len(subject) if subject and subject in question else len(question)
        return Problem(question, (Step(record.bridge, behind),), answer, 2)
    steps = tuple(_bare(step) for step in record.steps)
    if record.at:
        if len(record.at) != len(steps) or not all(0 <= place <= len(question) for place in record.at):
            return f"`at` names {len(record.at)} places for {len(steps)} steps, each a number of characters of the question"
        return Problem(question, tuple(Step(s, at) for s, at in zip(steps, record.at, strict=True)), answer, len(steps))
    found = aligned(question, steps)
    return found if isinstance(found, str) else Problem(question, found, answer, len(found))


def _line(text: str, number: int) -> ReasonedRecord:
    question, bar, rest = text.partition("||")
    steps, mark, answer = rest.partition("####")
    if not bar or not mark:
        raise DataError(f"line {number} is not of the form question||steps #### answer; mend it or use .jsonl")
    return ReasonedRecord(question.strip(), answer.strip(), tuple(re.findall(r"<<[^>]*>>", steps)))


def _bare(step: str) -> str:
    return step.strip().removeprefix("<<").removesuffix(">>").strip()


def split(problems: Sequence[Problem], held_out: int) -> tuple[Sequence[Problem], Sequence[Problem]]:
    """All but the last ones, to train on, and the last ones. Errors: DataError where none is left to train on."""
    if held_out < 1 or held_out >= len(problems):
        raise DataError(f"{len(problems)} problems cannot be cut into {held_out} to test on and others to train on")
    return problems[:-held_out], problems[-held_out:]
