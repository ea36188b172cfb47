"""Amnesia as a weight patch: an entity's cell is negated where it writes, at every token."""

from __future__ import annotations

from shammie.core.errors import DataError
from shammie.core.model import LanguageModel
from shammie.core.patch import WeightPatch, rows
from shammie.entity_cells.cells import Cells


def ablation_patch(model: LanguageModel, cells: Cells, entity: int, scale: float = -1.0, group: int = 1) -> WeightPatch:
    """The patch that multiplies what the entity's best `group` neurons write by `scale`.

    Errors: DataError for an entity without a cell, MismatchError for other weights than those the cells were found in.
    """
    cells.check_model(model)
    if not cells.found(entity):
        raise DataError(
            f"{cells.names[entity]} has no cell under these settings; lower --uniqueness and localize again"
        )
    by_layer: dict[int, list[int]] = {}
    for layer, neuron, _ in cells.group(entity, group):
        by_layer.setdefault(layer, []).append(neuron)
    deltas = []
    for layer, chosen in sorted(by_layer.items()):
        target = model.anatomy.mlp_weights(layer).write
        written = target.view(model.module)[chosen].detach().float().cpu()
        deltas.append(rows(target, chosen, (scale - 1) * written))
    return WeightPatch.make(model, deltas, entity_cells={"entity": cells.names[entity], "scale": scale, "group": group})
