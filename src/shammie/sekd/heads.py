"""Logits a few rows at a time: scores of all positions without a gradient, and losses whose gradient is taken chunk by chunk.

A loss over rows is a sum, so each chunk's gradient is known as soon as its logits are: they are used and dropped at once,
nothing is computed twice, and no more than a chunk of rows x vocabulary is ever held.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from shammie.core.anatomy import Anatomy
from shammie.core.errors import UnsupportedModelError

# Bytes of one chunk's logits: few enough to stay near the processor, enough rows to multiply well.
BYTE_BUDGET = 24 * 2**20
GPU_BUDGET = 256 * 2**20  # on an accelerator, where every chunk costs launches


@dataclass(frozen=True)
class Head:
    """A model's unembedding, cut to the first `vocabulary` classes that teacher and student share."""

    anatomy: Anatomy
    vocabulary: int

    def __post_init__(self) -> None:
        if not isinstance(self.anatomy.unembedding, torch.nn.Linear):
            kind = type(self.anatomy.unembedding).__name__
            raise UnsupportedModelError(f"the unembedding is a {kind}; distillation needs a plain linear one")

    @property
    def weight(self) -> Float[Tensor, "V D"]:
        """Rows of the shared classes."""
        return self.anatomy.unembedding.weight[: self.vocabulary]  # type: ignore[index]

    @property
    def bias(self) -> Float[Tensor, " V"] | None:
        """Of the shared classes, where there is one."""
        bias: Tensor | None = self.anatomy.unembedding.bias  # type: ignore[assignment]
        return None if bias is None else bias[: self.vocabulary]

    @property
    def rows(self) -> int:
        """Rows of one chunk."""
        budget = BYTE_BUDGET if self.weight.device.type == "cpu" else GPU_BUDGET
        return max(1, budget // (4 * self.vocabulary))

    def capped(self, logits: Float[Tensor, "n V"]) -> Float[Tensor, "n V"]:
        """The family's soft cap (Gemma 2) on float32 logits."""
        cap = self.anatomy.soft_cap
        return torch.tanh(logits / cap) * cap if cap else logits

    def logits(self, states: Float[Tensor, "n D"], weight: Tensor | None = None) -> Float[Tensor, "n V"]:
        """Float32 logits of final-normed states, through the stored weight unless a cast one is given."""
        weight = self.weight if weight is None else weight
        bias = None if self.bias is None else self.bias.to(weight.dtype)
        return self.capped(torch.nn.functional.linear(states.to(weight.dtype), weight, bias).float())


Piece = Callable[[slice, Float[Tensor, "n V"]], Float[Tensor, ""]]
"""Loss of a chunk of rows, summed, from their logits."""


def chunked_sum(head: Head, states: Float[Tensor, "N D"], loss: Piece) -> Float[Tensor, ""]:
    """Sum of `loss` over chunks of rows; differentiable in the states and, where it is trained, in the head."""
    total: Tensor = _ChunkedSum.apply(
        head, loss, states, head.anatomy.unembedding.weight, head.anatomy.unembedding.bias
    )
    return total


class _ChunkedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, head: Head, loss: Piece, states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        dtype = torch.get_autocast_dtype(states.device.type) if torch.is_autocast_enabled(states.device.type) else None
        used = head.weight.detach() if dtype is None else head.weight.detach().to(dtype)
        needs = ctx.needs_input_grad[2:]
        to_states = torch.empty_like(states) if needs[0] else None
        to_weight = torch.zeros_like(weight, dtype=torch.float32) if needs[1] else None
        to_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and needs[2] else None
        total = states.new_zeros((), dtype=torch.float64 if states.device.type == "cpu" else torch.float32)
        with torch.autocast(states.device.type, enabled=False):
            for start in range(0, len(states), head.rows):
                part = slice(start, start + head.rows)
                rows = states[part].detach().to(used.dtype)
                raw = (
                    rows @ used.T if bias is None else torch.addmm(bias[: head.vocabulary].to(used.dtype), rows, used.T)
                )
                with torch.enable_grad():
                    raw = raw.float().detach().requires_grad_()
                    value = loss(part, head.capped(raw))
                    (gradient,) = torch.autograd.grad(value, raw)
                total += value.detach()
                cast = gradient.to(used.dtype)
                if to_states is not None:
                    to_states[part] = cast @ used
                if to_weight is not None:
                    _accumulate(to_weight[: head.vocabulary], cast, rows)
                if to_bias is not None:
                    to_bias[: head.vocabulary] += gradient.sum(0)
        ctx.gradients = to_states, to_weight, to_bias
        return total.float()

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        found, ctx.gradients = ctx.gradients, None
        return None, None, *(None if gradient is None else gradient.mul_(scale) for gradient in found)


def _accumulate(into: Tensor, gradient: Tensor, rows: Tensor) -> None:
    """Into += gradient^T rows, without a second matrix of that size where dtypes allow."""
    if gradient.dtype == into.dtype:
        into.addmm_(gradient.T, rows)
    else:
        into += gradient.T @ rows
