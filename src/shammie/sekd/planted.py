"""Planted truth: a text in which only some positions carry what the teacher knows beyond the student."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from shammie.core.power import PowerTest
from shammie.sekd.equations import entropy
from shammie.sekd.policies import Selector
from shammie.sekd.settings import DistillSettings

WINDOWS, POSITIONS, CLASSES = 4, 60, 40
SHARE = 0.2  # of positions that carry knowledge: as many as the default budget


def draw_task(strength: float | None, seed: int) -> tuple[Float[Tensor, "W P V"], Bool[Tensor, "W P"]]:
    """A student's logits, and where the knowledge is that only its teacher has.

    The student is more or less sure of one class at each position. Where knowledge is planted it has all but lost that class,
    the more the higher `strength`; with None nothing is missing anywhere.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (WINDOWS, POSITIONS, CLASSES)
    sure = torch.nn.functional.one_hot(torch.randint(CLASSES, shape[:2], generator=generator), CLASSES).float()
    planted = torch.rand(shape[:2], generator=generator).argsort(-1) < round(SHARE * POSITIONS)
    kept = 4 + 1.5 * torch.randn(shape[:2], generator=generator) - planted * (strength or 0.0)
    return kept.clamp(min=0)[..., None] * sure + 0.5 * torch.randn(shape, generator=generator), planted


def found_share(settings: DistillSettings, student: Tensor, planted: Bool[Tensor, "W P"], seed: int) -> float:
    """Share of the planted positions among those that a policy chooses."""
    valid = torch.ones_like(planted)
    scores = entropy(student.flatten(0, 1).clone()).view_as(valid)
    index = Selector(settings)(scores, valid, 0, torch.Generator().manual_seed(seed)).index
    return float(planted.flatten()[index].float().mean())


def _score(strength: float | None, seed: int) -> float:
    """Share of knowledge among the positions that SE-KD chooses, less that among as many at random."""
    student, planted = draw_task(strength, seed)
    chosen = found_share(DistillSettings(), student, planted, seed)
    return chosen - found_share(DistillSettings(policy="random"), student, planted, seed)


POWER = PowerTest(_score, difficulties=(4.0, 3.0, 2.0, 1.5, 1.0, 0.5), middle=2.0)
