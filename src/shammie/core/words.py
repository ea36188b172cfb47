"""A tokenizer whose tokens are words, for small models that are trained or planted on texts of our own."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

END = "<end>"


def word_tokenizer(words: Iterable[str], *, end: str | None = END) -> PreTrainedTokenizerFast:
    """A word a token, split at spaces, in the given order after `<pad>`, `<unk>` and the end token, where there is one."""
    special = ["<pad>", "<unk>", *([end] if end else [])]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys([*special, *words]))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106 - a token of text
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", eos_token=end)  # noqa: S106
