"""One distillation step: bodies once, scores, positions, and the loss on the rows that were chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from shammie.core.errors import ShammieError
from shammie.core.model import LanguageModel
from shammie.sekd.equations import cross_entropy, divergence, forward_kl, kept_log_probs, kl, sampled_kl
from shammie.sekd.heads import Head, chunked_sum
from shammie.sekd.policies import Selection, Selector
from shammie.sekd.settings import DistillSettings
from shammie.sekd.signals import Side, combine, measure, parts_of
from shammie.sekd.sparse import SparseTargets, sample_classes


@dataclass(frozen=True)
class Examples:
    """B windows of one step; `sparse` and `statistics` [B * P] come from a teacher cache where there is one."""

    ids: Int[Tensor, "B L"]
    valid: Bool[Tensor, "B P"]
    sparse: SparseTargets | None = None
    statistics: dict[str, Float[Tensor, " BP"]] | None = None


class StepLoss(NamedTuple):
    """A sum of losses, what it is to be divided by, how many positions it read, and the mean score of all and of those."""

    sum: Float[Tensor, ""]
    weight: float
    positions: int
    score: float | None
    chosen_score: float | None


class Distiller(nn.Module):
    """Computes the loss of a batch. A teacher is needed unless the examples bring its sampled classes.

    Its weights are the student's, its buffers the selector's; the teacher is no part of it, so that nothing trains or saves that.
    """

    def __init__(
        self, student: LanguageModel, teacher: LanguageModel | None, settings: DistillSettings, vocabulary: int
    ) -> None:
        if teacher is None and settings.reads_teacher:
            raise ShammieError(
                f"--signal {settings.signal} needs the teacher itself; a cache does not hold its distribution"
            )
        if teacher is None and settings.classes != "sampled":
            raise ShammieError(f"--classes {settings.classes} needs the teacher itself; a cache holds sampled classes")
        super().__init__()
        self.module = student.module
        self.student, self.teacher, self.settings = student, teacher, settings
        self.head = Head(student.anatomy, vocabulary)
        self.teacher_head = None if teacher is None else Head(teacher.anatomy, vocabulary)
        self.selector = Selector(settings)

    def forward(self, examples: Examples, step: int, generator: torch.Generator) -> StepLoss:
        """The loss of a batch, differentiable in the student."""
        inputs, targets = examples.ids[:, :-1], examples.ids[:, 1:].flatten()
        theirs = self._teacher_states(inputs)
        states = body(self.student, inputs)
        flat = states.reshape(-1, states.shape[-1])
        scores = self._scores(flat.detach(), theirs, targets, examples)
        grid = None if scores is None else scores.view_as(examples.valid)
        selection = self.selector(grid, examples.valid, step, generator)
        total = self._distilled(flat, theirs, targets, examples, selection, generator)
        mean = None if scores is None else float(scores[examples.valid.flatten()].mean())
        chosen = None if scores is None else float(scores[selection.index].mean())
        return StepLoss(total, selection.total, len(selection.index), mean, chosen)

    def _teacher_states(self, inputs: Tensor) -> Tensor | None:
        if self.teacher is None:
            return None
        with torch.no_grad(), torch.autocast(inputs.device.type, enabled=False):
            states = body(self.teacher, inputs)
        return states.reshape(-1, states.shape[-1])

    def _scores(self, states: Tensor, theirs: Tensor | None, targets: Tensor, examples: Examples) -> Tensor | None:
        if not self.settings.scored:
            return None
        names, stored = parts_of(self.settings.signal), examples.statistics or {}
        asked = tuple(name for name in names if name not in stored)
        teacher = None if theirs is None or self.teacher_head is None else Side(self.teacher_head, theirs)
        if absent := [name for name in asked if teacher is None and name.startswith("teacher")]:
            raise ShammieError(
                f"--signal {self.settings.signal} needs {absent[0]}; build the cache with --statistics {absent[0]}"
            )
        values = dict(stored)
        if asked:
            dtype = getattr(torch, self.settings.scoring)
            with torch.autocast(states.device.type, enabled=False):
                values |= measure(asked, targets, Side(self.head, states), teacher, dtype)
        return combine(self.settings.signal, values, self.head.vocabulary)

    def _distilled(
        self, states: Tensor, theirs: Tensor | None, targets: Tensor, examples: Examples, selection: Selection,
        generator: torch.Generator,
    ) -> Tensor:  # fmt: skip
        """Weighted sum of the losses at the chosen positions."""
        index, weights, settings = selection.index, selection.weights, self.settings
        sparse = None if examples.sparse is None else examples.sparse.take(index)
        rows = None if theirs is None else theirs[index]
        labels = targets[index]

        def piece(part: slice, logits: Tensor) -> Tensor:
            soft = self._soft(logits / settings.temperature, rows, sparse, part, generator) * settings.temperature**2
            if settings.hard:
                known = labels[part] < self.head.vocabulary
                hard = cross_entropy(logits.log_softmax(-1), labels[part].clamp(max=self.head.vocabulary - 1)) * known
                soft = (1 - settings.hard) * soft + settings.hard * hard
            return (weights[part] * soft).sum()

        return chunked_sum(self.head, states[index], piece)

    def _soft(
        self, logits: Tensor, rows: Tensor | None, sparse: SparseTargets | None, part: slice, generator: torch.Generator
    ) -> Tensor:
        settings = self.settings
        if settings.classes == "sampled" and sparse is not None:
            own = sparse.take(torch.arange(len(sparse), device=logits.device)[part])
            return _sampled(own, logits.log_softmax(-1), settings.draws)
        assert rows is not None, "no teacher and no cache"
        assert self.teacher_head is not None
        with torch.no_grad():
            theirs = self.teacher_head.logits(rows[part]) / settings.temperature
        if settings.classes == "full" and not settings.divergence:
            return forward_kl(theirs, logits)
        log_p, log_q = theirs.log_softmax(-1), logits.log_softmax(-1)
        if settings.classes == "sampled":
            return _sampled(sample_classes(log_p, settings.draws, generator), log_q, settings.draws)
        if settings.classes == "top":
            log_p, ids = kept_log_probs(log_p, settings.draws)
            return kl(log_p, log_q.gather(-1, ids))
        return divergence(log_p, log_q, settings.divergence)


def _sampled(targets: SparseTargets, log_q: Tensor, draws: int) -> Tensor:
    rows = targets.rows
    return sampled_kl(targets.counts, rows, log_q[rows, targets.ids], draws, len(targets))


def body(model: LanguageModel, inputs: Int[Tensor, "B P"]) -> Float[Tensor, "B P D"]:
    """Final-normed states; windows are full, so there is no padding to mask."""
    return model.anatomy.body(input_ids=inputs.to(model.device), use_cache=False).last_hidden_state
