"""From scores to positions: who is taught, and with what weight. Budgets are exact; draws come from a given generator."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from shammie.core.errors import DataError
from shammie.sekd.settings import DistillSettings


@dataclass(frozen=True)
class Selection:
    """Positions of a batch as indices into its flattened [B, P] grid, and how much each counts.

    The loss is sum(weights * losses) / total, which for unbiased draws estimates the mean over all valid positions.
    """

    index: Int[Tensor, " n"]
    weights: Float[Tensor, " n"]
    total: float


def quotas(valid: Bool[Tensor, "B P"], budget: int | float, *, level: bool = False) -> list[int]:
    """Positions of each window: the budget's share of its valid ones, rounded up; `level` takes the share of their mean."""
    counts = [int(count) for count in valid.sum(-1)]
    mean = sum(counts) / max(1, len(counts))
    return [min(count, share_of(mean if level else count, budget)) for count in counts]


def share_of(count: int | float, budget: int | float) -> int:
    """The budget's share of a count, rounded up, whatever floating point makes of budget * count."""
    return math.ceil(round(budget * count, 9))


class Selector(nn.Module):
    """Applies a policy batch by batch. Its memory of recent scores is a buffer, so that checkpoints hold it."""

    recent: Tensor
    seen: Tensor

    def __init__(self, settings: DistillSettings) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("recent", torch.zeros(settings.recent_scores if settings.policy == "global" else 0))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(
        self, scores: Float[Tensor, "B P"] | None, valid: Bool[Tensor, "B P"], step: int, generator: torch.Generator
    ) -> Selection:
        """Choose positions. Errors: DataError where no position of the batch is valid."""
        if not bool(valid.any()):
            raise DataError("no position of this batch is valid: every target is an end token or follows one")
        settings = self.settings
        if settings.policy == "all":
            return _equal(valid)
        if settings.policy == "random":
            scores = torch.rand(valid.shape, generator=generator).to(valid.device)
        assert scores is not None, "this policy needs scores"
        scores = scores.masked_fill(~valid, -math.inf)
        wanted = quotas(valid, settings.budget, level=settings.equal_quota)
        if settings.policy == "global":
            return self._global(scores, valid, wanted)
        if settings.policy == "curriculum":
            return _equal(_band(scores, wanted, min(1.0, step / settings.curriculum_steps)))
        if settings.policy in ("sampled", "corrected"):
            return _drawn(scores, valid, wanted, generator, corrected=settings.policy == "corrected")
        return _equal(_highest(scores, wanted))

    def _global(self, scores: Tensor, valid: Tensor, wanted: list[int]) -> Selection:
        """Scores at or above the (1 - budget) quantile of recent ones, this batch's not yet among them.

        The first batch, and one in which nothing is as high, take the highest of each window.
        """
        have = min(int(self.seen), len(self.recent))
        chosen = _highest(scores, wanted)
        if have:
            threshold = torch.quantile(self.recent[:have].double(), 1 - self.settings.budget)
            above = scores.double() >= threshold.to(scores.device)
            chosen = above if bool(above.any()) else chosen
        self._remember(scores[valid].cpu())
        return _equal(chosen)

    def _remember(self, new: Tensor) -> None:
        size = len(self.recent)
        new = new[-size:]
        place = (int(self.seen) + torch.arange(len(new))) % size
        self.recent[place] = new.float()
        self.seen += len(new)


def _equal(chosen: Bool[Tensor, "B P"]) -> Selection:
    index = chosen.flatten().nonzero()[:, 0]
    return Selection(index, torch.ones(len(index), device=index.device), float(len(index)))


def _highest(scores: Float[Tensor, "B P"], wanted: list[int]) -> Bool[Tensor, "B P"]:
    """The highest scores of each window; of equal ones the first."""
    return _band(scores, wanted, 1.0)


def _band(scores: Float[Tensor, "B P"], wanted: list[int], risen: float) -> Bool[Tensor, "B P"]:
    """A band of each window's valid scores: from the lowest (risen 0) to the highest (1)."""
    order = scores.argsort(dim=-1, descending=True, stable=True)
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    for row, quota in enumerate(wanted):
        spare = int((scores[row] > -math.inf).sum()) - quota
        start = spare - round(risen * spare)
        chosen[row, order[row, start : start + quota]] = True
    return chosen


def _drawn(
    scores: Tensor, valid: Tensor, wanted: list[int], generator: torch.Generator, *, corrected: bool
) -> Selection:
    """Draw positions with replacement in proportion to their score; `corrected` divides each by how often it was to be drawn."""
    index, weights = [], []
    for row, quota in enumerate(wanted):
        if not quota:
            continue
        chance = scores[row].clamp(min=0).nan_to_num(neginf=0.0).double().cpu()
        chance = chance if float(chance.sum()) > 0 else valid[row].double().cpu()
        chance = chance / chance.sum()
        drawn = torch.multinomial(chance, quota, replacement=True, generator=generator)
        index.append(drawn.to(scores.device) + row * scores.shape[1])
        weights.append(1 / (quota * chance[drawn]) if corrected else torch.ones(quota))
    total = int(valid.sum()) if corrected else sum(wanted)
    return Selection(torch.cat(index), torch.cat(weights).to(scores.device, torch.float32), float(total))
