"""The loop: next-token loss, what keeps loads even, and running means and biases moved once a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from shammie.core.loss import token_losses
from shammie.core.schedule import TrainSettings
from shammie.core.train import Training
from shammie.core.windows import Windows
from shammie.routing import equations as eq
from shammie.routing.modeling import ShammieMoeForCausalLM
from shammie.routing.routers import Routed, Tally
from shammie.routing.settings import RoutingSettings


class Learner(nn.Module):
    """The model with its loss, called as a whole, which is what weights that are spread over processes ask for."""

    def __init__(self, model: ShammieMoeForCausalLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Int[Tensor, "B L"], valid: Bool[Tensor, "B P"]) -> Float[Tensor, ""]:
        """Sum of the next-token losses at the valid positions, in nats."""
        states = self.model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        head = self.model.lm_head
        return token_losses(head, states[valid], ids[:, 1:][valid], head.weight.shape[0]).sum()


def train(
    model: ShammieMoeForCausalLM, windows: Windows, settings: TrainSettings, directory: Path, *, resume: bool = False
) -> None:
    """Train in place; `directory` holds metrics.jsonl with each step's loss and loads, and checkpoints.

    Several processes add up losses, loads and routed states, so that all have the same running means and biases.
    Errors: RunError where `directory` holds another training; NonFiniteError for a loss that is not finite.
    """
    routing, learner = model.config.routing_settings, Learner(model)
    with Training(directory, learner, settings, len(windows), resume=resume) as training:
        for step in training:
            tallies = [Tally(router) for router in model.routers]
            plain = torch.zeros((), dtype=torch.float64)
            count = 0
            for piece in step.pieces:
                part = windows.take(piece)
                with training.autocast():
                    loss = learner(part.ids.to(training.device), part.valid.to(training.device))
                routed = list(model.routed())
                for tally, own in zip(tallies, routed, strict=True):
                    tally.add(own)
                plain += loss.detach().double().cpu()
                tokens = int(part.valid.sum())
                count += tokens
                training.backward(loss + tokens * balancing(routed, tallies, routing, training.sum), tokens)
            for tally in tallies:
                tally.loads, tally.sums, tally.total = (training.sum(t) for t in (tally.loads, tally.sums, tally.total))
                tally.apply()
            sums = training.sum(torch.tensor([float(plain), count], dtype=torch.float64))
            training.log({"token_loss": float(sums[0] / sums[1]), **load_figures([tally.loads for tally in tallies])})


def balancing(
    routed: Sequence[Routed], tallies: Sequence[Tally], routing: RoutingSettings, total: Callable[[Tensor], Tensor]
) -> Tensor | float:
    """Balancing and z losses, averaged over layers, by their weights; 0 where there are none.

    With the scope of a batch, loads are those of the step so far, on all processes.
    """
    if not routing.aux_weight and not routing.z_weight:
        return 0.0
    terms = []
    for own, tally in zip(routed, tallies, strict=True):
        with torch.no_grad():
            loads = total(tally.loads) if routing.aux_scope == "batch" else eq.loads_of(own.chosen, own.scores.shape[1])
        terms.append(routing.aux_weight * eq.balance_loss(own.scores, loads.to(own.scores.dtype)))
        if routing.z_weight:
            terms.append(routing.z_weight * eq.z_loss(own.scores))
    return torch.stack(terms).sum() / len(routed)


def load_figures(loads: Sequence[Tensor]) -> dict[str, Any]:
    """Unevenness of loads, mean and largest over layers, and dead experts in all."""
    violations = [eq.max_violation(own) for own in loads]
    return {
        "max_violation": sum(violations) / len(violations), "worst_violation": max(violations),
        "variation": sum(eq.variation(own) for own in loads) / len(loads), "dead": sum(eq.dead(own) for own in loads),
    }  # fmt: skip
