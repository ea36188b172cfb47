"""The samples of a run, as tables of questions by samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shammie.core.errors import DataError, MissingFileError
from shammie.core.run import RunRecord, read_run
from shammie.core.stats import pass_at_k

Record = dict[str, Any]
Key = tuple[int, int]  # (question, sample)
Table = NDArray[np.float64]


@dataclass(eq=False)
class Samples:
    """What a run has drawn. `first` samples are there of every question; more of those that were not answered without."""

    label: str
    first: int
    more: int
    questions: list[Record] = field(default_factory=list)
    answers: dict[str, dict[Key, Record]] = field(default_factory=dict)
    traces: dict[Key, Record] = field(default_factory=dict)
    facts: dict[Key, list[Record]] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path) -> Samples:
        """The samples of a finished run. Errors: no run of this room, or one that has not finished."""
        record = read_run(directory)
        if record.command != "recall run":
            raise MissingFileError(f"{directory} holds no samples; name the --output-dir of shammie recall run")
        if record.status != "finished":
            raise DataError(f"the run in {directory} has not finished; finish it with --resume")
        return cls.of(record)

    @classmethod
    def of(cls, record: RunRecord) -> Samples:
        """The samples of a run as far as it has come."""
        settings = record.config["settings"]
        made = cls(Path(str(record.config["model"])).name, settings["samples"], settings["more"])
        for line in record.results:
            made.add(line)
        return made

    def add(self, line: Mapping[str, Any]) -> None:
        """Take one record of the run."""
        record = dict(line)
        if record["kind"] == "question":
            self.questions.append(record)
            return
        key = record["question"], record["sample"]
        if record["kind"] == "answer":
            self.answers.setdefault(record["condition"], {})[key] = record
        elif record["kind"] == "trace":
            self.traces[key] = record
        elif record["kind"] == "facts":
            self.facts[key] = record["facts"]

    @property
    def conditions(self) -> list[str]:
        """Conditions that have an answer to every question in every one of the first samples, in order."""
        return [name for name, own in self.answers.items() if len(own) >= len(self.questions) * self.first]

    def correct(self, condition: str) -> Table:
        """Right or wrong [Q, N] in the first N samples."""
        own = self.answers[condition]
        rows = [[own[q, s]["correct"] for s in range(self.first)] for q in range(len(self.questions))]
        return np.array(rows, dtype=np.float64)

    def accuracy(self, condition: str) -> NDArray[np.float64]:
        """Mean correctness of each question [Q]."""
        return np.asarray(self.correct(condition).mean(1))

    def passes(self, condition: str, count: int) -> Table:
        """Unbiased pass@k of each question [Q, K] for k = 1..count."""
        hits = self.correct(condition).sum(1).astype(np.int64)
        return np.stack([pass_at_k(self.first, hits, k) for k in range(1, count + 1)], 1)

    @cached_property
    def nature(self) -> NDArray[np.str_]:
        """Of each trace [Q, N]: clean (facts and none false), false (at least one), none (no fact at all)."""
        rows = [[self._nature(q, s) for s in range(self.first)] for q in range(len(self.questions))]
        return np.array(rows)

    @cached_property
    def strict(self) -> NDArray[np.bool_]:
        """Traces [Q, N] that hold facts which are all known to be true."""
        rows = [
            [bool(own := self.told((q, s))) and all(f["verdict"] == "true" for f in own) for s in range(self.first)]
            for q in range(len(self.questions))
        ]
        return np.array(rows, dtype=bool)

    def _nature(self, question: int, sample: int) -> str:
        own = self.told((question, sample))
        if any(fact["verdict"] == "false" for fact in own):
            return "false"
        return "clean" if own else "none"

    def told(self, key: Key) -> Sequence[Record]:
        """The facts of a trace that do not give the answer away."""
        return [fact for fact in self.facts.get(key, ()) if fact["leak"] is None]
