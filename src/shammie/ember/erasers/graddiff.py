"""GradDiff: raise the loss on the concept's sentences while holding it on neutral ones; gradient ascent without the latter."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from shammie.core.model import LanguageModel
from shammie.core.patch import WeightPatch
from shammie.core.schedule import TrainSettings
from shammie.core.train import Training
from shammie.ember.erasers.base import Sides, token_log_probabilities, trained_patch, weight_names
from shammie.ember.pack import ConceptPack


@dataclass(frozen=True)
class GradDiff:
    """L = -NLL(forget) + alpha NLL(retain), means over tokens; alpha = 0 is gradient ascent."""

    alpha: float = 1.0
    modules: tuple[str, ...] = ("down_proj",)
    train: TrainSettings = field(default_factory=lambda: TrainSettings(steps=20, batch_size=4, learning_rate=2e-4))

    @classmethod
    def grid(cls) -> list[GradDiff]:
        """Learning rates, and two weights of the retained side."""
        base = cls()
        return [
            replace(base, train=replace(base.train, learning_rate=rate), alpha=alpha)
            for rate, alpha in ((2e-4, 1.0), (4e-4, 1.0), (1e-4, 1.0), (4e-4, 3.0), (8e-4, 3.0), (1e-4, 0.0))
        ]

    def erase(
        self, model: LanguageModel, pack: ConceptPack, directory: Path, seed: int, *, resume: bool
    ) -> WeightPatch:
        """Train the write matrices of every layer."""
        sides = Sides.of(model, pack)

        def loss(training: Training, piece: list[int]) -> None:
            with training.autocast():
                log_p, _ = token_log_probabilities(model, [sides.forget[i] for i in piece])
                total = log_p.mean()
                if self.alpha:
                    kept, _ = token_log_probabilities(model, [sides.retain[sides.partner(i)] for i in piece])
                    total = total - self.alpha * kept.mean()
            training.backward(total * len(piece), len(piece))

        names = weight_names(model, self.modules)
        settings = replace(self.train, seed=seed)
        return trained_patch(
            model, names, settings, len(sides.forget), loss, directory, resume=resume, method="graddiff"
        )
