"""Records of one state of a model: its answers, and what they and its reading amount to beside the model before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from shammie.core.errors import DataError
from shammie.core.judge import Judge
from shammie.core.model import LanguageModel
from shammie.core.patch import WeightPatch
from shammie.ember.evaluate import (
    Answer,
    Outcome,
    Reading,
    ask,
    coherence,
    cost_by_place,
    knows,
    outcome,
    read_texts,
)
from shammie.ember.pack import SETS, ConceptPack, Split
from shammie.ember.settings import Format

if TYPE_CHECKING:
    from shammie.core.run import Run

Record = dict[str, Any]
_ON_CONCEPT = 40  # concept paragraphs on which the edit's own cost is measured


@dataclass(eq=False)
class Bench:
    """The model before any erasure, asked and read once; everything after is set beside it."""

    model: LanguageModel
    pack: ConceptPack
    formats: tuple[Format, ...]
    seed: int
    limit: int | None = None
    judge: Judge | None = None

    @cached_property
    def readings(self) -> dict[str, list[Reading]]:
        """How the model reads held-out neutral texts of either split, and paragraphs on the concept."""
        return self._read(("validation", "test", "concept"))

    def _texts(self, name: str) -> Sequence[str]:
        texts = self.pack.relearning[:_ON_CONCEPT] if name == "concept" else getattr(self.pack.coherence, name)
        return texts[: self.limit]

    def _read(self, names: Iterable[str]) -> dict[str, list[Reading]]:
        return {name: read_texts(self.model, self._texts(name)) for name in names}

    def ask(self, split: Split, formats: Sequence[Format] | None = None, sets: Sequence[str] = SETS) -> list[Answer]:
        """Put a split's questions to the model as it now is."""
        return ask(self.model, self.pack, split, formats or self.formats, limit=self.limit, judge=self.judge, sets=sets)

    def outcome(
        self, split: Split, before: Sequence[Answer], after: Sequence[Answer], style: Format, *, soft: bool
    ) -> Outcome:
        """What the erasure in force did in one format."""
        after_reading = self._read([split])[split]
        reading = coherence(self.readings[split], after_reading, self.seed)
        return outcome(before, after, reading, style, soft=soft, seed=self.seed)

    def outcomes(self, before: Sequence[Answer], after: Sequence[Answer], label: str) -> list[Record]:
        """Test figures of every format, thresholded and soft; a format that the untouched model cannot do is said so."""
        reading = coherence(self.readings["test"], self._read(["test"])["test"], self.seed)
        records = []
        for style in self.formats:
            for soft in (False, True):
                head = {"kind": "outcome", "arm": label, "format": style, "values": "soft" if soft else "hits"}
                try:
                    found = outcome(before, after, reading, style, soft=soft, seed=self.seed)
                except DataError as error:
                    records.append({**head, "unknown": str(error)})
                    continue
                records.append({**head, **found.record()})
        return records

    def costs(self, edited: set[int], label: str) -> list[Record]:
        """Where on paragraphs about the concept the edit of these tokens costs."""
        after = self._read(["concept"])["concept"]
        return [{"arm": label, **line} for line in cost_by_place(self.readings["concept"], after, edited, self.seed)]

    def known(self, answers: Sequence[Answer]) -> list[Record]:
        """Knowledge above chance in every format; DataError when the choices show none."""
        records = []
        for style in self.formats:
            found = knows(answers, style, self.seed)
            records.append({"kind": "known", "format": style, "above_chance": found.as_dict()})
            if style == "choice" and found.low <= 0:
                raise DataError(
                    f"{self.model.name} does not answer questions on {self.pack.concept!r} above chance "
                    f"({found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]), so there is nothing "
                    "to erase; choose another concept"
                )
        return records


def answer_records(answers: Sequence[Answer], arm: str, split: Split) -> list[Record]:
    """Answers as lines of results."""
    return [{**answer.record(), "arm": arm, "split": split} for answer in answers]


def recorded_answers(records: Iterable[Mapping[str, Any]], arm: str, split: Split) -> list[Answer]:
    """Answers read back from results, so that a resumed run computes with the very same numbers."""
    names = ("set", "format", "question", "hit", "soft", "chance", "said")
    return [
        Answer(**{name: record[name] for name in names})
        for record in records
        if record["kind"] == "answer" and record["arm"] == arm and record["split"] == split
    ]


def compare_patch(bench: Bench, patch: WeightPatch, run: Run) -> None:
    """Measure a patch on the test split as two items of a run: the model before, and under it."""
    for key in run.pending(["before"]):
        answers = bench.ask("test")
        run.record(key, [*bench.known(answers), *answer_records(answers, "untouched", "test")])
    _ = bench.readings
    for key in run.pending(["after"]):
        before = recorded_answers(run.results(), "untouched", "test")
        with patch.applied(bench.model):
            answers = bench.ask("test")
            records = [*answer_records(answers, "erased", "test"), *bench.outcomes(before, answers, "erased")]
            records += bench.costs(edited_tokens(bench.model, patch), "erased")
        run.record(key, records)


def edited_tokens(model: LanguageModel, patch: WeightPatch) -> set[int]:
    """Token ids whose input row a patch changes."""
    name = model.anatomy.embedding_weights.parameter
    own = [delta for delta in patch.deltas if delta.target.parameter == name and delta.kind == "rows"]
    return {int(token) for delta in own for token in delta.tensors["index"]}
