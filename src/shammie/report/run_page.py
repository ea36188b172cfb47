"""The generic page of any run: what `shammie show RUN` opens and every `report.html` is unless a room draws its own."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from shammie.core.errors import DataError
from shammie.report.blocks import Block, Details, Figure, Prose, Table
from shammie.report.figures.bars import interval_bars
from shammie.report.markup import shorten
from shammie.report.numerals import Number, is_estimate, is_number
from shammie.report.page import Section, render_page

SHOWN_ROWS = 60
"""Records of one kind that the page shows in full; the rest stays in results.jsonl."""
_MANY = 12
_LONGEST = 240


def run_report(record: Mapping[str, Any]) -> str:
    """Render a run's page.

    Args:
        record: a mapping with command (str), config, inputs, versions (mappings), status (str) and results (a list of
            mappings, grouped by their field `kind`). A result's field may be a scalar, a list, a mapping or an estimate
            {"value", "low", "high", "n"}.

    Raises:
        DataError: a field is missing or has another type.
    """
    command, status = (_field(record, name, str) for name in ("command", "status"))
    config, inputs, versions = (_field(record, name, Mapping) for name in ("config", "inputs", "versions"))
    results = _field(record, "results", list)
    for index, result in enumerate(results):
        if not isinstance(result, Mapping):
            raise DataError(
                f"Result {index} of the run is a {type(result).__name__}, not a mapping: mend results.jsonl."
            )
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        groups.setdefault(str(result.get("kind", "results")), []).append(result)
    sections = []
    for index, (kind, group) in enumerate(groups.items()):
        blocks = _results(group)
        sections.append(Section(f"result {index + 1}", _words(kind), _count(len(group), "record"), "", blocks))
    if not results:
        nothing = "No results were written yet." if status == "running" else "The run wrote no results."
        sections.append(Section("results", "Results", nothing, "", []))
    sections.append(Section("settings", "How it was run", "", command, _settings(config, inputs, versions)))
    model = config.get("model", inputs.get("model", ""))
    facts = [("model", f"{_scalar(model)}")] if model else []
    facts += [("status", status), ("results", f"{len(results):,}")]
    facts += [(name, _scalar(versions[name])) for name in ("shammie", "torch", "transformers") if name in versions]
    footer = "Drawn by `shammie show` from `run.json` and `results.jsonl`; intervals are at 95 %."
    return render_page(_title(command), "", facts, sections, footer, eyebrow="A run of shammie")


def _field(record: Mapping[str, Any], name: str, kind: type) -> Any:
    if name not in record:
        raise DataError(f"The run record has no field {name!r}: it was not written by `shammie`, or is unfinished.")
    if not isinstance(record[name], kind):
        raise DataError(
            f"Field {name!r} of the run record is a {type(record[name]).__name__}: it should be a {kind.__name__}."
        )
    return record[name]


def _title(command: str) -> str:
    """The command up to its first option: `shammie ember erase`."""
    words = command.split()
    stop = next((index for index, word in enumerate(words) if word.startswith("-")), len(words))
    return shorten(" ".join(words[:stop]), 80) or "A run"


def _words(kind: str) -> str:
    text = shorten(kind.replace("_", " ").strip(), 80)
    return text[:1].upper() + text[1:] or "Results"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}."


def _results(group: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Figures of the estimates, a summary of long numeric columns, and the records themselves."""
    columns = [name for name in dict.fromkeys(name for result in group for name in result) if name != "kind"]
    blocks: list[Block] = [*_intervals(group, columns)]
    many = len(group) > _MANY
    summary = _summary(group, columns) if many else []
    if summary:
        blocks.append(Table(["field", "n", "least", "median", "mean", "greatest"], summary, "Numeric fields"))
    rows = [[_cell(result.get(name)) for name in columns] for result in group[:SHOWN_ROWS]]
    hidden = len(group) - len(rows)
    caption = f"The first {len(rows)} of {len(group):,} records; the rest is in `results.jsonl`" if hidden else ""
    table: Block = Table(columns, rows, caption) if columns else Prose("These records have no fields.")
    blocks.append(Details("The records", [table]) if summary and blocks else table)
    return blocks


def _intervals(group: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[Block]:
    """One figure for each field that holds estimates, with the estimate in `control` or `<field>_control` beside it."""
    figures: list[Block] = []
    if len(group) > 40:
        return figures
    named = [name for name in columns if all(isinstance(result.get(name), str) for result in group)]
    for name in columns:
        if name == "control" or name.endswith("_control"):
            continue
        bars = []
        for index, result in enumerate(group):
            number = _number(
                result.get(name), " · ".join(str(result[key]) for key in named[:2]) or f"record {index + 1}"
            )
            beside = result.get(f"{name}_control", result.get("control"))
            if number is not None:
                bars.append(number._replace(control=_number(beside, "control")))
        if bars:
            figures.append(Figure(interval_bars(bars, value_label=_words(name).lower()), _words(name)))
    return figures


def _number(value: Any, label: str) -> Number | None:
    if not is_estimate(value):
        return None
    middle, low, high = (float(value[key]) for key in ("value", "low", "high"))
    if not all(abs(field) < 1e100 for field in (middle, low, high)) or low > high:
        return None  # NaN included: the table below still shows it
    n = value.get("n")
    return Number(shorten(label, 80), middle, low, high, n if isinstance(n, int) else None)


def _summary(group: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for name in columns:
        known = [result[name] for result in group if is_number(result.get(name)) and math.isfinite(result[name])]
        if known and all(abs(value) < 1e100 for value in known):
            rows.append(
                [name, len(known), min(known), float(statistics.median(known)), statistics.fmean(known), max(known)]
            )
    return rows


def _cell(value: Any) -> Any:
    """A value as a table shows it; long texts and structures are cut, since results.jsonl holds the whole."""
    if value is None or isinstance(value, bool) or is_number(value) or is_estimate(value):
        return value
    return shorten(_scalar(value), _LONGEST)


def _scalar(value: object) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _settings(config: Mapping[str, Any], inputs: Mapping[str, Any], versions: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = []
    for caption, mapping in (("Configuration", config), ("Inputs", inputs), ("Versions", versions)):
        rows = [[name, _cell(value)] for name, value in _flat(mapping)]
        if rows:
            blocks.append(Table(["field", "value"], [[name, value] for name, value in rows], caption))
    return blocks or [Prose("No settings were recorded.")]


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested mappings as dotted names."""
    pairs: list[tuple[str, Any]] = []
    for name, value in mapping.items():
        if isinstance(value, Mapping) and value:
            pairs += _flat(value, f"{prefix}{name}.")
        else:
            pairs.append((f"{prefix}{name}", value))
    return pairs
