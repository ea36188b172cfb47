"""Which neurons each arm of a test touches: the entity's own, others' as controls, and random ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shammie.core.site import neurons
from shammie.entity_cells import equations as eq
from shammie.entity_cells.cells import NONE, Cells
from shammie.entity_cells.measure import Change, scaled

if TYPE_CHECKING:
    from shammie.entity_cells.localize import Localizer, Statistics

_ALIKE = 20  # neurons of most similar deviation among which a random one is drawn


@dataclass(frozen=True, eq=False)
class Arm:
    """Some neurons (layer, neuron, activity that injection gives it)."""

    name: str
    places: tuple[tuple[int, int, float], ...]

    def ablation(self, factor: float, *, everywhere: bool = False) -> list[Change]:
        """The neurons times a factor."""
        return [
            scaled(layer, [neuron for neuron, _ in own], factor, everywhere=everywhere)
            for layer, own in self._by_layer().items()
        ]

    def injection(self, cells: Cells, strength: float) -> list[Change]:
        """Each layer set to the mean entity's activity, and the neurons moved from it by `strength`."""
        changes = []
        for layer, own in self._by_layer().items():
            mean = cells.mean[cells.where(layer)]
            value = mean.clone()
            chosen = torch.tensor([neuron for neuron, _ in own])
            value[chosen] = torch.tensor([activity for _, activity in own])
            changes.append(Change(neurons(layer), None, 0.0, eq.injected(mean, value, chosen, strength)))
        return changes

    def _by_layer(self) -> dict[int, list[tuple[int, float]]]:
        layers: dict[int, list[tuple[int, float]]] = {}
        for layer, neuron, value in self.places:
            layers.setdefault(layer, []).append((neuron, value))
        return dict(sorted(layers.items()))


class Arms:
    """The arms of every entity that has a cell; other entities are the next ones in a shuffled order."""

    def __init__(self, cells: Cells, seed: int, group: int) -> None:
        self.cells, self.seed, self.group = cells, seed, group
        order = [entity for entity in range(len(cells.names)) if cells.found(entity)]
        random.Random(seed).shuffle(order)
        self.order = order

    def of(self, entity: int) -> list[Arm]:
        """own, other (any layer), other_same_layer, random, own_group, other_group; those that there are."""
        found = [self._cell("own", entity)]
        others = self._after(entity)
        own = self._place(entity)
        if (other := next((e for e in others if self._place(e) != own), None)) is not None:
            found.append(self._cell("other", other))
        same = (e for e in others if self._place(e)[0] == own[0] and self._place(e) != own)
        if (other_same := next(same, None)) is not None:
            found.append(self._cell("other_same_layer", other_same))
        found.append(self._random(entity))
        if self.group:
            found.append(Arm("own_group", tuple(self.cells.group(entity, self.group))))
            found += [Arm("other_group", tuple(self.cells.group(e, self.group))) for e in others[:1]]
        return found

    def of_form(self, localizer: Localizer, statistics: Statistics, row: int, entity: int) -> list[Arm]:
        """What another form of an entity's name finds by itself (form, form_group), and the entity's cell as it is there."""
        activity, layout = localizer.activity(statistics, row), localizer.layout
        best = localizer.top(localizer.ranking(statistics, row, entity), max(1, self.group))
        cells = [(*layout.place(int(i)), float(activity[i])) for i in best if i != NONE]
        layer, neuron = self._place(entity)
        own = Arm("own_at_form", ((layer, neuron, float(activity[layout.index(layer, neuron)])),))
        found = [Arm("form", tuple(cells[:1])), *([Arm("form_group", tuple(cells))] if self.group else [])]
        return [own, *(found if cells else [])]

    def layer_vector(self, entity: int) -> tuple[int, Tensor]:
        """The entity's whole activity in its cell's layer: what injecting everything there can do."""
        layer = int(self.cells.layer[entity])
        return layer, self.cells.vector[entity, : self.cells.sizes[layer]]

    def _after(self, entity: int) -> Sequence[int]:
        at = self.order.index(entity)
        return [*self.order[at + 1 :], *self.order[:at]]

    def _place(self, entity: int) -> tuple[int, int]:
        return int(self.cells.layer[entity]), int(self.cells.neuron[entity])

    def _cell(self, name: str, entity: int) -> Arm:
        layer, neuron = self._place(entity)
        return Arm(name, ((layer, neuron, float(self.cells.vector[entity, neuron])),))

    def _random(self, entity: int) -> Arm:
        """A neuron of the cell's layer whose deviation over generic texts is like the cell's."""
        layer, neuron = self._place(entity)
        sigma = self.cells.sigma[self.cells.where(layer)]
        near = (sigma - sigma[neuron]).abs().argsort(stable=True).tolist()
        alike = [other for other in near if other != neuron][:_ALIKE]
        chosen = random.Random(f"{self.seed} {entity}").choice(alike)
        return Arm("random", ((layer, chosen, float(self.cells.vector[entity, chosen])),))
