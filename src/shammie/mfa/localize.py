"""Which features carry a variable: exchange them between two prompts and see whether the answer follows (MIB's measure).

Every featurizer here exchanges a linear part of the difference between two states, so the error of a reconstruction is
carried over: new = base + (mask * (f(source) - f(base))) @ dictionary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shammie.core.batch import Batch, encode, pad
from shammie.core.capture import capture
from shammie.core.edit import edited, replace
from shammie.core.intervals import Estimate, proportion
from shammie.core.model import LanguageModel
from shammie.core.position import LAST, RowSpans, text_spans
from shammie.core.site import Site
from shammie.mfa.featurizers import Dictionary
from shammie.mfa.settings import Featurizer, LocalizeSettings
from shammie.mfa.tasks import Pair, first_tokens

_COLD = 0.01  # the temperature that masks end at
_BEGIN = 1e-3  # of masks: just on
_ROWS = 32


@dataclass(frozen=True, eq=False)
class Prepared:
    """Pairs with the states at their places, read once: N pairs."""

    batches: list[tuple[Batch, list[int]]]
    places: RowSpans
    base: Float[Tensor, "N D"]
    source: Float[Tensor, "N D"]
    answers: list[list[int]]
    """First tokens of the answers of each pair."""
    expected: Int[Tensor, " N"]
    """Which of them is expected."""


def prepare(model: LanguageModel, site: Site, pairs: Sequence[Pair]) -> Prepared:
    """Read base and source states. Errors: ShammieError where two answers of a pair begin with the same token."""
    places = _places(model, [pair.base for pair in pairs], [pair.base_part for pair in pairs])
    origins = _places(model, [pair.source for pair in pairs], [pair.source_part for pair in pairs])
    base = _states(model, site, [pair.base for pair in pairs], places)
    source = _states(model, site, [pair.source for pair in pairs], origins)
    answers = [first_tokens(model, pair.answers) for pair in pairs]
    expected = torch.tensor([pair.answers.index(pair.expected) for pair in pairs])
    batches = []
    for start in range(0, len(pairs), _ROWS):
        rows = list(range(start, min(start + _ROWS, len(pairs))))
        batches.append((pad([encode(model, pairs[row].base) for row in rows], row=rows, device=model.device), rows))
    return Prepared(batches, places, base, source, answers, expected)


def _places(model: LanguageModel, texts: Sequence[str], parts: Sequence[str]) -> RowSpans:
    spans = []
    for text, part in zip(texts, parts, strict=True):
        length = len(encode(model, text))
        stop = text_spans(model.tokenizer, [text], [part]).spans[0][1] if part else length
        spans.append((stop - 1, stop))
    return RowSpans(tuple(spans))


def _states(model: LanguageModel, site: Site, texts: Sequence[str], places: RowSpans) -> Tensor:
    parts = []
    for start in range(0, len(texts), _ROWS):
        rows = list(range(start, min(start + _ROWS, len(texts))))
        batch = pad([encode(model, texts[row]) for row in rows], row=rows, device=model.device)
        parts.append(capture(model, batch, [site], positions=places)[site].float())
    return torch.cat(parts)


class Exchange(torch.nn.Module):
    """What an intervention adds to the base's state, for chosen pairs; masks and rotations are its parameters.

    With a dictionary a mask over its features is learned; `das` learns a rotation; `full` exchanges the whole state.
    """

    def __init__(
        self, kind: Featurizer, width: int, settings: LocalizeSettings, dictionary: Dictionary | None = None
    ) -> None:
        super().__init__()
        self.dictionary = dictionary
        self.mask = None
        if dictionary is not None:  # what no training pair moves stays as it began: exchanged, as in the full vector
            self.mask = torch.nn.Parameter(torch.full((len(dictionary.directions),), _BEGIN))
        self.rotation = None
        if kind == "das":
            generator = torch.Generator().manual_seed(settings.seed)
            features = min(settings.das_features, width)
            self.rotation = torch.nn.Parameter(torch.randn(width, features, generator=generator) / width**0.5)

    def features(self, x: Tensor) -> Tensor:
        """f(x) [N, F], computed once for each state."""
        return x if self.dictionary is None else self.dictionary.features(x)

    def change(self, difference: Tensor, temperature: float) -> Tensor:
        """What is added to the base's states for differences of features; a temperature of 0 gives hard masks."""
        if self.rotation is not None:
            basis = torch.linalg.qr(self.rotation).Q
            return (difference @ basis) @ basis.T
        if self.dictionary is None:
            return difference
        return (difference * self.gate(temperature)) @ self.dictionary.directions

    def gate(self, temperature: float) -> Tensor:
        """The mask: soft while it is learned, 0 or 1 when it is used."""
        assert self.mask is not None
        return (self.mask > 0).float() if temperature == 0 else (self.mask / temperature).sigmoid()


def _logits(model: LanguageModel, site: Site, data: Prepared, batch: Batch, rows: list[int], change: Tensor) -> Tensor:
    """Last-token logits of a batch with its states changed; gradients reach the change."""
    table = torch.zeros(rows[-1] + 1, change.shape[1]).to(change)
    table = table.index_put((torch.tensor(rows),), data.base[rows] + change)
    with edited(model, [replace(site, table, positions=data.places)]):
        read = capture(model, batch, [], positions=LAST, logits=True, gradients=change.requires_grad)
    assert read.logits is not None
    return read.logits.float()


def learn(
    model: LanguageModel, site: Site, data: Prepared, exchange: Exchange, settings: LocalizeSettings
) -> list[float]:
    """Learn the mask or the rotation on training pairs: cross-entropy of the expected answer plus the mask's size."""
    parameters = list(exchange.parameters())
    if not parameters:
        return []
    optimizer = torch.optim.AdamW(parameters, settings.mask_rate, weight_decay=0.0)
    difference = exchange.features(data.source) - exchange.features(data.base)
    moved = (difference != 0).any(0)  # the others are not pushed to zero, of which Adam would make full steps
    steps, losses = settings.epochs * len(data.batches), []
    for parameter in model.module.parameters():
        parameter.requires_grad_(False)
    for step in range(steps):
        batch, rows = data.batches[step % len(data.batches)]
        temperature = 1 + (_COLD - 1) * step / max(1, steps - 1)
        logits = _logits(model, site, data, batch, rows, exchange.change(difference[rows], temperature))
        targets = torch.tensor([data.answers[row][int(data.expected[row])] for row in rows], device=logits.device)
        loss = torch.nn.functional.cross_entropy(logits, targets)
        if exchange.mask is not None:
            loss = loss + settings.sparsity * (exchange.gate(temperature) * moved).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def accuracy(
    model: LanguageModel, site: Site, data: Prepared, exchange: Exchange | None
) -> tuple[Estimate, list[bool]]:
    """Share of pairs whose likeliest listed answer is the expected one; None leaves the base as it is."""
    right = []
    with torch.no_grad():
        for batch, rows in data.batches:
            change = torch.zeros_like(data.base[rows])
            if exchange is not None:
                change = exchange.change(exchange.features(data.source[rows]) - exchange.features(data.base[rows]), 0.0)
            logits = _logits(model, site, data, batch, rows, change)
            for place, row in enumerate(rows):
                own = logits[place, data.answers[row]]
                right.append(int(own.argmax()) == int(data.expected[row]))
    return proportion(sum(right), len(right)), right
