"""ELM: train towards what the model itself says as a novice rather than as an expert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from shammie.core.batch import encode
from shammie.core.generate import GenerationSettings, generate
from shammie.core.model import LanguageModel
from shammie.core.patch import WeightPatch
from shammie.core.schedule import TrainSettings
from shammie.core.train import Training
from shammie.ember import equations as eq
from shammie.ember.erasers.base import MAX_TOKENS, Sides, next_token_logits, trained_patch, weight_names
from shammie.ember.pack import ConceptPack

EXPERT = "The following text was written by an expert on {concept}, full of facts about it:\n"
NOVICE = "The following text was written by a novice who knows nothing about {concept} and speaks of other things:\n"
_KEPT = 50  # likeliest tokens of the target
_TEMPERATURE = 1.2
_FLUENT = 16  # sentences that fluency is learned from


@dataclass(frozen=True)
class Elm:
    """L = CE(theta, guided) + CE(theta, argmax of the model before; retain) + NLL(what that model says as a novice)."""

    strength: float = 1000.0
    layers: tuple[float, float] = (0.1, 0.35)
    """First and last of the trained layers, as shares of all."""
    modules: tuple[str, ...] = ("mlp", "self_attn")
    train: TrainSettings = field(default_factory=lambda: TrainSettings(steps=20, batch_size=4, learning_rate=2e-4))

    @classmethod
    def grid(cls) -> list[Elm]:
        """Learning rates, strengths and layers."""
        base = cls()
        cells = (
            (2e-4, 1000.0, (0.1, 0.35)), (5e-4, 1000.0, (0.1, 0.35)), (1e-4, 1000.0, (0.1, 0.35)), (2e-4, 100.0, (0.1, 0.35)),
            (2e-4, 1000.0, (0.3, 0.6)), (1e-3, 1000.0, (0.1, 0.35)),
        )  # fmt: skip
        return [
            replace(base, train=replace(base.train, learning_rate=rate), strength=strength, layers=layers)
            for rate, strength, layers in cells
        ]

    def erase(
        self, model: LanguageModel, pack: ConceptPack, directory: Path, seed: int, *, resume: bool
    ) -> WeightPatch:
        """Train the early layers' matrices; all targets are read from the model once, before the first step."""
        sides, settings = Sides.of(model, pack), replace(self.train, seed=seed)
        met = sides.met(settings)
        with torch.no_grad():
            targets = {i: self._guided(model, pack.concept, sides.forget[i]) for i in met}
            beside = {sides.partner(i) for i in met}
            argmaxes = {i: next_token_logits(model, [sides.retain[i]])[0].argmax(-1) for i in beside}
        fluent = self._fluent(model, pack)

        def loss(training: Training, piece: list[int]) -> None:
            partners = [sides.partner(i) for i in piece]
            with training.autocast():
                logits, _, _ = next_token_logits(model, [sides.forget[i] for i in piece])
                ids, shares = (torch.cat([targets[i][part] for i in piece]) for part in (0, 1))
                erase = -(logits.log_softmax(-1).gather(-1, ids) * shares).sum(-1).mean()
                logits, _, _ = next_token_logits(model, [sides.retain[i] for i in partners])
                retain = F.cross_entropy(logits, torch.cat([argmaxes[i] for i in partners]))
                logits, said, _ = next_token_logits(model, [fluent[i % len(fluent)] for i in piece])
                fluency = F.cross_entropy(logits, said)
            training.backward((erase + retain + fluency) * len(piece), len(piece))

        count = len(model.anatomy.layers)
        first, last = (round(share * count) for share in self.layers)
        names = weight_names(model, self.modules, range(first, min(last, count - 1) + 1))
        return trained_patch(model, names, settings, len(sides.forget), loss, directory, resume=resume, method="elm")

    def _guided(
        self, model: LanguageModel, concept: str, ids: Sequence[int]
    ) -> tuple[Int[Tensor, "N k"], Float[Tensor, "N k"]]:
        """The 50 likeliest tokens under guidance at every position, and their shares; guidance grows along the text."""
        plain, _, _ = next_token_logits(model, [ids])
        guides = []
        for prefix in (NOVICE, EXPERT):
            begun = encode(model, prefix.format(concept=concept))
            body = ids[1:] if ids[0] == begun[0] == model.tokenizer.bos_token_id else ids
            whole, _, _ = next_token_logits(model, [[*begun, *body]])
            guides.append(whole[-len(plain) :] / _TEMPERATURE)
        strength = torch.linspace(1.0, self.strength, len(plain), device=plain.device)
        scores, kept = eq.guided(plain / _TEMPERATURE, guides[0], guides[1], strength).topk(
            min(_KEPT, plain.shape[-1]), -1
        )
        return kept, scores.softmax(-1)

    def _fluent(self, model: LanguageModel, pack: ConceptPack) -> list[list[int]]:
        """What the model before says as a novice after the first half of some sentences, without the prefix."""
        begun = [text[: len(text) // 2] for text in pack.concept_sentences[:_FLUENT]]
        prefix = NOVICE.format(concept=pack.concept)
        made = generate(model, [prefix + text for text in begun], GenerationSettings(max_new_tokens=24))
        return [encode(model, text + said.text)[:MAX_TOKENS] for text, said in zip(begun, made, strict=True)]
