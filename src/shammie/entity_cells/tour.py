"""The tour's chapter: one entity's cell, the amnesia, the recall by injection, and the atlas of its neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from shammie.entity_cells.page import ARM_NAMES
from shammie.report import (
    Block,
    Chapter,
    Context,
    Figure,
    Numbers,
    Point,
    Prose,
    Table,
    interval_bars,
    number,
    of_kind,
    scatter,
)

if TYPE_CHECKING:
    from shammie.entity_cells.cells import Cells
    from shammie.entity_cells.data import Entity
    from shammie.entity_cells.evaluate import Readings

Record = dict[str, Any]
_RELATION = "capital"
_READINGS = ("untouched", "ablated", "other", "placeholder", "injected")
_SCALE, _STRENGTH = -3.0, 8.0  # in the test of the card these do most against their controls


def measure(context: Context, _settings: object = None) -> Iterator[Record]:
    """As `_measure`; of a model without dense neurons, or that knows none of the facts, there is only that to say."""
    from shammie.core.errors import ShammieError

    try:
        yield from _measure(context)
    except ShammieError as error:
        yield {"kind": "unknown", "unknown": str(error)}


def _measure(context: Context) -> Iterator[Record]:
    """Localize populous countries, ablate and inject the cell of those whose capital the model knows."""
    from dataclasses import replace

    from shammie.core.errors import DataError
    from shammie.entity_cells.data import EntitySet, load_entities
    from shammie.entity_cells.evaluate import Readings, localization_summary
    from shammie.entity_cells.intervene import Bench
    from shammie.entity_cells.localize import Localizer
    from shammie.entity_cells.settings import CausalSettings, LocalizeSettings

    entities = load_entities("geonames:countries", limit=context.size(40, 150))
    capitals = [replace(e, facts=tuple(f for f in e.facts if f.relation == _RELATION)) for e in entities.entities]
    settings = LocalizeSettings(templates=max(4, context.size(8, 32)), anonymous=context.size(12, 40))
    cells = Localizer(context.model, [entity.name for entity in capitals], settings).cells()
    yield localization_summary(cells.findings, len(capitals))
    causal = CausalSettings(scales=(_SCALE,), strengths=(_STRENGTH,), group=10, seed=context.seed)
    bench = Bench(context.model, EntitySet.of(capitals, entities.source), cells, causal)
    facts = list(bench.untouched(range(len(capitals))))
    known = {record["entity"] for record in facts if record["known"]}
    asked = [(n, f) for n, f in bench.facts(range(len(capitals))) if cells.names[n] in known and cells.found(n)]
    if len(asked) < 2:
        raise DataError(f"{context.model.name} knows too few capitals of countries that have a cell")
    asked = asked[: context.size(20, 100)]
    readings = Readings([*facts, *bench.ablated(asked), *bench.injected(asked), *cells.findings])
    yield from _summaries(readings, context.seed)
    yield from _entities(readings, capitals, cells, [number for number, _ in asked])


def _summaries(readings: Readings, seed: int) -> Iterator[Record]:
    from shammie.entity_cells.evaluate import ablation_summary, injection_summary

    yield from (row for row in ablation_summary(readings, seed) if row["relation"] == "all")
    yield from (
        row for row in injection_summary(readings, None, seed) if row["kind"] == "injection" and not row["in_sample"]
    )


def _entities(readings: Readings, entities: list[Entity], cells: Cells, numbers: list[int]) -> Iterator[Record]:
    """Each tested entity: its cell, and its fact untouched, ablated and injected."""
    for entity in numbers:
        name = cells.names[entity]
        key = (name, _RELATION)
        yield {
            "kind": "entity", "entity": name, "cell": cells.findings[entity]["cell"], "popularity": entities[entity].popularity,
            "answer": entities[entity].facts[0].answers[0], "untouched": readings.facts[key]["p"],
            "ablated": readings.ablated["own", _SCALE, False][key]["p"],
            "other": readings.ablated["other", _SCALE, False][key]["p"],
            "placeholder": readings.facts[key]["placeholder"]["p"],
            "injected": readings.injected["own_group", _STRENGTH][key]["p"],
        }  # fmt: skip


def draw(records: list[Record]) -> list[Block]:
    """What one entity's cell does, then all entities, then where cells stand."""
    if unknown := of_kind(records, "unknown"):
        return [Prose(f"Nothing could be tested: {unknown[0]['unknown']}.")]
    found = of_kind(records, "localization")[0]
    entities = of_kind(records, "entity")
    star = max(entities, key=lambda e: e["untouched"] - e["ablated"])
    losses = {row["arm"]: row["loss"] for row in of_kind(records, "ablation")}
    recalls = [row for row in of_kind(records, "injection") if row["arm"] != "entity_present"]
    points = [
        Point(
            e["popularity"],
            max(0.0, 1 - e["ablated"] / e["untouched"]),
            f"{e['entity']}, {e['cell']}",
            "forgets" if e["ablated"] < 0.5 * e["untouched"] else "remembers",
        )
        for e in entities
    ]
    rows = [
        [e["entity"], e["cell"], e["answer"], *(round(e[name], 3) for name in _READINGS)]
        for e in sorted(entities, key=lambda e: e["ablated"] / e["untouched"])
    ]
    columns = [
        "entity",
        "cell",
        "answer",
        "p",
        "cell turned round",
        "another's cell",
        "X for the name",
        "cells injected at X",
    ]
    return [
        Prose(
            f"Of {found['entities']} countries, {found['with_cell']['value']:.0%} have a neuron in layer 1 or above that is at "
            "least 1.5 times as active for them as for nearly all other names. "
            f"Being active is not yet being needed, so each cell is turned round "
            f"(times {_SCALE:g}) at the country's name and the capital is asked for. With **{star['entity']}** and its cell "
            f"`{star['cell']}`, the probability of {star['answer']} goes from {star['untouched']:.2f} to {star['ablated']:.2f}."
        ),
        Numbers(
            [
                number("loss by its own cell", losses["own"], number("another country's cell", losses["other"])),
                number("loss by its ten best", losses["own_group"], number("another country's ten", losses["other_group"])),
            ]
        ),
        Figure(
            scatter(points,
                x_label="population", y_label="share of the answer's probability lost", log_x=True, y_limits=(0, 1),
                outcomes=("forgets", "remembers"), annotate=[f"{star['entity']}, {star['cell']}"]),
            "The atlas: which countries hang on one neuron",
        ),
        Figure(
            interval_bars([number(ARM_NAMES[row["arm"]], row["relprob"]) for row in recalls],
                value_label="probability of the capital, as a share of that with the name"),
            "Recall: the question says X, and the cell is written at it",
            f"Layers set to the mean country, cells moved {_STRENGTH:g} times as far from it as for the country itself. "
            "This strength, and the scale above, did most in the card's runs, whose countries include these: for the effect on "
            "facts that took no part in that choice see the card.",
        ),
        Table(columns, rows, f"The {len(rows)} countries that were tested"),
    ]  # fmt: skip


CHAPTER = Chapter(
    "entity-cells", "The neuron that stands for an entity",
    "Does a country's capital hang on one neuron, and can that neuron alone bring it back?",
    "shammie tour --only entity-cells", measure, draw,
)  # fmt: skip
