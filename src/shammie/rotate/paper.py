"""The paper's solver: AdamW on the normal of a Householder reflection. Slow; kept as the reference for `fast`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from shammie.rotate.equations import Objective, moments, reflect
from shammie.rotate.settings import LEARNING_RATE, MAX_STEPS
from shammie.rotate.solution import Solution


@dataclass(frozen=True)
class PaperSettings:
    """The released code's optimiser, in float32 instead of its half-precision autocast."""

    learning_rate: float = LEARNING_RATE
    max_steps: int = MAX_STEPS
    warmup: int = 100
    weight_decay: float = 0.01
    score_every: int = 100
    """Steps between two looks at the candidate; the one with the largest unweighted |kurtosis| is kept."""
    settled: float = 1e-4
    """The batch stops when every neuron's loss moved by less (standard deviation over 100 steps) ..."""
    settled_from: int = 2_000
    """... first asked at this step."""


def solve(
    w: Float[Tensor, "B D"],
    tokens: Float[Tensor, "V D"],
    weights: Float[Tensor, "B V"],
    objective: Objective,
    start: Float[Tensor, "B D"],
    settings: PaperSettings = PaperSettings(),
) -> Solution:
    """One channel of each neuron: minimise -J over the reflection's normal u, from u = `start` ~ N(0, I)."""
    u = start.clone().requires_grad_()
    optimizer = torch.optim.AdamW([u], lr=settings.learning_rate, weight_decay=settings.weight_decay)
    best = torch.full((len(w),), -1.0, device=w.device)
    channels = w.clone()
    recent = torch.full((settings.score_every, len(w)), torch.inf, device=w.device)
    steps = 0
    while steps < settings.max_steps:
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * min(1.0, (steps + 1) / settings.warmup)
        candidate = reflect(w, u)
        projected = candidate @ tokens.T
        kurtosis = moments(projected * weights).kurtosis
        loss = -objective(kurtosis, cosine_similarity(w, candidate))
        if steps % settings.score_every == 0:
            with torch.no_grad():
                score = moments(projected).kurtosis.abs()
            better = score > best
            best = torch.where(better, score, best)
            channels = torch.where(better[:, None], candidate.detach(), channels)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        recent[steps % len(recent)] = loss.detach()
        steps += 1
        if steps >= settings.settled_from and bool((recent.std(0) < settings.settled).all()):
            break
    kurtosis = moments((channels @ tokens.T) * weights).kurtosis
    value = objective(kurtosis, cosine_similarity(w, channels))
    return Solution(channels, torch.full((len(w),), steps, device=w.device), value)
