"""Reads names in templates and keeps the running moments of every neuron at each name's last token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from shammie.core.batch import encode
from shammie.core.errors import DataError, NonFiniteError, UnsupportedModelError
from shammie.core.harvest import stream
from shammie.core.model import LanguageModel
from shammie.core.position import LAST
from shammie.core.prefix import KeyValues, read
from shammie.core.site import neurons
from shammie.entity_cells.equations import Moments

_TOKENS = 1024  # of one batch: names are short, so this is hundreds of rows


@dataclass(frozen=True)
class Layout:
    """Where each layer's neurons stand in a row of all of them."""

    sizes: tuple[int, ...]
    starts: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        starts = [sum(self.sizes[:layer]) for layer in range(len(self.sizes))]
        object.__setattr__(self, "starts", tuple(starts))

    @classmethod
    def of(cls, model: LanguageModel) -> Layout:
        """A model's layout. Errors: UnsupportedModelError for layers of fused experts."""
        count = len(model.anatomy.layers)
        for layer in range(count):
            if model.anatomy.is_sparse(layer):
                raise UnsupportedModelError(
                    f"layer {layer} of {model.name} is made of fused experts, which have no neurons that every token "
                    "passes; entity cells need a dense model"
                )
        return cls(tuple(model.anatomy.neuron_count(layer) for layer in range(count)))

    @property
    def total(self) -> int:
        """N."""
        return sum(self.sizes)

    def where(self, layer: int) -> slice:
        """A layer's part of the row."""
        return slice(self.starts[layer], self.starts[layer] + self.sizes[layer])

    def place(self, index: int) -> tuple[int, int]:
        """(layer, neuron) of a number in the row."""
        layer = max(layer for layer, start in enumerate(self.starts) if start <= index)
        return layer, index - self.starts[layer]

    def index(self, layer: int, neuron: int) -> int:
        """The number in the row of (layer, neuron)."""
        return self.starts[layer] + neuron


def baseline(model: LanguageModel, layout: Layout, clozes: Sequence[str]) -> Moments:
    """Moments over the last tokens of generic texts, as one row."""
    moments = Moments.zeros(1, layout.total)
    sites = [neurons(layer) for layer in range(len(layout.sizes))]
    for block in stream(model, clozes, sites, positions=LAST, batch_tokens=_TOKENS):
        count = len(block.row)
        part = Moments.zeros(1, layout.total)
        part.count += count
        for layer, site in enumerate(sites):
            state = block[site].float()
            part.mean[0, layout.where(layer)] = state.mean(0)
            part.m2[0, layout.where(layer)] = state.var(0, unbiased=False) * count
        moments = moments.merged(part)
    return moments


def read_names(
    model: LanguageModel, layout: Layout, names: Sequence[str], templates: Sequence[str]
) -> tuple[Moments, Moments]:
    """Moments of each name at its last token, over the even and over the odd templates.

    What the prompts of a template share is read once. Errors: DataError for a template in which the name is not last,
    or first (its state would then be the same in every template), NonFiniteError for NaN or infinity.
    """
    for text in templates:
        if not text.endswith("{}") or text.startswith("{}"):
            raise DataError(f"the template {text!r} must end with the name, {{}}, and not begin with it")
    halves = (Moments.zeros(len(names), layout.total), Moments.zeros(len(names), layout.total))
    for number, text in enumerate(templates):
        moments = halves[number % 2]
        moments.count += 1
        _read_template(model, layout, [encode(model, text.format(name)) for name in names], moments)
    for moments in halves:
        if not bool(moments.mean.sum().isfinite()):
            row, at = (~moments.mean.isfinite()).nonzero()[0].tolist()
            raise NonFiniteError(f"neuron {layout.place(at)} is NaN or infinite for {names[row]!r}")
    return halves


def _read_template(model: LanguageModel, layout: Layout, sequences: list[list[int]], moments: Moments) -> None:
    """Add one prompt of every name. The shared beginning is read once, and names of one length go together, unpadded."""
    shared = _common_length(sequences)
    beginning = KeyValues.empty(1, model.device)
    if shared:
        row, length = torch.zeros(1, dtype=torch.long), torch.tensor([len(sequences[0])])
        read(model, beginning, torch.tensor([sequences[0][:shared]], device=model.device), None, row, length)
    for rows in _batches([len(ids) - shared for ids in sequences]):
        which = torch.tensor(rows)
        ids = torch.tensor([sequences[row][shared:] for row in rows], device=model.device)

        def keep(
            layer: int, state: Float[Tensor, "*B F"], which: Tensor = which, counts: Tensor = moments.count
        ) -> None:
            values = state.view(len(which), -1, state.shape[-1])[:, -1]  # OPT flattens batch and time
            moments.add(which, layout.where(layer), values.float().cpu(), counts[which])

        past = KeyValues.empty(len(rows), model.device)
        if shared:
            past = beginning.select(torch.zeros(len(rows), dtype=torch.long, device=model.device))
        with watching(model, keep):
            read(model, past, ids, None, which, torch.tensor([len(sequences[row]) for row in rows]))


def _common_length(sequences: Sequence[Sequence[int]]) -> int:
    """Tokens that all begin with, leaving each at least one."""
    first, end = sequences[0], min(map(len, sequences)) - 1
    return next((at for at in range(end) if any(ids[at] != first[at] for ids in sequences)), end)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Rows of equal length, as many together as the token budget allows."""
    groups: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        groups.setdefault(length, []).append(row)
    for length, rows in sorted(groups.items()):
        size = max(1, _TOKENS // length)
        yield from (rows[start : start + size] for start in range(0, len(rows), size))


@contextmanager
def watching(model: LanguageModel, keep: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Hand every layer's neuron activations to `keep(layer, state)` as a forward pass meets them."""
    with ExitStack() as stack:
        for layer in range(len(model.anatomy.layers)):
            module = model.anatomy.hook_point(neurons(layer)).module

            def hook(_module: Any, args: tuple[Tensor, ...], layer: int = layer) -> None:
                keep(layer, args[0])

            stack.callback(module.register_forward_pre_hook(hook).remove)
        yield
