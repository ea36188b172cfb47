"""RMU: steer a middle layer's states of the concept to a random direction, and hold those of neutral texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from shammie.core.batch import pad
from shammie.core.capture import capture
from shammie.core.model import LanguageModel
from shammie.core.patch import WeightPatch
from shammie.core.schedule import TrainSettings
from shammie.core.site import residual
from shammie.core.train import Training
from shammie.ember.erasers.base import Sides, trained_patch, weight_names
from shammie.ember.pack import ConceptPack


@dataclass(frozen=True)
class Rmu:
    """L = MSE(h(forget), u) + alpha MSE(h(retain), h_before(retain)) at one layer, over real tokens.

    u = strength * norm * r / |r|, r uniform in [0, 1]^D, where norm is the mean size of a state there: the paper's c is in
    the units of one model. `depth` is the layer as a share of all; it and the two below are trained.
    """

    alpha: float = 20.0
    strength: float = 2.0
    depth: float = 0.25
    modules: tuple[str, ...] = ("down_proj",)
    train: TrainSettings = field(default_factory=lambda: TrainSettings(steps=30, batch_size=8, learning_rate=1e-3))

    @classmethod
    def grid(cls) -> list[Rmu]:
        """Learning rates, strengths and depths."""
        base = cls()
        cells = (
            (1e-3, 2.0, 0.25),
            (5e-4, 5.0, 0.25),
            (2e-3, 2.0, 0.25),
            (1e-3, 2.0, 0.4),
            (1e-3, 5.0, 0.25),
            (3e-4, 5.0, 0.25),
        )
        return [
            replace(base, train=replace(base.train, learning_rate=rate), strength=strength, depth=depth)
            for rate, strength, depth in cells
        ]

    def erase(
        self, model: LanguageModel, pack: ConceptPack, directory: Path, seed: int, *, resume: bool
    ) -> WeightPatch:
        """Train three layers' write matrices; the states to hold are read once, before the first step."""
        sides, settings = Sides.of(model, pack), replace(self.train, seed=seed)
        last = len(model.anatomy.layers) - 1
        layer = min(last, max(2, round(self.depth * last)))
        partners = sorted({sides.partner(i) for i in sides.met(settings)})
        held = {i: self._states(model, [sides.retain[i]], layer).detach() for i in partners}
        states = torch.cat(list(held.values()))
        size = float(states.norm(dim=1).median())
        direction = torch.rand(states.shape[-1], generator=torch.Generator().manual_seed(seed))
        target = (self.strength * size * direction / direction.norm()).to(states.device)

        def loss(training: Training, piece: list[int]) -> None:
            with training.autocast():
                ours = self._states(model, [sides.forget[i] for i in piece], layer, gradients=True)
                partners = [sides.partner(i) for i in piece]
                theirs = self._states(model, [sides.retain[i] for i in partners], layer, gradients=True)
                away = (ours - target).square().mean()
                kept = (theirs - torch.cat([held[i] for i in partners])).square().mean()
            unit = size**2 / ours.shape[-1]  # so that a learning rate means the same at every scale
            training.backward((away + self.alpha * kept) / unit * len(piece), len(piece))

        names = weight_names(model, self.modules, range(max(0, layer - 2), layer + 1))
        return trained_patch(model, names, settings, len(sides.forget), loss, directory, resume=resume, method="rmu")

    def _states(
        self, model: LanguageModel, sequences: Sequence[Sequence[int]], layer: int, *, gradients: bool = False
    ) -> Float[Tensor, "N D"]:
        """States of all tokens but each text's first, whose size dwarfs the others' in many models."""
        batch = pad(sequences, device=model.device)
        site = residual(layer)
        states = capture(model, batch, [site], gradients=gradients)[site]
        return states[:, 1:][batch.mask[:, 1:].bool()].float()
