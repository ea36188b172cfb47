"""The figures of the entity_cells card: cells of 200 countries, and what ablating and injecting them does.

    python experiments/entity_cells.py --model smollm2-135m --output-dir runs/entity_cells-smollm2 [--quick]

Localization reads every country; interventions run on the facts that the model knows (capital and currency). The scale of
ablation and the strength of injection are chosen on the capital of the entities' first half and read on what is left:
the second half, and the currency. Resumable: run it again to go on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shammie.core import files
from shammie.core.model import load
from shammie.core.run import Run
from shammie.entity_cells.cells import Cells
from shammie.entity_cells.data import EntitySet, load_entities
from shammie.entity_cells.evaluate import (
    Readings,
    ablation_summary,
    best_scale,
    depth_summary,
    forms_summary,
    injection_summary,
    localization_summary,
    popularity_summary,
    trust,
    trust_summary,
)
from shammie.entity_cells.intervene import Bench, surface_forms
from shammie.entity_cells.localize import Localizer
from shammie.entity_cells.settings import CausalSettings, LocalizeSettings, TrustSettings

RELATIONS = ("capital", "currency")
SWEPT = 20  # countries with known facts on which all scales and strengths are read, and cells are scaled at all tokens
RECALLED = 15  # countries whose other forms are injected
SWEEP = CausalSettings(
    scales=(0.5, 0.0, -0.5, -1.0, -2.0, -3.0), everywhere=(0.0, -1.0, -3.0), strengths=(1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
)
Record = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """Sizes."""

    model: str
    entities: int = 200
    templates: int = 32
    chunk: int = 20
    depth: int = 20
    step: int = 3
    forms: int = 40


def with_relations(entities: EntitySet) -> EntitySet:
    """Only the relations that interventions ask about."""
    kept = [replace(e, facts=tuple(f for f in e.facts if f.relation in RELATIONS)) for e in entities.entities]
    return EntitySet.of(kept, entities.source)


def localized(run: Run, protocol: str, localizer: Localizer | None) -> Cells:
    """Cells of a protocol, made once."""
    place = run.artifacts / protocol
    if not place.exists():
        assert localizer is not None
        localizer.settings = LocalizeSettings(protocol=protocol, templates=localizer.settings.templates)  # type: ignore[arg-type]
        localizer.cells().save_pretrained(place)
    return Cells.from_pretrained(place)


def chunks(numbers: Sequence[int], size: int) -> list[list[int]]:
    return [list(numbers[start : start + size]) for start in range(0, len(numbers), size)]


def main() -> int:
    """Measure what is pending."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--output-dir", required=True, type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    plan = Plan(Path(arguments.model).stem if arguments.model.endswith(".gguf") else arguments.model)
    if arguments.quick:
        plan = replace(plan, entities=24, templates=8, depth=4, step=10)
    model = load(arguments.model, dtype="float32")
    entities = with_relations(load_entities("geonames:countries", limit=plan.entities))
    with Run.open(
        "experiments/entity_cells", plan, arguments.output_dir, inputs={"model": model.hash}, resume=True
    ) as run:
        run.reopen()
        localizer = None
        if run.pending(["localize/unique", "localize/paper"]):
            names = [entity.name for entity in entities.entities]
            localizer = Localizer(model, names, LocalizeSettings(templates=plan.templates))
        for key in run.pending(["localize/paper", "localize/unique"]):
            protocol = key.split("/")[1]
            found = localized(run, protocol, localizer)
            head = {"protocol": protocol}
            run.record(
                key,
                [
                    {**localization_summary(found.findings, len(found.names)), **head},
                    *({**f, **head} for f in found.findings),
                ],
            )
        del localizer
        settings = CausalSettings(scales=(-1.0, -3.0), strengths=(2.0, 8.0))
        measure(run, plan, Bench(model, entities, localized(run, "unique", None), settings), "unique")
        paper = CausalSettings(scales=(-1.0,), group=0)
        measure(run, plan, Bench(model, entities, localized(run, "paper", None), paper), "paper")
        sweep(run, plan, Bench(model, entities, localized(run, "unique", None), SWEEP))
        recalled_from_forms(run, plan, Bench(model, entities, localized(run, "unique", None), settings))
        for key in run.pending(["forms"]):
            names = [entity.name for entity in entities.entities]
            localizer = Localizer(model, names, LocalizeSettings(templates=plan.templates))
            cells = localized(run, "unique", None)
            run.record(key, list(surface_forms(localizer, entities.entities[: plan.forms], cells)))
        files.write_atomic(
            run.path("summary.jsonl"), "".join(files.to_json(row, "summary") + "\n" for row in summary(run, entities))
        )
    return 0


def measure(run: Run, plan: Plan, bench: Bench, protocol: str) -> None:
    """Facts, ablation, and under the unique protocol injection and the depth curve."""
    everyone = [number for number in range(len(bench.entities)) if bench.cells.found(number)]
    if protocol == "unique":
        for part in chunks(range(len(bench.entities)), plan.chunk):
            for _ in run.pending([f"facts/{part[0]}"]):
                run.record(f"facts/{part[0]}", list(bench.untouched(part)))
    known = {(r["entity"], r["relation"]) for r in run.results() if r["kind"] == "fact" and r["known"]}
    kinds = ("ablated", "injected") if protocol == "unique" else ("ablated",)
    for kind in kinds:
        parts = {f"{protocol}/{kind}/{part[0]}": part for part in chunks(everyone, plan.chunk)}
        for key in run.items(list(parts), f"{plan.model} {protocol} {kind}"):
            facts = [(n, f) for n, f in bench.facts(parts[key]) if (bench.cells.names[n], f.relation) in known]
            run.record(key, [{**row, "protocol": protocol} for row in getattr(bench, kind)(facts)])
    if protocol == "unique":
        facts = [
            (n, f)
            for n, f in bench.facts(everyone)
            if f.relation == "capital" and (bench.cells.names[n], f.relation) in known
        ]
        parts = {
            f"depth/{part[0][0]}": part for part in [facts[i : i + 5] for i in range(0, min(plan.depth, len(facts)), 5)]
        }
        for key in run.items(list(parts), f"{plan.model} depth"):
            run.record(key, list(bench.depth(parts[key], plan.step)))


def sweep(run: Run, plan: Plan, bench: Bench) -> None:
    """All scales, at the name and at all tokens, and all strengths, on the first countries whose facts are known."""
    known = {(r["entity"], r["relation"]) for r in run.results() if r["kind"] == "fact" and r["known"]}
    everyone = [n for n in range(len(bench.entities)) if bench.cells.found(n)]
    kept = [n for n in everyone if any(bench.cells.names[n] == entity for entity, _ in known)][:SWEPT]
    parts = {f"sweep/{kind}/{part[0]}": (kind, part) for kind in ("ablated", "injected") for part in chunks(kept, 5)}
    for key in run.items(list(parts), f"{plan.model} sweep"):
        kind, part = parts[key]
        facts = [(n, f) for n, f in bench.facts(part) if (bench.cells.names[n], f.relation) in known]
        run.record(key, [{**row, "protocol": "sweep"} for row in getattr(bench, kind)(facts)])


def recalled_from_forms(run: Run, plan: Plan, bench: Bench) -> None:
    """What acronyms, misspellings and other scripts of the first countries find, injected at the placeholder."""
    known = {(r["entity"], r["relation"]) for r in run.results() if r["kind"] == "fact" and r["known"]}
    everyone = [n for n in range(min(RECALLED, len(bench.entities))) if bench.cells.found(n)]
    for key in run.pending(["forms/injected"]):
        names = [entity.name for entity in bench.entities]
        localizer = Localizer(bench.model, names, LocalizeSettings(templates=plan.templates))
        facts = [(n, f) for n, f in bench.facts(everyone) if (bench.cells.names[n], f.relation) in known]
        run.record(key, list(bench.injected_forms(localizer, facts)))


def summary(run: Run, entities: EntitySet) -> list[Record]:
    """Every figure of the card."""
    results = run.results()
    lines = [row for row in results if row["kind"] == "localization"]
    facts = [row for row in results if row["kind"] == "fact"]
    popularity = {entity.name: entity.popularity for entity in entities.entities}
    first_half = {entity.name for entity in entities.entities[::2]}
    for protocol in ("unique", "paper"):
        own = [row for row in results if row.get("protocol") == protocol]
        every = Readings([*facts, *own])
        chosen = Readings([*facts, *(row for row in own if row.get("entity") in first_half)])
        held = Readings([*facts, *(row for row in own if _held_out(row, first_half))])
        if not every.ablated:  # a run that was stopped before
            continue
        scale = best_scale(chosen, "capital") if protocol == "unique" else -1.0
        found = [*ablation_summary(every)]
        for part, readings in (("all", every), ("held out", held)):
            found.append({**trust_summary(readings, TrustSettings(), protocol, scale), "part": part})  # type: ignore[arg-type]
        verdicts = trust(every, TrustSettings(), protocol, scale)  # type: ignore[arg-type]
        found.append(popularity_summary(popularity, verdicts))
        found += injection_summary(every, "capital")
        if protocol == "unique":
            found += [{**row, "part": "trusted"} for row in injection_summary(_only(facts, own, verdicts), "capital")]
            found += depth_summary(results, every)
        lines += [
            {**row, "protocol": protocol, "known": len({k for k in every.facts if every.facts[k]["known"]})}
            for row in found
        ]
    swept = Readings([*facts, *(row for row in results if row.get("protocol") == "sweep")])
    if swept.ablated:
        found = [*ablation_summary(swept), *injection_summary(swept, "capital")]
        lines += [{**row, "protocol": "sweep", "known": SWEPT} for row in found]
    first = {entity.name for entity in entities.entities[:RECALLED]}
    lines += forms_summary([row for row in results if row.get("entity") in first], Readings(facts), "capital")
    forms = [row for row in results if row["kind"] == "form"]
    for kind in sorted({row["form_kind"] for row in forms}):
        own = [row for row in forms if row["form_kind"] == kind]
        share = sum(row["same_cell"] for row in own)
        lines.append(
            {
                "kind": "forms",
                "form_kind": kind,
                "n": len(own),
                "same_cell": share,
                "unique_there": sum(row["uniqueness"] >= 1.5 for row in own),
            }
        )
    return lines


def _held_out(row: Record, chosen: set[str]) -> bool:
    """Readings that no choice was made on, and all cells."""
    return row["kind"] == "cell" or row.get("entity") not in chosen or row.get("relation") != "capital"


def _only(facts: list[Record], own: list[Record], verdicts: dict[str, bool]) -> Readings:
    return Readings([*facts, *(row for row in own if verdicts.get(str(row.get("entity"))))])


if __name__ == "__main__":
    sys.exit(main())
