"""What a step costs by counting: multiplications of both models and the largest block of logits, without running it."""

from __future__ import annotations

from dataclasses import dataclass

from shammie.core.model import LanguageModel
from shammie.sekd.heads import Head
from shammie.sekd.settings import DistillSettings


@dataclass(frozen=True)
class StepCost:
    """Multiply-adds of one step by part, and bytes of the largest block of logits. Attention scores are left out."""

    parts: dict[str, int]
    logit_bytes: int

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(self.parts.values())


def step_cost(
    student: LanguageModel, teacher: LanguageModel | None, settings: DistillSettings, positions: int, vocabulary: int
) -> StepCost:
    """Cost of a step over `positions`: bodies in full, heads where they are read. Backward counts twice a forward.

    Without a teacher its classes come from a cache.
    """
    chosen = positions if settings.policy == "all" else round(settings.budget * positions)
    own, head = _layer_weights(student), vocabulary * student.module.config.hidden_size
    parts = {"student's body": 3 * own * positions, "student's head, taught": 3 * head * chosen}
    if settings.scored:
        parts["student's head, scored"] = head * positions
    if teacher is not None:
        parts["teacher's body"] = _layer_weights(teacher) * positions
        read = positions if settings.reads_teacher else chosen
        parts["teacher's head"] = vocabulary * teacher.module.config.hidden_size * read
    return StepCost(parts, 4 * vocabulary * min(Head(student.anatomy, vocabulary).rows, positions))


def dense_cost(student: LanguageModel, teacher: LanguageModel, positions: int, vocabulary: int) -> StepCost:
    """The same for a textbook step: both models' logits at every position, held at once."""
    parts = step_cost(student, teacher, DistillSettings(policy="all"), positions, vocabulary).parts
    return StepCost(parts, 2 * 4 * vocabulary * positions)


def _layer_weights(model: LanguageModel) -> int:
    """Matrices inside the layers; of a sparse layer all experts, though a token meets few."""
    return sum(p.numel() for layer in model.anatomy.layers for p in layer.parameters() if p.ndim >= 2)
