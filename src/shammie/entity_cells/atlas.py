"""`shammie entity-cells report`: everything about a set of entities, item by item, and what it adds up to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from shammie.core.errors import DataError
from shammie.core.task import Task
from shammie.entity_cells.data import EntitySet
from shammie.entity_cells.evaluate import (
    Readings,
    ablation_summary,
    best_scale,
    depth_summary,
    forms_summary,
    injection_summary,
    popularity_summary,
    trust,
    trust_summary,
)
from shammie.entity_cells.intervene import Bench, Record, surface_forms
from shammie.entity_cells.tasks import Localized

if TYPE_CHECKING:
    from shammie.core.run import Run
    from shammie.entity_cells.config import CellsReport


def with_relations(entities: EntitySet, relations: Sequence[str]) -> EntitySet:
    """The same entities with only some of their facts. Errors: DataError for a relation that none has."""
    there = {fact.relation for entity in entities.entities for fact in entity.facts}
    if astray := [relation for relation in relations if relation not in there]:
        raise DataError(f"{entities.source} has no relation {astray[0]!r}; it has {', '.join(sorted(there))}")
    kept = [replace(e, facts=tuple(f for f in e.facts if f.relation in relations)) for e in entities.entities]
    return EntitySet.of(kept, entities.source)


def prepare_report(config: CellsReport) -> Task:
    """Load what was found and check the relations."""
    at = Localized.read(config)
    entities = with_relations(at.entities, config.relations) if config.relations else at.entities
    relations = list(dict.fromkeys(fact.relation for entity in entities.entities for fact in entity.facts))
    choose_on = config.choose_on or relations[0]
    if choose_on not in relations:
        raise DataError(f"--choose-on {choose_on!r} is not one of the relations {', '.join(relations)}")
    bench = Bench(at.model, entities, at.cells, config.settings)

    def execute(run: Run) -> int:
        carry_out(run, at, bench, config)
        for key in run.pending(["summary"]):
            run.record(key, summarize(run.results(), at, choose_on, config))
        return 0

    def estimate() -> dict[str, Any]:
        facts = sum(len(entity.facts) for entity in entities.entities)
        settings = config.settings
        rows = 6 * (len(settings.scales) + len(settings.everywhere) + len(settings.strengths)) + 4
        return {"entities": len(entities.entities), "facts": facts, "prompts": f"at most {facts * rows:,}"}

    return Task({**at.inputs, "relations": relations}, estimate, execute)


def carry_out(run: Run, at: Localized, bench: Bench, config: CellsReport) -> None:
    """Facts, ablations and injections of a chunk of entities at a time; then the depth curve and surface forms."""
    everyone = range(len(bench.entities))
    parts = {f"entities {start}": everyone[start : start + config.chunk] for start in everyone[:: config.chunk]}
    for key in run.items(list(parts), "entity-cells report"):
        facts = list(bench.untouched(parts[key]))
        run.record(key, [*facts, *_tested(bench, parts[key], facts)])
    for key in run.items(["depth"], "depth curve") if config.depth else ():
        known = _known(run.results())
        facts_ = [(n, f) for n, f in bench.facts(everyone) if (bench.cells.names[n], f.relation) in known]
        run.record(key, list(bench.depth(facts_[: config.depth], config.step)))
    for key in run.items(["forms"], "surface forms"):
        localizer, known = at.localizer(at.cells.settings), _known(run.results())
        facts_ = [(n, f) for n, f in bench.facts(everyone) if (bench.cells.names[n], f.relation) in known]
        facts_ = [(n, f) for n, f in facts_ if bench.cells.found(n)][: config.forms]
        found = list(surface_forms(localizer, bench.entities, at.cells))
        run.record(key, [*found, *bench.injected_forms(localizer, facts_)])


def _known(records: Sequence[Record]) -> set[tuple[str, str]]:
    return {(r["entity"], r["relation"]) for r in records if r["kind"] == "fact" and r["known"]}


def _tested(bench: Bench, part: Sequence[int], facts: Sequence[Record]) -> list[Record]:
    known = _known(facts)
    cells = bench.cells
    asked = [(n, f) for n, f in bench.facts(part) if cells.found(n) and (cells.names[n], f.relation) in known]
    return [*bench.ablated(asked), *bench.injected(asked)] if asked else []


def summarize(records: Sequence[Record], at: Localized, choose_on: str, config: CellsReport) -> list[Record]:
    """What all readings add up to. Scale and strength are chosen on one relation and read on the others."""
    readings = Readings([*records, *at.cells.findings])
    protocol = at.cells.settings.protocol
    asked = {relation for _, relation in readings.facts}
    held = sorted(asked - {choose_on}) or None
    scale = best_scale(readings, choose_on)
    verdicts = trust(readings, config.trust, protocol, scale)
    popularity = {entity.name: entity.popularity for entity in at.entities.entities}
    lines = [trust_summary(readings, config.trust, protocol, scale)]
    if held and any(key[1] in held for key in readings.ablated["own", scale, False]):
        lines.append(trust_summary(readings, config.trust, protocol, scale, held))
    lines += [popularity_summary(popularity, verdicts), *ablation_summary(readings)]
    lines += [*injection_summary(readings, choose_on), *depth_summary(records, readings)]
    lines += forms_summary(records, readings, choose_on)
    cells = {finding["entity"]: finding for finding in at.cells.findings}
    for name, passed in verdicts.items():
        cell = cells[name]
        lines.append(
            {
                "kind": "entity", "entity": name, "trusted": passed, "popularity": popularity[name], "cell": cell["cell"],
                "layer": cell["layer"], "shared_by": cell["shared_by"], "loss": _loss(readings, "own", scale, name),
                "loss_from_another_cell": _loss(readings, "other", scale, name),
            }
        )  # fmt: skip
    return lines


def _loss(readings: Readings, arm: str, scale: float, name: str) -> float | None:
    keys = [key for key in readings.ablated[arm, scale, False] if key[0] == name]
    return sum(readings.losses(arm, scale, keys)) / len(keys) if keys else None
