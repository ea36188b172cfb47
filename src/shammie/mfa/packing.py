"""Passages packed into windows, so that few tokens are lost to the front of a text."""

from __future__ import annotations

from collections.abc import Sequence

from shammie.core.batch import encode
from shammie.core.model import LanguageModel

_BREAK = "\n\n"


def pack(model: LanguageModel, texts: Sequence[str], window: int) -> list[str]:
    """Join whole passages, a blank line between them, as long as they fit into `window` tokens.

    A passage that is longer than the window stands alone and is cut by the harvest.
    """
    windows: list[str] = []
    held, length = list[str](), 0
    seam = len(model.tokenizer(_BREAK, add_special_tokens=False)["input_ids"])
    for text in texts:
        tokens = len(encode(model, text)) + seam
        if held and length + tokens > window:
            windows.append(_BREAK.join(held))
            held, length = [], 0
        held.append(text)
        length += tokens
    return [*windows, _BREAK.join(held)] if held else windows
