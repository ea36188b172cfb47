"""What the command generate does: audits of the tasks, answers without a chain, then chains, in keyed items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shammie.bonafide.audit import audit_answers, audit_task
from shammie.bonafide.generating import Chains
from shammie.bonafide.settings import Cell
from shammie.core.backends import LocalBackend, open_backend
from shammie.core.errors import DataError
from shammie.core.task import Task

if TYPE_CHECKING:
    from shammie.bonafide.config import BonafideGenerate
    from shammie.core.run import Run

Record = dict[str, Any]
_AUDITED = 600  # draws


def prepare_generate(config: BonafideGenerate) -> Task:
    """Open the backend; tasks and examples are checked."""
    cells = config.settings.cells()
    backend, reader = open_backend(config.model, config.tokenizer, config.device, config.dtype, config.rows)
    chains = Chains(backend, config.settings)

    def execute(run: Run) -> int:
        Plan(run, chains, max(1, config.rows // config.settings.samples)).carry_out()
        return 0

    asked = len(cells) * config.settings.problems * config.settings.samples
    estimate = {
        "tasks": len({cell for cell, _ in cells}), "chains": f"{asked:,} of at most {config.settings.max_new_tokens} tokens",
        "batches": -(-asked // config.rows), "model": reader.name, "local": isinstance(backend, LocalBackend),
    }  # fmt: skip
    return Task({"backend": backend.identity}, lambda: estimate, execute)


@dataclass
class Plan:
    """The work of a run. A task whose answers do not show what was computed gets no chains, and its records say so."""

    run: Run
    chains: Chains
    chunk: int

    def carry_out(self) -> None:
        """Do what is pending. Errors: DataError when no task passes its audit."""
        cells = self.chains.settings.cells()
        tasks = list(dict.fromkeys(cell for cell, _ in cells))
        self._each(
            "audit", {cell.name: cell for cell in tasks}, lambda cell: audit_task(cell.family, cell.level, _AUDITED)
        )
        everyone = range(self.chains.settings.problems)
        self._each("at once", {cell.name: cell for cell in tasks}, lambda cell: self._at_once(cell, everyone))
        sound = [cell for cell in tasks if self._sound(cell)]
        if not sound:
            raise DataError(
                "no task passes its audit for this model; the records in results.jsonl say which limit each breaks"
            )
        parts = {
            f"{cell.name}/{example}/{start:05d}": (cell, example, everyone[start : start + self.chunk])
            for cell, example in cells
            if cell in sound
            for start in range(0, len(everyone), self.chunk)
        }
        self._each("chains", parts, lambda part: self.chains.sample(*part))

    def _each(self, stage: str, parts: dict[str, Any], make: Callable[[Any], list[Record]]) -> None:
        keys = {f"{stage}/{name}": part for name, part in parts.items()}
        for key in self.run.items(list(keys), f"bonafide {stage}"):
            self.run.record(key, make(keys[key]))

    def _at_once(self, cell: Cell, seeds: Sequence[int]) -> list[Record]:
        found = self.chains.without_chain(cell, seeds)
        return [*found, audit_answers(cell.family, cell.level, [r["kept"] for r in found]) | {"task": cell.name}]

    def _sound(self, cell: Cell) -> bool:
        return all(
            record["kept"]
            for record in self.run.results()
            if record["kind"] == "audit" and (record["family"], record["level"]) == (cell.family, cell.level)
            and record.get("task", cell.name) == cell.name
        )  # fmt: skip
