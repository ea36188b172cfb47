"""What the commands trace, settings and intervene do with each case, as records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from shammie.beliefs.ask import Asker, Told, beliefs_of
from shammie.beliefs.data import Case
from shammie.beliefs.intervene import Intervener, arms
from shammie.beliefs.read import Grid, GridReader

Record = dict[str, Any]
BINS = 10  # parts of generation time


def told_record(case: Case, frame: str, told: Told) -> Record:
    """What a model wrote on a case under a frame."""
    return {
        "kind": "told", "case": case.id, "frame": frame, "text": told.text, "tokens": len(told.ids) - told.start,
        "favours": told.favours, "names": list(told.names), "margin": told.margin, "flags": case.flags,
        "popularity": case.popularity,
    }  # fmt: skip


def traced(
    asker: Asker, reader: GridReader, jobs: Sequence[tuple[Case, str]], *, whole: bool = False
) -> Iterator[Record]:
    """Ask cases under frames and read which beliefs surface while the model writes.

    `whole` keeps every cell of the grid, for a picture of one case.
    """
    tolds = asker.ask(jobs)
    texts = [told for told in tolds if len(told.ids) > told.start]
    written = [beliefs_of(case) for (case, _), told in zip(jobs, tolds, strict=True) if len(told.ids) > told.start]
    grids = iter(reader.read_all([(told.ids, told.start) for told in texts], written) if texts else ())
    for (case, frame), told in zip(jobs, tolds, strict=True):
        yield told_record(case, frame, told)
        if len(told.ids) == told.start:
            yield {"kind": "dominance", "case": case.id, "frame": frame, "positions": 0, "of": 0, "difference": None}
            continue
        grid = next(grids)
        yield {
            "kind": "dominance",
            "case": case.id,
            "frame": frame,
            **grid.scores(reader.settings),
            "path": grid.trajectory(BINS),
        }
        if whole:
            yield grid_record(case, frame, grid)


def grid_record(case: Case, frame: str, grid: Grid) -> Record:
    """Every cell: which beliefs surface at each position and layer, and what it was decoded to."""
    return {
        "kind": "grid", "case": case.id, "frame": frame, "layers": list(grid.layers), "tokens": list(grid.tokens),
        "hits": {name: own.int().tolist() for name, own in grid.hits.items()}, "decoded": grid.decoded,
    }  # fmt: skip


def intervened(
    intervener: Intervener, jobs: Sequence[tuple[Case, str]], strengths: Sequence[float]
) -> Iterator[Record]:
    """Ask cases, then measure the margin of the same text under every change."""
    chosen = arms(strengths)
    for (case, frame), told in zip(jobs, intervener.asker.ask(jobs), strict=True):
        yield told_record(case, frame, told)
        for arm, margin in zip(chosen, intervener.margins(case, told, chosen), strict=True):
            yield {
                "kind": "changed", "case": case.id, "frame": frame, "arm": arm.name, "strength": arm.strength,
                "before": round(told.margin, 4), "after": round(margin, 4), "favours": told.favours,
            }  # fmt: skip
