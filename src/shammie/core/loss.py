"""The next-token loss without logits of a whole batch."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float, Int
from torch import Tensor, cat
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

_HEAD_BYTES = 2**26  # of logits that are held at once


def token_losses(
    unembed: Callable[[Tensor], Tensor], states: Float[Tensor, "N D"], targets: Int[Tensor, " N"], vocabulary: int
) -> Float[Tensor, " N"]:
    """Cross-entropy of each state's next token in nats and float32; many logits are made block by block, and anew in backward."""
    rows = max(1, _HEAD_BYTES // (4 * vocabulary))

    def block(own: Tensor, wanted: Tensor) -> Tensor:
        return functional.cross_entropy(unembed(own).float(), wanted, reduction="none")

    if len(states) <= rows:
        return block(states, targets)
    parts = zip(states.split(rows), targets.split(rows), strict=True)
    return cat([checkpoint(block, own, wanted, use_reentrant=False) for own, wanted in parts])
