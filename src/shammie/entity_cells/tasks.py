"""What the commands localize, ablate and inject do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from shammie.core.errors import DataError, MissingFileError
from shammie.core.model import LanguageModel, load
from shammie.core.run import read_run
from shammie.core.stats import mean_interval
from shammie.core.task import Task
from shammie.entity_cells import equations as eq
from shammie.entity_cells.cells import Cells
from shammie.entity_cells.data import EntitySet, Fact, load_entities
from shammie.entity_cells.edit import ablation_patch
from shammie.entity_cells.evaluate import localization_summary
from shammie.entity_cells.intervene import Bench, Record
from shammie.entity_cells.localize import Localizer
from shammie.entity_cells.measure import Question, Reading, ask
from shammie.entity_cells.read import Layout
from shammie.entity_cells.settings import LocalizeSettings

if TYPE_CHECKING:
    from shammie.core.run import Run
    from shammie.entity_cells.config import CellsAblate, CellsInject, CellsLocalize, CellsReport

CELLS = "cells"  # of a localization's artifacts


def prepare_localize(config: CellsLocalize) -> Task:
    """Load the entities and the model."""
    entities = load_entities(config.entities, limit=config.limit, least_facts=config.least_facts)
    model = load(config.model, device=config.device, dtype=config.dtype)
    layout = Layout.of(model)
    names = [entity.name for entity in entities.entities]

    def estimate() -> dict[str, Any]:
        rows = len(names) + config.settings.anonymous
        size = f"{12 * 4 * rows * layout.total / 2**30:.1f} GB"
        return {
            "entities": len(names),
            "prompts": rows * config.settings.templates,
            "neurons": layout.total,
            "memory": size,
        }

    def execute(run: Run) -> int:
        for key in run.items(["localize"], "entity-cells localize"):
            cells = Localizer(model, names, config.settings).cells()
            cells.save_pretrained(run.artifacts / CELLS, overwrite=True)
            popularity = {entity.name: entity.popularity for entity in entities.entities}
            found = [{**finding, "popularity": popularity[finding["entity"]]} for finding in cells.findings]
            run.record(key, [localization_summary(cells.findings, len(names)), *found])
        return 0

    return Task({"model": model.hash, "entities": entities.sha256}, estimate, execute)


@dataclass(frozen=True, eq=False)
class Localized:
    """A finished localization: its cells, model and entities."""

    cells: Cells
    model: LanguageModel
    entities: EntitySet

    @classmethod
    def read(cls, config: CellsAblate | CellsInject | CellsReport) -> Localized:
        """Open the run that a command names. Errors: MismatchError for other weights or another set of entities."""
        record = read_run(config.cells)
        if record.command != "entity-cells localize" or not (Path(config.cells) / "artifacts" / CELLS).exists():
            raise MissingFileError(
                f"{config.cells} holds no finished localization; run shammie entity-cells localize first"
            )
        made = record.config
        entities = load_entities(made["entities"], limit=made["limit"], least_facts=made["least_facts"])
        if entities.sha256 != record.inputs["entities"]:
            raise DataError(f"{made['entities']} has changed since {config.cells} was made; localize again")
        model = load(config.model or made["model"], device=config.device, dtype=made["dtype"])
        cells = Cells.from_pretrained(Path(config.cells) / "artifacts" / CELLS)
        cells.check_model(model)
        return cls(cells, model, entities)

    @property
    def inputs(self) -> dict[str, Any]:
        """What results depend on."""
        return {"model": self.model.hash, "entities": self.entities.sha256, "cells": self.cells.provenance}

    def localizer(self, settings: LocalizeSettings) -> Localizer:
        """Read the names again, for what the artifact does not keep."""
        return Localizer(self.model, [entity.name for entity in self.entities.entities], settings)


def prepare_ablate(config: CellsAblate) -> Task:
    """Make the patch."""
    at = Localized.read(config)
    number = at.entities.find(config.entity)
    patch = ablation_patch(at.model, at.cells, number, config.scale, config.group)
    name = at.cells.names[number]
    edited = [f"L{layer}-N{neuron}" for layer, neuron, _ in at.cells.group(number, config.group)]

    def execute(run: Run) -> int:
        for key in run.items(["ablate"], "entity-cells ablate"):
            patch.save_pretrained(run.artifacts / "patch", overwrite=True)
            others = [other for other in range(len(at.entities.entities)) if other != number][: config.controls]
            bench = Bench(at.model, at.entities, at.cells)
            asked = bench.facts([number, *others])
            jobs = [(Question.of(at.model, fact, at.cells.names[entity]), ()) for entity, fact in asked]
            before = ask(at.model, jobs)
            with patch.applied(at.model):
                after = ask(at.model, jobs)
            run.record(
                key,
                [
                    {"kind": "edit", "entity": name, "cells": edited, "scale": config.scale},
                    *_told(at, asked, before, after, number),
                ],
            )
        return 0

    return Task({**at.inputs, "patch": patch.hash}, lambda: {"entity": name, "cells": ", ".join(edited)}, execute)


def _told(
    at: Localized, asked: Sequence[tuple[int, Fact]], before: Sequence[Reading], after: Sequence[Reading], own: int
) -> list[Record]:
    """Every fact before and after, and the mean clipped loss of the known ones, of the entity and of the others."""
    import torch

    lines: list[Record] = []
    losses: dict[bool, list[tuple[str, float]]] = {True: [], False: []}
    for (number, fact), one, other in zip(asked, before, after, strict=True):
        entity, known = at.cells.names[number], one.rank <= 5
        loss = float(eq.clipped_loss(torch.tensor(other.probability).double(), torch.tensor(one.probability).double()))
        if known:
            losses[number == own].append((entity, loss))
        lines.append(
            {
                "kind": "fact", "entity": entity, "relation": fact.relation, "answer": fact.answers[0], "known": known,
                "before": one.probability, "after": other.probability, "loss": loss,
                "log_likelihood_before": one.log_likelihood, "log_likelihood_after": other.log_likelihood,
            }
        )  # fmt: skip
    mine = fmean(loss for _, loss in losses[True]) if losses[True] else None
    theirs = losses[False]
    control = (
        mean_interval([loss for _, loss in theirs], [entity for entity, _ in theirs]).as_dict() if theirs else None
    )
    return [{"kind": "amnesia", "known_facts": len(losses[True]), "loss": mine, "others": control}, *lines]


def prepare_inject(config: CellsInject) -> Task:
    """Load what was found."""
    at = Localized.read(config)
    number = at.entities.find(config.entity)
    if not at.cells.found(number):
        raise DataError(
            f"{at.cells.names[number]} has no cell under the settings of {config.cells}; localize with others"
        )
    bench = Bench(at.model, at.entities, at.cells, config.settings)

    def execute(run: Run) -> int:
        for key in run.items(["inject"], "entity-cells inject"):
            run.record(key, [*bench.untouched([number]), *bench.injected(bench.facts([number]))])
        return 0

    def estimate() -> dict[str, Any]:
        arms = len(bench.arms.of(number)) * len(config.settings.strengths) + 2
        return {"entity": at.cells.names[number], "prompts": len(bench.facts([number])) * arms}

    return Task(at.inputs, estimate, execute)
