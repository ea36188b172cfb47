"""A layer's neurons as rows: one part of each, and the population that they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from shammie.core.anatomy import WeightSlice
from shammie.core.errors import NonFiniteError, ShammieError, SiteError, UnsupportedModelError
from shammie.core.model import LanguageModel
from shammie.core.vocabulary import norm_weight
from shammie.rotate.settings import PARTS, Part


def weight_slice(model: LanguageModel, layer: int, part: Part) -> WeightSlice:
    """The matrix whose rows are one part of a layer's neurons.

    Errors: UnsupportedModelError for sparse layers and for the gate of MLPs that have none.
    """
    if part not in PARTS:
        raise ShammieError(f"{part!r} is no part of a neuron; its parts are {', '.join(PARTS)}")
    model.anatomy.check_layer(layer)
    if model.anatomy.is_sparse(layer):
        raise UnsupportedModelError(
            f"layer {layer} of {model.name} is sparse; ROTATE reads the neurons of dense layers"
        )
    weights = model.anatomy.mlp_weights(layer)
    if part == "gate" and weights.gate is None:
        raise UnsupportedModelError(
            f"the MLPs of {model.name} ({model.anatomy.model_type}) have two matrices and no gate; use --part in,out"
        )
    found = {"gate": weights.gate, "in": weights.read, "out": weights.write}[part]
    assert found is not None
    return found


def check_neurons(model: LanguageModel, layer: int, neurons: Sequence[int]) -> None:
    """Raise SiteError for a neuron that the layer lacks."""
    count = model.anatomy.neuron_count(layer)
    for neuron in neurons:
        if not 0 <= neuron < count:
            raise SiteError(f"neuron {neuron} does not exist; layer {layer} has neurons 0 to {count - 1}")


def folded_scale(model: LanguageModel, layer: int, part: Part, fold_norm: bool) -> Float[Tensor, " D"] | None:
    """What `fold_norm` multiplies gate and in rows by: the scale of the norm before the MLP. None where there is none.

    Errors: NonFiniteError where a scale of 0 would have to be undone.
    """
    path = model.anatomy.family.mlp_norm
    if not fold_norm or part == "out" or path is None:
        return None
    scale = norm_weight(model, model.anatomy.layers[layer].get_submodule(path))
    if bool((scale == 0).any()):
        raise NonFiniteError(f"the norm before the MLP of layer {layer} has a scale of 0; fit without --fold-norm")
    return scale


def read_rows(model: LanguageModel, layer: int, part: Part, *, fold_norm: bool = False) -> Float[Tensor, "F D"]:
    """One part of all neurons of a layer in float32.

    Errors: NonFiniteError naming the first neuron whose row holds NaN or infinity, ShammieError for a row of zeros.
    """
    rows = weight_slice(model, layer, part).view(model.module).float()
    broken = ~rows.isfinite().all(-1)
    if bool(broken.any()):
        raise NonFiniteError(
            f"neuron {int(broken.nonzero()[0])} of layer {layer} has a {part} row with NaN or infinity"
        )
    empty = (rows == 0).all(-1)
    if bool(empty.any()):
        first = int(empty.nonzero()[0])
        raise ShammieError(f"neuron {first} of layer {layer} has a {part} row of zeros; it says nothing, leave it out")
    scale = folded_scale(model, layer, part, fold_norm)
    return rows if scale is None else rows * scale


@dataclass(frozen=True, eq=False)
class Population:
    """Where unit rows come from: their mean [D] and covariance [D, D]. It standardizes, and draws nulls."""

    mean: Float[Tensor, " D"]
    covariance: Float[Tensor, "D D"]

    @classmethod
    def of(cls, rows: Float[Tensor, "F D"]) -> Population:
        """The population of a layer's neurons, each scaled to norm 1."""
        unit = normalize(rows, dim=-1)
        mean = unit.mean(0)
        return cls(mean, (unit - mean).T @ (unit - mean) / len(unit))

    @classmethod
    def isotropic(cls, width: int, device: torch.device | str = "cpu") -> Population:
        """No direction is special: Gaussian noise."""
        return cls(torch.zeros(width, device=device), torch.eye(width, device=device) / width)

    def spread(self, v: Float[Tensor, "*B D"]) -> Float[Tensor, "*B"]:
        """Standard deviation over the population of the component along each direction."""
        return ((v @ self.covariance) * v).sum(-1).clamp(min=1e-20).sqrt()

    def draw(self, count: int, generator: torch.Generator) -> Float[Tensor, "N D"]:
        """Gaussian rows of this mean and covariance, scaled to norm 1; drawn on the CPU, the same on every device."""
        values, vectors = torch.linalg.eigh(self.covariance.double().cpu())
        root = (vectors * values.clamp(min=0).sqrt()).float()
        noise = torch.randn(count, len(self.mean), generator=generator)
        return normalize(self.mean + (noise @ root.T).to(self.mean.device), dim=-1)
