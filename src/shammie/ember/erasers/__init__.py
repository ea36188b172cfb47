"""The erasers that EMBER plugs into: one small file each, behind one interface.

A later one (CRISP, PISCES, LEACE, SimNPO) is a frozen dataclass of its settings with `erase` and `GRID`, and a line here.
"""

from __future__ import annotations

from shammie.core.errors import ShammieError
from shammie.ember.erasers.base import Eraser
from shammie.ember.erasers.elm import Elm
from shammie.ember.erasers.graddiff import GradDiff
from shammie.ember.erasers.npo import Npo
from shammie.ember.erasers.rmu import Rmu
from shammie.ember.erasers.snmf import Snmf

ERASERS: dict[str, type[Eraser]] = {"rmu": Rmu, "graddiff": GradDiff, "npo": Npo, "snmf": Snmf, "elm": Elm}


def cells(name: str, count: int) -> list[Eraser]:
    """The first `count` cells of an eraser's grid, the likeliest first."""
    if name not in ERASERS:
        raise ShammieError(f"no eraser is called {name!r}; choose one of {', '.join(ERASERS)}")
    grid = ERASERS[name].grid()
    if not 1 <= count <= len(grid):
        raise ShammieError(f"the grid of {name} has {len(grid)} cells, so --cells must be between 1 and {len(grid)}")
    return grid[:count]
