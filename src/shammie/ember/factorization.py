"""Signed sparse factorization of an embedding slice: a few sparse products an iteration, started from token rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shammie.core.errors import DataError, NonFiniteError
from shammie.ember import equations as eq
from shammie.ember.settings import FactorizationSettings


@dataclass(frozen=True, eq=False)
class Factorization:
    """The best iteration: A ~ F G^T with G kept as its entries; `explained` is the share of ||A||^2."""

    features: Float[Tensor, "K D"]
    index: Int[Tensor, "K S"]
    value: Float[Tensor, "K S"]
    tokens: int
    explained: float
    iterations: int

    @property
    def loadings(self) -> Float[Tensor, "V K"]:
        """G as a dense matrix."""
        return eq.scatter(self.index, self.value, self.tokens)


def factorize(rows: Float[Tensor, "V D"], settings: FactorizationSettings, seed: int = 0) -> Factorization:
    """Alternate the closed-form updates from K token rows and keep the best iteration.

    Truncating G makes the error rise at times, hence the best one. Errors: DataError for fewer tokens than features,
    NonFiniteError for rows with NaN or infinity.
    """
    rows = rows.float()
    tokens, count = len(rows), settings.features
    if tokens < count:
        raise DataError(f"{tokens} tokens cannot be cut into {count} features; give more sentences or fewer features")
    energy = rows.square().sum()
    if not energy.isfinite():
        raise NonFiniteError("the embedding slice holds NaN or infinity; mend the model")
    size = math.ceil(settings.share * tokens)
    index, value = eq.winner_take_all(eq.solve_loadings(rows, _start(rows, count, seed)), size)
    best, best_error, threshold, waited = None, math.inf, math.inf, 0
    product, gram = eq.gather_product(rows, index, value), eq.gram(eq.scatter(index, value, tokens))
    for iteration in range(1, settings.iterations + 1):
        features = eq.solve_features(product, gram)
        _, norms = eq.unit_columns(value)
        features = features * norms[:, None]
        index, value = eq.winner_take_all(eq.solve_loadings(rows, features), size)
        product, gram = eq.gather_product(rows, index, value), eq.gram(eq.scatter(index, value, tokens))
        error = float(eq.squared_error(energy, product, features, gram))
        if not math.isfinite(error):
            raise NonFiniteError(f"the factorization broke down in iteration {iteration}; lower the number of features")
        if error < best_error:
            best_error = error
            best = (features, index, value, iteration)
        waited += 1
        if error < threshold:
            threshold, waited = error * (1 - settings.tolerance), 0
        if waited >= settings.patience:
            break
    assert best is not None
    features, index, value, iteration = best
    return Factorization(features, index, value, tokens, 1 - best_error / float(energy), iteration)


def _start(rows: Float[Tensor, "V D"], count: int, seed: int) -> Float[Tensor, "K D"]:
    """Different rows drawn by their energy: rows near zero would start features that stay empty."""
    energy = rows.square().sum(1).cpu()
    weight = energy + 1e-9 * energy.mean().clamp(min=torch.finfo(energy.dtype).tiny)
    return rows[torch.multinomial(weight, count, generator=torch.Generator().manual_seed(seed)).to(rows.device)]
