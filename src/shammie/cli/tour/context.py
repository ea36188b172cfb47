"""What every chapter of the tour is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shammie.core.model import LanguageModel


@dataclass(frozen=True)
class TourContext:
    """A loaded model and how much to measure. A chapter takes at most 45 seconds on two cores unless `full`."""

    model: LanguageModel
    seed: int = 0
    full: bool = False
    limit: int | None = None

    def size(self, reduced: int, full: int) -> int:
        """How many items a measurement takes: the reduced or the full number, never more than --limit."""
        wanted = full if self.full else reduced
        return wanted if self.limit is None else max(2, min(wanted, self.limit))
