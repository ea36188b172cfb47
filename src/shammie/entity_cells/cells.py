"""The frozen result of a localization: each entity's cell and group, and the activity that interventions need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shammie.core import files
from shammie.core.artifact import check_model, load_artifact, save_artifact
from shammie.core.errors import DataError
from shammie.core.model import LanguageModel
from shammie.core.plain import from_plain
from shammie.entity_cells import equations as eq
from shammie.entity_cells.settings import LocalizeSettings

if TYPE_CHECKING:
    from shammie.entity_cells.localize import Localizer

NONE = -1  # in place of a neuron where no neuron qualifies
Record = dict[str, Any]
_KIND = "entity-cells"


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells of E entities.

    Attributes:
        layer, neuron: each entity's cell; NONE where no neuron qualifies.
        group_layer, group_neuron, group_value: its best K neurons with their mean activity for the entity.
        vector: the entity's mean activity in the cell's layer (in the group's first layer where there is no cell).
        mean, sigma: activity of all layers' neurons, mean over entities, and deviation over generic texts.
        findings: a record an entity.
    """

    names: tuple[str, ...]
    settings: LocalizeSettings
    sizes: tuple[int, ...]
    layer: Int[Tensor, " E"]
    neuron: Int[Tensor, " E"]
    group_layer: Int[Tensor, "E K"]
    group_neuron: Int[Tensor, "E K"]
    group_value: Float[Tensor, "E K"]
    vector: Float[Tensor, "E F"]
    mean: Float[Tensor, " N"]
    sigma: Float[Tensor, " N"]
    findings: tuple[Record, ...]
    provenance: dict[str, Any] = field(default_factory=dict)

    _TENSORS: ClassVar = ("layer", "neuron", "group_layer", "group_neuron", "group_value", "vector", "mean", "sigma")

    def found(self, entity: int) -> bool:
        """Whether the entity has a cell."""
        return int(self.neuron[entity]) != NONE

    def where(self, layer: int) -> slice:
        """A layer's part of `mean` and `sigma`."""
        start = sum(self.sizes[:layer])
        return slice(start, start + self.sizes[layer])

    def group(self, entity: int, count: int | None = None) -> Iterator[tuple[int, int, float]]:
        """(layer, neuron, value) of the entity's best neurons."""
        columns = (self.group_layer[entity], self.group_neuron[entity], self.group_value[entity])
        rows = zip(*(column.tolist() for column in columns), strict=True)
        yield from [row for row in rows if row[1] != NONE][:count]

    def check_model(self, model: LanguageModel) -> None:
        """Refuse other weights than those the cells were found in."""
        check_model(self.provenance, model.hash, model.name)

    def save_pretrained(self, directory: files.PathLike, *, overwrite: bool = False) -> None:
        """Write config.json and model.safetensors."""
        config = {
            "names": list(self.names), "settings": asdict(self.settings), "sizes": list(self.sizes),
            "findings": list(self.findings),
        }  # fmt: skip
        tensors = {name: getattr(self, name) for name in self._TENSORS}
        save_artifact(directory, _KIND, config, tensors, self.provenance, overwrite=overwrite)

    @classmethod
    def from_pretrained(cls, directory: files.PathLike) -> Self:
        """Read cells back."""
        artifact = load_artifact(directory, _KIND)
        try:
            config = artifact.config
            settings = from_plain(LocalizeSettings, config["settings"])
            return cls(
                tuple(config["names"]), settings, tuple(config["sizes"]), findings=tuple(config["findings"]),
                provenance=artifact.provenance, **{name: artifact.tensors[name] for name in cls._TENSORS},
            )  # fmt: skip
        except (KeyError, TypeError) as error:
            raise DataError(f"{directory} holds no whole cells ({error}); localize again") from None


def gather(localizer: Localizer) -> Cells:
    """Rank the neurons of every entity and keep the best."""
    settings, layout, count = localizer.settings, localizer.layout, len(localizer.names)
    tops = torch.full((count, settings.group), NONE)
    values = torch.zeros(count, settings.group)
    layer, neuron = torch.full((2, count), NONE)
    vector = torch.zeros(count, max(layout.sizes))
    findings = []
    for entity in range(count):
        ranking = localizer.ranking(localizer.statistics, entity, entity)
        best = localizer.top(ranking, settings.group)
        tops[entity, : len(best)] = best
        activity = localizer.activity(localizer.statistics, entity)
        values[entity, : len(best)] = torch.where(best == NONE, 0.0, activity[best])
        if best[0] != NONE:
            layer[entity], neuron[entity] = layout.place(int(best[0]))
            part = layout.where(int(layer[entity]))
            vector[entity, : part.stop - part.start] = activity[part]
        findings.append(_finding(localizer, entity, int(best[0]), ranking))
    places = torch.tensor([[layout.place(i) if i != NONE else (NONE, NONE) for i in row] for row in tops.tolist()])
    cells = Counter(found["cell"] for found in findings if found["cell"])
    for found in findings:
        found["shared_by"] = cells[found["cell"]] - 1 if found["cell"] else 0
    mean = torch.stack([localizer.statistics.whole.mean[entity] for entity in range(count)]).mean(0)
    return Cells(
        tuple(localizer.names), settings, layout.sizes, layer, neuron, places[..., 0].contiguous(),
        places[..., 1].contiguous(), values, vector, mean * (localizer.sigma + eq.EPSILON) + localizer.mu, localizer.sigma,
        tuple(findings), {"model": localizer.model.name, "model_hash": localizer.model.hash},
    )  # fmt: skip


def _finding(localizer: Localizer, entity: int, best: int, ranking: Float[Tensor, " N"]) -> Record:
    """What is recorded of an entity: its cell, how it stands out, and whether either half of the templates finds it."""
    statistics, layout = localizer.statistics, localizer.layout
    halves = [int(localizer.top(localizer.ranking(statistics, entity, entity, part), 1)[0]) for part in (1, 2)]
    lowest = localizer.ranking(statistics, entity, entity, first_layer=0)[: layout.sizes[0]]
    head = {
        "kind": "cell", "entity": localizer.names[entity], "halves_agree": halves[0] == halves[1] != NONE,
        "layer_0": int(lowest.argmax()) if bool(lowest.max().isfinite()) else None,
        "candidates": int(ranking.isfinite().sum()),
    }  # fmt: skip
    if best == NONE:
        return {**head, "cell": None}
    layer, neuron = layout.place(best)
    one = statistics.whole
    scores = eq.stability(
        eq.Moments(one.count[entity : entity + 1], one.mean[entity : entity + 1], one.m2[entity : entity + 1])
    )[0]
    others = localizer.references[0].others(entity)[best]
    return {
        **head, "cell": f"L{layer}-N{neuron}", "layer": layer, "neuron": neuron, "score": float(scores[best]),
        "mean_z": float(one.mean[entity, best]), "uniqueness": float(one.mean[entity, best].abs() / (others + eq.EPSILON)),
        "dominance": eq.dominance(scores[layout.where(layer)], neuron), "template_neuron": best in localizer.template_neurons,
    }  # fmt: skip
