"""Negative preference optimization: a bounded ascent, relative to the model before it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from shammie.core.model import LanguageModel
from shammie.core.patch import WeightPatch
from shammie.core.schedule import TrainSettings
from shammie.core.train import Training
from shammie.ember import equations as eq
from shammie.ember.erasers.base import Sides, token_log_probabilities, trained_patch, weight_names
from shammie.ember.pack import ConceptPack


@dataclass(frozen=True)
class Npo:
    """L = -(2 / beta) E[log sigma(-beta (log p - log p_ref))] + alpha NLL(retain), log p summed over a sequence."""

    beta: float = 0.1
    alpha: float = 1.0
    modules: tuple[str, ...] = ("down_proj",)
    train: TrainSettings = field(default_factory=lambda: TrainSettings(steps=20, batch_size=4, learning_rate=2e-4))

    @classmethod
    def grid(cls) -> list[Npo]:
        """Learning rates and two strengths of the preference."""
        base = cls()
        cells = ((2e-4, 0.1), (4e-4, 0.1), (1e-4, 0.1), (8e-4, 0.1), (4e-4, 0.05), (2e-4, 0.2))
        return [replace(base, train=replace(base.train, learning_rate=rate), beta=beta) for rate, beta in cells]

    def erase(
        self, model: LanguageModel, pack: ConceptPack, directory: Path, seed: int, *, resume: bool
    ) -> WeightPatch:
        """Train the write matrices; the reference's log-probabilities are read once, before the first step."""
        sides, settings = Sides.of(model, pack), replace(self.train, seed=seed)
        with torch.no_grad():
            reference = {i: token_log_probabilities(model, [sides.forget[i]])[0].sum() for i in sides.met(settings)}

        def loss(training: Training, piece: list[int]) -> None:
            with training.autocast():
                log_p, row = token_log_probabilities(model, [sides.forget[i] for i in piece])
                sums = log_p.new_zeros(len(piece)).index_add(0, row, log_p)
                total = eq.npo_loss(sums, torch.stack([reference[i] for i in piece]), self.beta)
                kept, _ = token_log_probabilities(model, [sides.retain[sides.partner(i)] for i in piece])
            training.backward(total - self.alpha * kept.mean() * len(piece), len(piece))

        names = weight_names(model, self.modules)
        return trained_patch(model, names, settings, len(sides.forget), loss, directory, resume=resume, method="npo")
