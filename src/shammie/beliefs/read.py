"""Which beliefs surface in which states: the grid of positions by layers that everything else is computed from."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from shammie.beliefs import equations as eq
from shammie.beliefs.patchscope import Decoded, Patchscope
from shammie.beliefs.settings import ReadSettings
from shammie.core.answers import contains_match, normalize
from shammie.core.batch import pad
from shammie.core.capture import capture
from shammie.core.errors import ShammieError
from shammie.core.model import LanguageModel
from shammie.core.position import Span
from shammie.core.site import residual
from shammie.core.vocabulary import lens_ranks

Names = Sequence[str]
_NAME = 8  # tokens that a name may have
_LEAD = 3  # letters of a first token that stand for a name


@dataclass(frozen=True, eq=False)
class Grid:
    """Hits of each belief [P, L], for P positions and L layers.

    `written` [P] says how many tokens ago its name ended, and `ahead` [P] whether the next token belongs to it.

    A position is that of a token that was read; what is decoded there is what the model holds after reading it.
    """

    layers: tuple[int, ...]
    tokens: tuple[str, ...]
    hits: Mapping[str, Bool[Tensor, "P L"]]
    written: Mapping[str, Int[Tensor, " P"]]
    ahead: Mapping[str, Bool[Tensor, " P"]]
    decoded: Sequence[Sequence[str]] | None = None

    def scores(self, settings: ReadSettings) -> dict[str, float | int | None]:
        """Dominance of each belief, their difference, how often they surface at all, and the same without mentions.

        `unwritten` leaves out positions soon after the own name was written, `apart` those soon after any of the names or about
        to write one.
        None where no position counts, with `positions` 0.
        """
        base, counter = self.hits["base"], self.hits["counter"]
        counted = eq.eligible(base, counter, settings.least)
        found: dict[str, float | int | None] = {"positions": int(counted.sum()), "of": len(counted)}
        apart = counted.clone()
        for name in self.hits:
            apart &= (self.written[name] > settings.mention) & ~self.ahead[name]
        for name, own in self.hits.items():
            found[name] = eq.dominance(own, counted)
            found[f"{name}_density"] = float(own.double().mean()) if own.numel() else None
            away = counted & (self.written[name] > settings.mention)
            found[f"{name}_unwritten"] = eq.dominance(own, away)
            found[f"{name}_apart"] = eq.dominance(own, apart)
        found["difference"] = None if found["base"] is None else found["base"] - found["counter"]  # type: ignore[operator]
        return found

    def trajectory(self, bins: int) -> dict[str, list[float | None]]:
        """Share of hits over generation time, cut into equal parts."""
        count = len(self.tokens)
        edges = [round(part * count / bins) for part in range(bins + 1)]
        return {
            name: [float(own[a:b].double().mean()) if b > a else None for a, b in itertools.pairwise(edges)]
            for name, own in self.hits.items()
        }


class GridReader:
    """Reads grids of one model: the window, the Patchscope, and what counts as a hit."""

    def __init__(self, model: LanguageModel, settings: ReadSettings) -> None:
        self.model, self.settings = model, settings
        self.layers = tuple(settings.layers(len(model.anatomy.layers)))
        self.scope = Patchscope(model, tokens=settings.decode_tokens) if settings.reader == "patchscopes" else None

    def read(self, ids: Sequence[int], start: int, beliefs: Mapping[str, Names]) -> Grid:
        """The grid over the tokens from `start` to the end of one text. Errors: as `read_all`."""
        return self.read_all([(ids, start)], [beliefs])[0]

    def read_all(
        self, texts: Sequence[tuple[Sequence[int], int]], beliefs: Sequence[Mapping[str, Names]]
    ) -> list[Grid]:
        """The grid of each text, with beliefs of its own; the states of all texts are decoded together.

        Errors: ShammieError when two beliefs begin with the same tokens, where the lens could not tell them apart.
        """
        for own in beliefs:
            if not self.tells_apart(own["base"], own["counter"]):
                raise ShammieError(
                    "the two beliefs begin with the same token, so the lens cannot tell them apart; use --reader patchscopes"
                )
        firsts = [{name: self.firsts(names) for name, names in own.items()} for own in beliefs]
        states = [self.states(ids, start) for ids, start in texts]
        if self.scope is None:
            ranked = (self.ranks(*pair) for pair in zip(states, firsts, strict=True))
            found = [{name: own < self.settings.lens_rank for name, own in ranks.items()} for ranks in ranked]
            made: list[list[list[Decoded]] | None] = [None] * len(texts)
        else:
            looked = [self._looked(*pair) for pair in zip(states, firsts, strict=True)]
            decoded = self._decoded(torch.cat(states), torch.cat(looked))
            cuts = list(itertools.accumulate((len(own) for own in states), initial=0))
            parts = [decoded[a:b] for a, b in itertools.pairwise(cuts)]
            found = [
                {name: self._hits(cells, names, self._leads(leads[name])) for name, names in own.items()}
                for cells, own, leads in zip(parts, beliefs, firsts, strict=True)
            ]
            made = list(parts)
        return [self._grid(*parts) for parts in zip(texts, beliefs, found, made, strict=True)]

    def _grid(
        self, text: tuple[Sequence[int], int], beliefs: Mapping[str, Names], hits: Mapping[str, Bool[Tensor, "P L"]],
        made: list[list[Decoded]] | None,
    ) -> Grid:  # fmt: skip
        ids, start = text
        stretches = {name: _stretches(self.model, ids, start, names) for name, names in beliefs.items()}
        written = {name: _since(own, start, len(ids)) for name, own in stretches.items()}
        ahead = {name: _ahead(own, start, len(ids)) for name, own in stretches.items()}
        tokens = tuple(str(self.model.tokenizer.decode([token])) for token in ids[start:])
        decoded = None if made is None else [[one.text for one in row] for row in made]
        return Grid(self.layers, tokens, hits, written, ahead, decoded)

    @staticmethod
    def _hits(cells: list[list[Decoded]], names: Names, leads: set[int]) -> Bool[Tensor, "P L"]:
        return torch.tensor([[said(one.text, names) or one.lead in leads for one in row] for row in cells])

    def tells_apart(self, base: Names, counter: Names) -> bool:
        """Whether the reader can tell two beliefs apart: to the lens they must begin with different tokens."""
        return self.scope is not None or not set(self.firsts(base)) & set(self.firsts(counter))

    def states(self, ids: Sequence[int], start: int) -> Float[Tensor, "P L D"]:
        """Residual states of the window at the tokens from `start`."""
        sites = [residual(layer) for layer in self.layers]
        captured = capture(self.model, pad([list(ids)], device=self.model.device), sites, positions=Span(start))
        return torch.stack([captured[site] for site in sites], 1)

    def firsts(self, names: Names) -> list[int]:
        """The tokens that a belief's names may begin with, in running text and at its start."""
        found: dict[int, None] = {}
        for name in names:
            for text in (" " + name.strip(), name.strip()):
                made = self.model.tokenizer(text, add_special_tokens=False)["input_ids"]
                if str(self.model.tokenizer.decode(made[:1])).strip():
                    found[int(made[0])] = None
        return list(found)

    def ranks(
        self, states: Float[Tensor, "P L D"], firsts: Mapping[str, Sequence[int]]
    ) -> dict[str, Int[Tensor, "P L"]]:
        """The best rank of a first token of each belief by the logit lens, 0 for the likeliest."""
        flat = states.flatten(0, 1)
        every = [token for own in firsts.values() for token in own]
        ranks = lens_ranks(self.model, flat, torch.tensor(every).expand(len(flat), -1)).cpu()
        found, at = {}, 0
        for name, own in firsts.items():
            found[name] = ranks[:, at : at + len(own)].amin(-1).reshape(states.shape[:2])
            at += len(own)
        return found

    def _looked(self, states: Float[Tensor, "P L D"], firsts: Mapping[str, Sequence[int]]) -> Bool[Tensor, "P L"]:
        """Which states are decoded."""
        if not self.settings.prefilter:
            return torch.ones(states.shape[:2], dtype=torch.bool)
        ranks = self.ranks(states, firsts)
        return torch.stack([own < self.settings.prefilter for own in ranks.values()]).any(0)

    def _decoded(self, states: Float[Tensor, "P L D"], looked: Bool[Tensor, "P L"]) -> list[list[Decoded]]:
        assert self.scope is not None
        made = [[Decoded("", None) for _ in self.layers] for _ in range(len(states))]
        rows, columns = looked.nonzero(as_tuple=True)
        if len(rows):
            found = self.scope.decode(states[rows, columns], torch.tensor(self.layers)[columns])
            for row, column, one in zip(rows.tolist(), columns.tolist(), found, strict=True):
                made[row][column] = one
        return made

    def _leads(self, firsts: Sequence[int]) -> set[int]:
        """First tokens that are enough of a name: few tokens are decoded, and small models garble the rest of a name."""
        texts = {token: str(self.model.tokenizer.decode([token])).strip() for token in firsts}
        return {token for token, text in texts.items() if len(text) >= _LEAD}


def said(text: str, names: Names) -> bool:
    """Whether a decoded text names a belief: a name as whole words, or a word of it that stands for it.

    Of a name of several words the first of at least four letters stands for it, since few tokens are decoded.
    """
    if not text:
        return False
    words = [next((w for w in normalize(name).split() if len(w) >= 4), None) for name in names if " " in name.strip()]
    return contains_match(text, [*names, *(word for word in words if word)])


def _stretches(model: LanguageModel, ids: Sequence[int], start: int, names: Names) -> list[tuple[int, int]]:
    """First and last token of each place where a name is written in full, the text before `start` apart."""
    written = re.compile("|".join(rf"(?<!\w){re.escape(normalize(name))}$" for name in names))
    found = []
    for end in range(start, len(ids)):
        begins = range(end, max(start, end - _NAME) - 1, -1)
        texts = ((begin, normalize(str(model.tokenizer.decode(list(ids[begin : end + 1]))))) for begin in begins)
        begin = next((begin for begin, text in texts if written.search(text)), None)
        if begin is not None:
            found.append((begin, end))
    return found


def _since(stretches: Sequence[tuple[int, int]], start: int, stop: int) -> Int[Tensor, " P"]:
    """For each token: how many tokens ago a name was last written; many where it never was."""
    ends = {end for _, end in stretches}
    found, last = [], -(10**6)
    for at in range(start, stop):
        last = at if at in ends else last
        found.append(at - last)
    return torch.tensor(found)


def _ahead(stretches: Sequence[tuple[int, int]], start: int, stop: int) -> Bool[Tensor, " P"]:
    """For each token: whether the next one belongs to a name."""
    inside = {at for begin, end in stretches for at in range(begin, end + 1)}
    return torch.tensor([at + 1 in inside for at in range(start, stop)], dtype=torch.bool)
