"""Tokens of several prompts as one padded batch, always with explicit positions.

Batches are padded on the right: a causal model then sees no padding before any real token, and a slot's index is its
absolute position.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import torch
from jaxtyping import Int
from jinja2 import TemplateError
from torch import Tensor

from shammie.core.errors import DataError, ShammieError
from shammie.core.model import LanguageModel
from shammie.core.position import Frame

Message = Mapping[str, str]
Prompt = str | Sequence[Message] | Sequence[int]
"""A text, a chat, or token ids that are taken as they are."""


@dataclass(frozen=True)
class Batch:
    """B prompts padded to T tokens. `row` numbers the prompts as the caller counts them."""

    ids: Int[Tensor, "B T"]
    mask: Int[Tensor, "B T"]
    row: Int[Tensor, " B"]

    @property
    def lengths(self) -> Int[Tensor, " B"]:
        """Real tokens of each prompt."""
        return self.mask.sum(-1)

    @property
    def frame(self) -> Frame:
        """Positions of this batch as one forward pass."""
        return Frame.from_mask(self.mask, row=self.row)

    def inputs(self) -> dict[str, Tensor]:
        """Keyword arguments for the model: ids, mask and explicit positions."""
        return {"input_ids": self.ids, "attention_mask": self.mask, "position_ids": self.frame.position}


def encode(model: LanguageModel, text: Prompt, *, prefill: str = "", special: bool = True) -> list[int]:
    """Token ids of one text, or of a chat through the model's template with the answer begun by `prefill`.

    `special` lets the tokenizer add what the model was trained to see first (Gemma's <bos>); a chat template brings
    its own. Errors: no chat template; a text without tokens.
    """
    if isinstance(text, str):
        ids = model.tokenizer(text + prefill, add_special_tokens=special)["input_ids"]
    elif not is_chat(text):
        ids = [*text, *(model.tokenizer(prefill, add_special_tokens=False)["input_ids"] if prefill else [])]
    else:
        ids = model.tokenizer(render(model, text) + prefill, add_special_tokens=False)["input_ids"]
    if not ids:
        raise DataError(f"the text {text!r} has no tokens")
    return list(ids)


def is_chat(prompt: Prompt) -> TypeGuard[Sequence[Message]]:
    """Whether a prompt is a chat, and neither a text nor token ids."""
    return not isinstance(prompt, str) and isinstance(next(iter(prompt), None), Mapping)


def render(model: LanguageModel, chat: Sequence[Message], switches: Mapping[str, bool] | None = None) -> str:
    """A chat as the model's template writes it, up to where the answer begins; the template is given `switches`.

    Errors: no template, or it refuses.
    """
    if not model.tokenizer.chat_template:
        raise ShammieError(f"{model.name} has no chat template; pass the prompt as plain text")
    try:
        return str(
            model.tokenizer.apply_chat_template(
                list(chat), tokenize=False, add_generation_prompt=True, **(switches or {})
            )
        )
    except TemplateError as error:
        raise ShammieError(f"the chat template of {model.name} refuses this conversation: {error}") from None


def pad(
    sequences: Sequence[Sequence[int]], *, row: Sequence[int] | None = None, device: torch.device | str = "cpu"
) -> Batch:
    """Right-pad token id lists into one batch. Padding slots hold id 0 and are masked."""
    if not sequences or not all(len(ids) for ids in sequences):
        raise DataError("a batch needs at least one prompt, and every prompt at least one token")
    ids = torch.zeros(len(sequences), max(map(len, sequences)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, sequence in enumerate(sequences):
        ids[index, : len(sequence)] = torch.tensor(sequence)
        mask[index, : len(sequence)] = 1
    rows = torch.tensor(list(range(len(sequences)) if row is None else row))
    return Batch(ids.to(device), mask.to(device), rows.to(device))


def make_batch(model: LanguageModel, texts: Sequence[Prompt], *, prefill: str = "") -> Batch:
    """Encode and pad texts or chats for a model, on its device."""
    return pad([encode(model, text, prefill=prefill) for text in texts], device=model.device)


def plan_batches(lengths: Sequence[int], *, tokens: int = 4096, rows: int = 256) -> Iterator[list[int]]:
    """Split indices into batches of like length, at most `tokens` padded tokens and `rows` rows each, longest first.

    A function of the lengths alone, so that a resumed run makes the same batches. A sequence longer than `tokens` is a
    batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    start = 0
    while start < len(order):
        fit = max(1, min(rows, tokens // max(1, lengths[order[start]])))
        yield order[start : start + fit]
        start += fit
