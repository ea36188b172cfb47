"""Fit channels to neurons: the search over the rows, the same search over noise, and what stands out against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from shammie.core.model import LanguageModel
from shammie.core.vocabulary import Matrix
from shammie.rotate.channels import Channels
from shammie.rotate.evidence import Null, significance
from shammie.rotate.neurons import Population, check_neurons, read_rows
from shammie.rotate.pursue import Found, Pursuit
from shammie.rotate.settings import PARTS, Part, RotateSettings
from shammie.rotate.tokens import TokenSpace, choose_matrix, token_space

NAMED_TOKENS = 20  # of each tail, kept with a channel
NullKind = Literal["gaussian", "covariance"]


@dataclass(eq=False)
class Reader:
    """A model's token spaces, each read once."""

    model: LanguageModel
    settings: RotateSettings
    _spaces: dict[Matrix, TokenSpace] = field(default_factory=dict)
    _gaussian: dict[Matrix, Tensor] = field(default_factory=dict)

    def under(self, settings: RotateSettings) -> Reader:
        """The same model under other settings; token spaces that these do not change are shared."""
        shared = self._spaces if settings.fold_norm == self.settings.fold_norm else {}
        return Reader(self.model, settings, shared)

    def matrix(self, layer: int) -> Matrix:
        """Which token vectors a layer is read with."""
        return choose_matrix(self.model, layer, self.settings.matrix)

    def space(self, matrix: Matrix) -> TokenSpace:
        """The token vectors of a matrix."""
        if matrix not in self._spaces:
            self._spaces[matrix] = token_space(self.model, matrix, fold_norm=self.settings.fold_norm)
        return self._spaces[matrix]

    def gaussian_null(self, matrix: Matrix) -> Float[Tensor, "N C"]:
        """Evidence that isotropic noise reaches; one for all layers that share the token vectors."""
        if matrix not in self._gaussian:
            population = Population.isotropic(self.model.anatomy.width, self.model.device)
            self._gaussian[matrix] = _null(Pursuit(self.space(matrix), population, self.settings), "gaussian", 0, 0)
        return self._gaussian[matrix]


class Fitter:
    """One part of one layer. Errors: as `neurons.weight_slice` and `neurons.read_rows`."""

    def __init__(self, reader: Reader, layer: int, part: Part) -> None:
        self.reader, self.layer, self.part = reader, layer, part
        self.rows = read_rows(reader.model, layer, part, fold_norm=reader.settings.fold_norm)
        self.matrix = reader.matrix(layer)
        self.space = reader.space(self.matrix)
        self.pursuit = Pursuit(self.space, Population.of(self.rows), reader.settings)

    def search(self, neurons: Sequence[int]) -> Found:
        """Channels of these neurons; what is found in one does not depend on the others but through its starts."""
        check_neurons(self.reader.model, self.layer, neurons)
        generator = _generator(self.reader.settings.seed, 1, self.layer, PARTS.index(self.part), *neurons)
        return self.pursuit(self.rows[list(neurons)], generator)

    def covariance_null(self) -> Float[Tensor, "N C"]:
        """Evidence that noise with the layer's own mean and covariance reaches."""
        return _null(self.pursuit, "covariance", self.layer, PARTS.index(self.part))

    def channels(self, neurons: Sequence[int], found: Found, nulls: Sequence[Float[Tensor, "N C"]]) -> Channels:
        """The artifact: what was found, beside what noise reaches."""
        model, settings = self.reader.model, self.reader.settings
        p_values, significant = significance([Null(null) for null in nulls], found.evidence)
        tokens, opposite = _name(self.space, found)
        w = self.rows[list(neurons)]
        return Channels(
            layer=self.layer, part=self.part, matrix=self.matrix, neurons=tuple(neurons),
            settings=settings, vectors=found.vectors, directions=found.directions, side=found.side.long(), tokens=tokens,
            opposite=opposite, kurtosis=found.kurtosis, cosine=cosine_similarity(found.vectors, w[:, None], dim=-1),
            objective=found.objective, evidence=found.evidence,
            p_value=torch.from_numpy(p_values).float(), significant=torch.from_numpy(significant),
            null_evidence=torch.stack(list(nulls)), provenance={"model": model.name, "model_hash": model.hash},
        )  # fmt: skip


def fit(
    model: LanguageModel, layer: int, part: Part, neurons: Sequence[int], settings: RotateSettings | None = None
) -> Channels:
    """Take neurons of one part of a layer apart into channels, each with its significance against two nulls."""
    reader = Reader(model, settings or RotateSettings())
    fitter = Fitter(reader, layer, part)
    found = fitter.search(neurons)
    nulls = [reader.gaussian_null(fitter.matrix), fitter.covariance_null()]
    return fitter.channels(neurons, found, nulls)


def _null(pursuit: Pursuit, kind: NullKind, layer: int, part: int) -> Tensor:
    generator = _generator(pursuit.settings.seed, 2 if kind == "gaussian" else 3, layer, part)
    noise = pursuit.population.draw(pursuit.settings.null_draws, generator)
    return pursuit(noise, generator).evidence


def _generator(*entropy: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))


def _name(space: TokenSpace, found: Found) -> tuple[Tensor, Tensor]:
    """The nearest tokens [N, C, k] of each channel's own end and of the other one."""
    ends: tuple[list[Tensor], list[Tensor]] = ([], [])
    for vectors, side in zip(found.vectors.split(64), found.side.split(64), strict=True):
        scores = space.cosines(normalize(vectors, dim=-1).flatten(0, 1)) * side.flatten()[:, None]
        for sign, names in zip((1, -1), ends, strict=True):
            names.append((sign * scores).topk(NAMED_TOKENS, dim=-1).indices.view(*side.shape, -1))
    return torch.cat(ends[0]), torch.cat(ends[1])
