"""Can a model say how strongly it believed? Levels of dominance, learned from examples in its prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from shammie.beliefs import equations as eq
from shammie.core.batch import encode, pad
from shammie.core.errors import DataError, ShammieError
from shammie.core.model import LanguageModel
from shammie.core.prefix import KeyValues, read

LEVELS = 3
TARGETS = {
    "base": "what you knew before", "counter": "what you were told", "difference": "what you knew, against what you were told",
}  # fmt: skip
_HEAD = (
    "After each text stands a number. It says how strongly you leaned towards $what while you wrote the text: "
    "1 for little, 2 for middling, 3 for strongly.\n\n"
)


@dataclass(frozen=True)
class Item:
    """A text of a case under a frame, with the level of its dominance, 0 for the lowest."""

    case: str
    frame: str
    text: str
    level: int
    popularity: float | None
    names: str


def make_items(records: Sequence[Mapping[str, Any]], frame: str, target: str, names: Mapping[str, str]) -> list[Item]:
    """The cases of a frame in three levels of a target, by k-means; cases without a counted position are left out.

    Errors: DataError where fewer than three levels can be told apart.
    """
    told = {r["case"]: r for r in records if r["kind"] == "told" and r["frame"] == frame}
    found = {r["case"]: r for r in records if r["kind"] == "dominance" and r["frame"] == frame}
    kept = [case for case, r in found.items() if r.get(target) is not None]
    if len({found[case][target] for case in kept}) < LEVELS:
        raise DataError(
            f"under the frame {frame!r} the {target} of dominance takes fewer than {LEVELS} values; read more cases"
        )
    levels = eq.buckets(torch.tensor([float(found[case][target]) for case in kept]), LEVELS).tolist()
    return [
        Item(case, frame, told[case]["text"].strip(), level, told[case]["popularity"], names[case])
        for case, level in zip(kept, levels, strict=True)
    ]


def split_items(items: Sequence[Item], each: int, held_out: int, seed: int) -> tuple[list[Item], list[Item]]:
    """Examples, at most `each` a level and as many of every level, and others that are asked about."""
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed)).tolist()
    by_level = {level: [items[at] for at in order if items[at].level == level] for level in range(LEVELS)}
    count = min(each, *(len(own) // 2 for own in by_level.values()))
    if count < 1:
        raise DataError(
            "a level of dominance has fewer than two texts; read more cases, or fewer levels can be learned"
        )
    shown = [own[at] for at in range(count) for own in by_level.values()]
    rest = [items[at] for at in order if items[at] not in shown]
    return shown, rest[:held_out]


class Monitor:
    """A prompt of examples, read once, after which texts are labelled."""

    def __init__(self, model: LanguageModel, target: str, shown: Sequence[Item], levels: Sequence[int]) -> None:
        self.model = model
        self._lead, self._labels = _label_tokens(model)
        examples = [f"{_asked(item.text)} {level + 1}\n\n" for item, level in zip(shown, levels, strict=True)]
        self._ids = encode(model, _HEAD.replace("$what", TARGETS[target]) + "".join(examples))
        self._past = KeyValues.empty(1, model.device)
        zero = torch.zeros(1, dtype=torch.long, device=model.device)
        read(model, self._past, torch.tensor([self._ids], device=model.device), None, zero, zero + len(self._ids))

    @property
    def start(self) -> int:
        """Where the text that is asked about begins."""
        return len(self._ids)

    def levels(self, texts: Sequence[str]) -> Float[Tensor, "N K"]:
        """The probability of each level after each text, among the levels; rows of a batch, under edits in force."""
        model = self.model
        asked = [[*encode(model, _asked(text), special=False), *self._lead] for text in texts]
        batch = pad(asked, device=model.device)
        rows = torch.arange(len(texts), device=model.device)
        length = torch.full_like(rows, self.start)
        states = read(model, self._past.select(torch.zeros_like(rows)), batch.ids, batch.mask, rows, length)
        last = states[rows, batch.lengths - 1]
        with torch.no_grad():
            logits = model.anatomy.unembed(last)[:, self._labels].float()
        return logits.softmax(-1).cpu()


def _asked(text: str) -> str:
    return f"Text: {text}\nNumber:"


def _label_tokens(model: LanguageModel) -> tuple[list[int], list[int]]:
    """What stands before every label, such as a blank of its own, and the token that tells the labels apart.

    Errors: ShammieError for a tokenizer in which they cannot be told apart by one token.
    """
    made = [list(model.tokenizer(f" {n + 1}", add_special_tokens=False)["input_ids"]) for n in range(LEVELS)]
    leads, last = [ids[:-1] for ids in made], [ids[-1] for ids in made]
    if leads != leads[:1] * LEVELS or len(set(last)) < LEVELS:
        raise ShammieError(f"the tokenizer of {model.name} has no token each for 1, 2 and 3, so levels cannot be named")
    return leads[0], last
