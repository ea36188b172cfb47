"""Belief vectors put into, or taken out of, the states of a text that stays as it was written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from shammie.beliefs import equations as eq
from shammie.beliefs.ask import Asker, Told
from shammie.beliefs.data import Case
from shammie.core.batch import make_batch
from shammie.core.capture import capture
from shammie.core.edit import Edit, edited
from shammie.core.errors import DataError
from shammie.core.model import LanguageModel
from shammie.core.position import Span, text_spans
from shammie.core.site import residual

SENTENCES = (
    "They talked about $name",
    "The first word on the page is $name",
    "It was about $name",
    "Someone mentioned $name",
)


@dataclass(frozen=True)
class Arm:
    """One change: which vector, put in with which strength (a share of a state's length) or taken out, in which layers."""

    name: str
    vector: str
    strength: float
    inside: bool = True

    @property
    def removes(self) -> bool:
        """Whether the vector's direction is taken out instead of put in."""
        return self.name.startswith("remove")


def arms(strengths: Sequence[float]) -> list[Arm]:
    """The change for the belief that the model does not favour at every strength, its removal, and their controls."""
    doses = [
        Arm(name, vector, strength)
        for strength in strengths
        for name, vector in (("inject", "other"), ("inject another entity", "entity"), ("inject at random", "random"))
    ]
    controls = [
        Arm("zero", "other", 0.0), *(Arm("inject outside the window", "other", s, inside=False) for s in strengths),
        Arm("remove the favoured", "favoured", 1.0), Arm("remove another entity", "entity", 1.0),
        Arm("remove at random", "random", 1.0),
    ]  # fmt: skip
    return [*doses, *controls]


class Intervener:
    """Belief vectors of all entities of some cases, and what they do to margins."""

    def __init__(self, asker: Asker, cases: Sequence[Case], layers: Sequence[int], seed: int = 0) -> None:
        self.asker, self.model, self.seed = asker, asker.model, seed
        self.inside = list(layers)
        self.outside = [layer for layer in range(len(self.model.anatomy.layers)) if layer < min(layers)][: len(layers)]
        self.names = list(dict.fromkeys(name for case in cases for name in (case.base[0], case.counter[0])))
        if len(self.names) < 3:
            raise DataError(f"belief vectors need at least 3 entities of a kind, but the cases name {len(self.names)}")
        self._states = entity_states(self.model, self.names, [*self.inside, *self.outside])

    def vector(self, name: str, layer: int) -> Float[Tensor, " D"]:
        """The belief vector of an entity leaving a layer."""
        at = [*self.inside, *self.outside].index(layer)
        return eq.belief_vector(self._states[:, at], self.names.index(name))

    def margins(self, case: Case, told: Told, chosen: Sequence[Arm]) -> list[float]:
        """The margin under each arm, the text unchanged: changes begin with its first token and hold to the closing words.

        Every arm is a row of one batch.
        """
        with edited(self.model, self.edits(case, told.favours, chosen, told.start)):
            found = self.asker.margins(case, told.ids, told.start, len(chosen))
        return [float(value) for value in found]

    def edits(self, case: Case, favours: str, chosen: Sequence[Arm], start: int) -> list[Edit]:
        """The changes of all arms, a row each, at the tokens from `start`; `favours` says which belief is not put in."""
        rival, favoured = (case.base, case.counter) if favours == "counter" else (case.counter, case.base)
        draw = torch.Generator().manual_seed(self.seed + sum(map(ord, case.id)))
        others = [name for name in self.names if name not in (*case.base, *case.counter)]
        another = others[int(torch.randint(len(others), (1,), generator=draw))]
        names = {"other": rival[0], "favoured": favoured[0], "entity": another}
        noise = torch.randn(self._states.shape[-1], generator=draw)
        return [
            self._edit(
                layer,
                [noise if a.vector == "random" else self.vector(names[a.vector], layer) for a in chosen],
                chosen,
                start,
            )
            for layer in self.inside + self.outside
        ]

    def _edit(self, layer: int, vectors: Sequence[Tensor], chosen: Sequence[Arm], start: int) -> Edit:
        units = torch.stack([eq.of_length(vector, 1.0) for vector in vectors])
        here = torch.tensor([arm.inside == (layer in self.inside) for arm in chosen])
        put = torch.tensor([0.0 if arm.removes else arm.strength for arm in chosen]) * here
        out = torch.tensor([float(arm.removes) for arm in chosen]) * here

        def change(state: Float[Tensor, "B T D"], _position: Tensor, row: Tensor) -> Tensor:
            unit, add, remove = (part.to(state.device)[row] for part in (units, put, out))
            values = state.float()
            along = (values * unit[:, None]).sum(-1, keepdim=True) * unit[:, None]
            length = values.norm(dim=-1, keepdim=True)
            return (values + add[:, None, None] * length * unit[:, None] - remove[:, None, None] * along).to(
                state.dtype
            )

        return Edit(residual(layer), change, Span(start))


def entity_states(model: LanguageModel, names: Sequence[str], layers: Sequence[int]) -> Float[Tensor, "E L D"]:
    """The mean state of each name's last token over neutral sentences, leaving each layer."""
    total = torch.zeros(len(names), len(layers), model.module.config.hidden_size)
    sites = [residual(layer) for layer in layers]
    for sentence in SENTENCES:
        texts = [sentence.replace("$name", name) for name in names]
        at = text_spans(model.tokenizer, texts, names).last()
        captured = capture(model, make_batch(model, texts), sites, positions=at)
        total += torch.stack([captured[site].float().cpu() for site in sites], 1) / len(SENTENCES)
    return total
