"""Density and reconstruction of held-out tokens, and how far steering promotes a concept at what cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from shammie.core.edit import Edit, edited
from shammie.core.intervals import Estimate, mean_interval
from shammie.core.model import LanguageModel
from shammie.core.score import score
from shammie.mfa.equations import Parameters
from shammie.mfa.expectation import Expectation, leading_dimensions

_BLOCK = 8192


@dataclass(frozen=True)
class HeldOut:
    """Held-out tokens with the text of each, so that intervals are over texts."""

    x: Float[Tensor, "N D"]
    text: Tensor

    def mean(self, values: Float[Tensor, " N"], seed: int = 0) -> Estimate:
        """Mean with a bootstrap interval over texts."""
        return mean_interval(values.double().numpy(), self.text.numpy(), seed)


def negative_log_likelihood(
    held: HeldOut, mixture: Parameters, screen: int = 64, candidates: int = 8
) -> Float[Tensor, " N"]:
    """Nats of each token; screened where that saves anything."""
    directions = leading_dimensions(mixture, screen) if len(mixture.weights) > candidates else None
    step = Expectation(mixture, directions, candidates)
    return torch.cat([-step.posterior(x).log_density for x in held.x.split(_BLOCK)])


def squared_error(held: HeldOut, reconstruct: Callable[[Tensor], Tensor]) -> Float[Tensor, " N"]:
    """Squared error of each token as a share of the mean squared distance from the mean: 1 explains nothing."""
    total = (held.x - held.x.mean(0)).square().sum(-1).mean()
    errors = [(reconstruct(x) - x).square().sum(-1) for x in held.x.split(_BLOCK)]
    return torch.cat(errors) / total


@dataclass(frozen=True)
class Steered:
    """What an edit does, prompt by prompt: nats by which a concept's words and neutral text become likelier."""

    concept: np.ndarray[tuple[int], np.dtype[np.float64]]
    fluency: np.ndarray[tuple[int], np.dtype[np.float64]]


class Effect:
    """Measures edits against the untouched model on the same prompts, words and neutral text."""

    def __init__(self, model: LanguageModel, prompts: Sequence[str], neutral: Sequence[tuple[str, str]]) -> None:
        self.model, self.prompts, self.neutral = model, prompts, neutral
        self._base: dict[tuple[str, ...], np.ndarray[tuple[int], np.dtype[np.float64]]] = {}
        self._plain = self._fluency()

    def __call__(self, edit: Edit, words: Sequence[str]) -> Steered:
        """Mean rise of the log-probability of each word after the prompts, and of a token of neutral text."""
        key = tuple(words)
        if key not in self._base:
            self._base[key] = self._words(words)
        with edited(self.model, [edit]):
            return Steered(self._words(words) - self._base[key], self._fluency() - self._plain)

    def _words(self, words: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        found = score(self.model, [(prompt, f" {word}") for word in words for prompt in self.prompts])
        return np.array([one.per_token for one in found]).reshape(len(words), -1).mean(1)

    def _fluency(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.array([one.per_token for one in score(self.model, self.neutral)])
