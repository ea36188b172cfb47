"""Erase a concept: EMBER's strength and an eraser's cell chosen on the validation split, the test split asked once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from shammie.core.errors import DataError, ShammieError
from shammie.core.model import LanguageModel
from shammie.core.patch import Tied, WeightPatch
from shammie.core.plain import differences, to_plain
from shammie.core.vocabulary import token_text
from shammie.ember.edit import ConceptDirections, find_directions, random_directions
from shammie.ember.erasers import cells
from shammie.ember.erasers.base import Eraser
from shammie.ember.evaluate import Answer
from shammie.ember.measure import Bench, Record, answer_records, recorded_answers
from shammie.ember.settings import EmberSettings

if TYPE_CHECKING:
    from shammie.core.run import Run

_BEFORE, _AFTER, _CONTROL = "untouched", "erased", "random features"


@dataclass(eq=False)
class Erasure:
    """One erasure, kept in a run: each strength, each cell and the final measurement is an item of its own."""

    bench: Bench
    ember: EmberSettings | None
    deltas: tuple[float, ...]
    tied: Tied
    method: str | None
    cell_count: int
    seed: int
    run: Run
    resume: bool

    def __post_init__(self) -> None:
        if self.ember is None and self.method is None:
            raise ShammieError("there is nothing to do: leave EMBER on or name a --method")

    @property
    def model(self) -> LanguageModel:
        """The model, between items always untouched."""
        return self.bench.model

    def carry_out(self) -> WeightPatch:
        """All items that are left; returns the patch, which is also saved among the run's artifacts."""
        self._once("before", self._before)
        _ = self.bench.readings  # read while nothing is in force
        if self.ember is not None:
            self._once("directions", self._describe)
            self._strengths()
        if self.method is not None:
            self._cells()
        self._once("after", self._after)
        return self.patch

    def _once(self, key: str, work: Any) -> None:
        for _ in self.run.pending([key]):
            self.run.record(key, work())

    # -- before ------------------------------------------------------------------------------------------------------

    def _before(self) -> list[Record]:
        validation, test = self.bench.ask("validation", ["choice"]), self.bench.ask("test")
        asked = self.bench.pack.questions.test[: self.bench.limit]
        return [
            *({"kind": "question", "number": i, "text": q.question, "answer": q.answer} for i, q in enumerate(asked)),
            *self.bench.known(test),
            *answer_records(validation, _BEFORE, "validation"),
            *answer_records(test, _BEFORE, "test"),
        ]

    def _answers(self, split: Any) -> list[Answer]:
        return recorded_answers(self.run.results(), _BEFORE, split)

    # -- EMBER -------------------------------------------------------------------------------------------------------

    @cached_property
    def directions(self) -> ConceptDirections:
        """What EMBER takes out, found once and kept as an artifact."""
        assert self.ember is not None
        place = self.run.artifacts / "directions"
        if not place.exists():
            found = find_directions(self.model, self.bench.pack, self.ember, self.seed, self.bench.judge)
            found.save_pretrained(place)
        return ConceptDirections.from_pretrained(place)

    def _describe(self) -> list[Record]:
        found = self.directions
        sizes = found.components.norm(dim=1)
        tokens = [
            {"kind": "edited_token", "token": int(i), "text": token_text(self.model, int(i)), "votes": float(v), "size": float(s)}
            for i, v, s in zip(found.tokens, found.votes, sizes, strict=True)
        ]  # fmt: skip
        assert self.ember is not None
        head = {
            "kind": "directions", "tokens": len(tokens), "factorizations": self.ember.factorizations, "agreement": found.agreement,
            "explained": found.explained, "embedding_scale": found.scale, "tied": self._tied,
        }  # fmt: skip
        return [head, *tokens, *({"kind": "feature", **line} for line in found.features)]

    @property
    def _tied(self) -> str:
        return self.tied if self.model.anatomy.tied else "untied"

    def _strengths(self) -> None:
        for key in self.run.items([f"delta/{delta:g}" for delta in self.deltas], "strengths"):
            delta = float(key.removeprefix("delta/"))
            with self.directions.patch(self.model, delta, tied=self.tied).applied(self.model):
                found = self._validated()
            self.run.record(key, {"kind": "strength", "delta": delta, **found})

    @cached_property
    def delta(self) -> float:
        """The strength with the best harmonic mean on the validation split, the smaller of equals."""
        lines = sorted((r for r in self.run.results() if r["kind"] == "strength"), key=lambda r: r["delta"])
        best = max(lines, key=lambda r: r["overall"])
        if best["overall"] <= 0:
            raise DataError(
                f"no strength of {', '.join(f'{d:g}' for d in self.deltas)} takes {self.bench.pack.concept!r} out and leaves "
                "the rest; give a wider --deltas or more concept sentences"
            )
        return float(best["delta"])

    def _validated(self) -> Mapping[str, Any]:
        """The soft outcome of what is in force on the validation split's choices."""
        return self.bench.outcome(
            "validation", self._answers("validation"), self.bench.ask("validation", ["choice"]), "choice", soft=True
        ).record()

    @contextmanager
    def _ember_in_force(self) -> Iterator[None]:
        with ExitStack() as stack:
            if self.ember is not None:
                stack.enter_context(self.directions.patch(self.model, self.delta, tied=self.tied).applied(self.model))
            yield

    # -- the eraser under it -----------------------------------------------------------------------------------------

    def _cells(self) -> None:
        grid = self._grid()
        for key in self.run.items([f"cell/{number}" for number in range(len(grid))], f"{self.method} cells"):
            number = int(key.removeprefix("cell/"))
            with self._ember_in_force():
                patch = self._trained(grid[number], number)
                with patch.applied(self.model):
                    found = self._validated()
            self.run.record(
                key,
                {"kind": "cell", "method": self.method, "cell": number, "settings": _described(grid[number]), **found},
            )

    def _grid(self) -> Sequence[Eraser]:
        assert self.method is not None
        return cells(self.method, self.cell_count)

    def _trained(self, eraser: Eraser, number: int) -> WeightPatch:
        place = self.run.artifacts / f"cell-{number}"
        if not place.exists():
            training = self.run.artifacts / f"training-{number}"
            patch = eraser.erase(self.model, self.bench.pack, training, self.seed, resume=self.resume)
            patch.save_pretrained(place)
            shutil.rmtree(training, ignore_errors=True)
        return WeightPatch.from_pretrained(place)

    @cached_property
    def cell(self) -> int:
        """The cell with the best harmonic mean on the validation split."""
        lines = [r for r in self.run.results() if r["kind"] == "cell"]
        best = max(lines, key=lambda r: r["overall"])
        if best["overall"] <= 0:
            raise DataError(
                f"no cell of {self.method} takes {self.bench.pack.concept!r} out and leaves the rest; "
                "try more --cells or another method"
            )
        return int(best["cell"])

    # -- the result --------------------------------------------------------------------------------------------------

    @cached_property
    def patch(self) -> WeightPatch:
        """EMBER's edit and the chosen cell as one patch for the untouched weights."""
        parts = []
        if self.ember is not None:
            parts.append(self.directions.patch(self.model, self.delta, tied=self.tied))
        if self.method is not None:
            # A cell was made for the weights under EMBER's edit; as an addend it fits the untouched ones just as well.
            cell = WeightPatch.from_pretrained(self.run.artifacts / f"cell-{self.cell}")
            parts.append(replace(cell, model_hash=self.model.hash))
        return parts[0] if len(parts) == 1 else parts[0].compose(parts[1])

    def _after(self) -> list[Record]:
        before = self._answers("test")
        edited = set(self.directions.tokens.tolist()) if self.ember is not None else set()
        with self.patch.applied(self.model):
            answers = self.bench.ask("test")
            records = [*answer_records(answers, _AFTER, "test"), *self.bench.outcomes(before, answers, _AFTER)]
            records += self.bench.costs(edited, _AFTER)
        if self.ember is not None:
            records += self._control(before)
        self.patch.save_pretrained(self.run.artifacts / "patch", overwrite=True)
        chosen = {"kind": "chosen", "delta": self.delta if self.ember is not None else None, "method": self.method}
        return [{**chosen, "cell": self.cell if self.method else None, "bracketed": self._bracketed}, *records]

    @property
    def _bracketed(self) -> bool | None:
        """Whether the chosen strength has tried neighbours on both sides."""
        return min(self.deltas) < self.delta < max(self.deltas) if self.ember is not None else None

    def _control(self, before: Sequence[Answer]) -> list[Record]:
        """EMBER alone on features drawn at random: as many tokens, components of the same sizes, the same strength."""
        assert self.ember is not None
        chance = random_directions(self.model, self.bench.pack, self.ember, self.directions, self.seed)
        with chance.patch(self.model, self.delta, tied=self.tied).applied(self.model):
            answers = self.bench.ask("test")
            return [*answer_records(answers, _CONTROL, "test"), *self.bench.outcomes(before, answers, _CONTROL)]


def _described(eraser: Eraser) -> str:
    """What a cell sets otherwise than the eraser's defaults."""
    changed = differences(to_plain(type(eraser)()), to_plain(eraser))
    return ", ".join(f"{place} {now}" for place, _, now in changed) or "defaults"
