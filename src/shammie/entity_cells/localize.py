"""Finds each entity's cell: the neuron that is steadily far from its baseline for this name, and for few others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shammie.core.errors import DataError
from shammie.core.model import LanguageModel
from shammie.entity_cells import equations as eq
from shammie.entity_cells.cells import NONE, Cells
from shammie.entity_cells.equations import Moments, Reference
from shammie.entity_cells.read import Layout, baseline, read_names
from shammie.entity_cells.settings import LocalizeSettings
from shammie.entity_cells.texts import CLOZES, anonymous_names, templates


@dataclass(frozen=True, eq=False)
class Statistics:
    """Standardized moments of names, over all templates and over each half of them."""

    whole: Moments
    halves: tuple[Moments, Moments]

    @classmethod
    def of(cls, raw: tuple[Moments, Moments], mu: Float[Tensor, " N"], sigma: Float[Tensor, " N"]) -> Statistics:
        """From raw moments and the baseline's mean and deviation."""
        halves = tuple(eq.standardized(half, mu, sigma) for half in raw)
        return cls(halves[0].merged(halves[1]), halves)  # type: ignore[arg-type]


class Localizer:
    """What a model's neurons do for some names, and what follows from it."""

    def __init__(self, model: LanguageModel, names: Sequence[str], settings: LocalizeSettings | None = None) -> None:
        """Read the baseline, the names and the made-up names.

        Errors: DataError for fewer than two names, UnsupportedModelError for layers of fused experts.
        """
        if len(names) < 2:
            raise DataError(f"{len(names)} name was given; a cell is told from others', so give at least two")
        self.model, self.names, self.settings = model, list(names), settings or LocalizeSettings()
        self.layout = Layout.of(model)
        self.templates = templates(self.settings.templates, self.settings.seed)
        found = baseline(model, self.layout, CLOZES)
        self.mu, self.sigma = found.mean[0], found.deviation()[0]
        self.anonymous = anonymous_names(self.settings.anonymous, self.settings.seed)
        self.statistics = self.read([*self.names, *self.anonymous])

    def read(self, names: Sequence[str]) -> Statistics:
        """Statistics of any names, such as other forms of an entity's."""
        return Statistics.of(read_names(self.model, self.layout, names, self.templates), self.mu, self.sigma)

    @cached_property
    def references(self) -> tuple[Reference, Reference, Reference]:
        """Names to be told from, over all templates and over each half."""
        parts = (self.statistics.whole, *self.statistics.halves)
        return tuple(Reference.of(part.mean.abs(), self.settings.shared) for part in parts)  # type: ignore[return-value]

    def activity(self, names: Statistics, row: int) -> Float[Tensor, " N"]:
        """A name's mean raw activations."""
        return names.whole.mean[row] * (self.sigma + eq.EPSILON) + self.mu

    def ranking(
        self, names: Statistics, row: int, own: int | None, part: int = 0, first_layer: int | None = None
    ) -> Float[Tensor, " N"]:
        """Score of each neuron for a name, -inf where it cannot be the cell.

        Args:
            own: the number of the entity among the names to be told from; None for a name that is not there.
            part: 0 for all templates, 1 and 2 for a half.
        """
        moments = (names.whole, *names.halves)[part]
        one = Moments(moments.count[row : row + 1], moments.mean[row : row + 1], moments.m2[row : row + 1])
        score = eq.stability(one)[0]
        if self.settings.protocol == "paper":
            return score
        ratio = eq.uniqueness(one.mean[0].abs(), self.references[part].others(own))
        allowed = ratio >= self.settings.uniqueness
        start = self.settings.first_layer if first_layer is None else first_layer
        allowed[: self.layout.starts[start]] = False
        return torch.where(allowed, score, -torch.inf)

    def top(self, ranking: Float[Tensor, " N"], count: int) -> Int[Tensor, " K"]:
        """The best neurons of a ranking, NONE where there are no more."""
        best = ranking.topk(min(count, len(ranking)))
        return torch.where(best.values.isfinite(), best.indices, NONE)

    @cached_property
    def template_neurons(self) -> set[int]:
        """The five best neurons of each made-up name by stability alone: they stand for the template."""
        rows = range(len(self.names), len(self.names) + len(self.anonymous))
        scores = (eq.stability(_row(self.statistics.whole, row))[0] for row in rows)
        return {int(index) for score in scores for index in score.topk(5).indices}

    def cells(self) -> Cells:
        """The cell and the group of every entity, with what the interventions need of its activity."""
        from shammie.entity_cells.cells import gather

        return gather(self)


def _row(moments: Moments, row: int) -> Moments:
    return Moments(moments.count[row : row + 1], moments.mean[row : row + 1], moments.m2[row : row + 1])
