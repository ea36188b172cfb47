"""Patchscopes: what a hidden state makes the model write when it stands in another prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shammie.core.batch import encode
from shammie.core.edit import Edit, edited
from shammie.core.errors import NonFiniteError, ShammieError
from shammie.core.generate import ending_tokens
from shammie.core.model import LanguageModel
from shammie.core.position import Span
from shammie.core.prefix import KeyValues, read
from shammie.core.site import residual

IDENTITY = "cat -> cat\n1135 -> 1135\nhello -> hello\n?"
"""Repeats what it is shown; the state takes the place of its last token at the layer that it comes from."""
_ROWS = 128


@dataclass(frozen=True)
class Decoded:
    """The first line that was written, without the arrow that the prompt teaches, and the first token that says something."""

    text: str
    lead: int | None


@dataclass(eq=False)
class Patchscope:
    """Decodes states of any layer through one prompt, many at a time.

    The prompt up to its last token is read once, and states of all layers go together. A state is put in after its layer at
    that token, so the layers below see the token itself; what is written after it is decoded greedily, up to a line break.

    Args:
        tokens: written at most.
        rows: states in one batch.
    """

    model: LanguageModel
    prompt: str = IDENTITY
    tokens: int = 6
    rows: int = _ROWS

    def __post_init__(self) -> None:
        ids = encode(self.model, self.prompt)
        if len(ids) < 2:
            raise ShammieError(
                "the prompt of Patchscopes needs at least two tokens, of which a state replaces the last"
            )
        device = self.model.device
        self._last, self._length = ids[-1], len(ids)
        self._prefix = KeyValues.empty(1, device)
        zero = torch.zeros(1, dtype=torch.long, device=device)
        read(self.model, self._prefix, torch.tensor([ids[:-1]], device=device), None, zero, zero + self._length)
        self._ends = ending_tokens(self.model)

    def decode(self, states: Float[Tensor, "N D"], layers: Int[Tensor, " N"]) -> list[Decoded]:
        """What each residual state is decoded to, put in after the layer that it left; layers may be mixed.

        Errors: NonFiniteError for NaN or infinite states.
        """
        if not bool(states.isfinite().all()):
            raise NonFiniteError(f"a state of layer {int(layers[0])} holds NaN or infinity; run in float32")
        blocks = zip(states.split(self.rows), layers.split(self.rows), strict=True)
        return [made for block, own in blocks for made in self._block(block, own)]

    def _block(self, states: Float[Tensor, "N D"], layers: Int[Tensor, " N"]) -> list[Decoded]:
        count, device = len(states), self.model.device
        past = self._prefix.select(torch.zeros(count, dtype=torch.long, device=device))
        rows = torch.arange(count, device=device)
        ids = torch.full((count, 1), self._last, device=device)
        with edited(self.model, [self._put(states, layers, layer) for layer in layers.unique().tolist()]):
            made = read(self.model, past, ids, None, rows, torch.full_like(rows, self._length))
        written: list[list[int]] = [[] for _ in range(count)]
        going = list(range(count))
        for step in range(self.tokens):
            tokens = self._likeliest(made[:, -1])
            kept = [slot for slot, token in enumerate(tokens.tolist()) if self._take(written[going[slot]], token)]
            if step == self.tokens - 1 or not kept:
                break
            if len(kept) < len(going):
                chosen = torch.tensor(kept, device=device)
                past, rows, tokens = past.select(chosen), rows[chosen], tokens[chosen]
                going = [going[slot] for slot in kept]
            made = read(self.model, past, tokens[:, None], None, rows, torch.full_like(rows, self._length))
        return [Decoded(self._text(ids), self._lead(ids)) for ids in written]

    def _put(self, states: Float[Tensor, "N D"], layers: Int[Tensor, " N"], layer: int) -> Edit:
        """The states of one layer in their rows; other rows go on as they are."""
        values, own = states.to(self.model.device, self.model.dtype), (layers == layer).to(self.model.device)

        def put(state: Float[Tensor, "B T D"], _position: Tensor, row: Tensor) -> Tensor:
            return torch.where(own[row][:, None, None], values[row][:, None], state)

        return Edit(residual(layer), put, Span(self._length - 1))

    def _likeliest(self, states: Float[Tensor, "B D"]) -> Int[Tensor, " B"]:
        with torch.no_grad():
            return self.model.anatomy.unembed(states).argmax(-1)

    def _take(self, written: list[int], token: int) -> bool:
        """Add a token; whether the text goes on after it."""
        if token in self._ends:
            return False
        written.append(token)
        return "\n" not in self._decoded(written).lstrip()

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self.model.tokenizer.decode(list(ids), skip_special_tokens=False))

    def _text(self, ids: Sequence[int]) -> str:
        line = self._decoded(ids).lstrip().split("\n")[0].strip()
        return line.removeprefix("->").strip()

    def _lead(self, ids: Sequence[int]) -> int | None:
        return next((token for token in ids if self._decoded([token]).strip(" ->\n\t")), None)
