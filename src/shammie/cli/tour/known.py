"""Facts that the model demonstrably holds, as ground to look at how an answer forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shammie.cli.tour.context import TourContext
from shammie.cli.tour.facts import SHORT_PROMPT, capitals
from shammie.core.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from shammie.core.model import LanguageModel

_CANDIDATES = 70


@dataclass(frozen=True)
class Known:
    """A country, its capital, and the capital's first token, which the model ranks first after the short prompt."""

    country: str
    capital: str
    token: int

    @property
    def prompt(self) -> str:
        """The text whose next token is the answer."""
        return SHORT_PROMPT.format(self.country)


def known_facts(context: TourContext, count: int) -> list[Known]:
    """Up to `count` capitals of large countries that the model names first, no two with the same first token."""
    from shammie.core.vocabulary import single_token

    model = context.model
    facts = capitals(_CANDIDATES)
    best = last_logits(model, [SHORT_PROMPT.format(fact.subject) for fact in facts]).argmax(-1).tolist()
    chosen: dict[int, Known] = {}
    for fact, top in zip(facts, best, strict=True):
        token = single_token(model, " " + fact.answers[0])
        if token == top and token not in chosen:
            chosen[token] = Known(fact.subject, fact.answers[0], token)
    if len(chosen) < 4:
        raise DataError(
            f"{model.name} names only {len(chosen)} of the {len(facts)} largest countries' capitals first, too few for this "
            "chapter; choose other chapters with --only"
        )
    return list(chosen.values())[:count]


def last_logits(model: LanguageModel, prompts: Sequence[str], *, rows: int = 128) -> Tensor:
    """Next-token logits [N, V] of each prompt, under whatever edits are in force (one batch if there are any)."""
    import torch

    from shammie.core.batch import make_batch
    from shammie.core.capture import capture
    from shammie.core.position import LAST

    assert not model.edits_in_force or len(prompts) <= rows, "rows of an edit are counted within a batch"
    parts = []
    for start in range(0, len(prompts), rows):
        logits = capture(
            model, make_batch(model, prompts[start : start + rows]), [], positions=LAST, logits=True
        ).logits
        assert logits is not None
        parts.append(logits.float())
    return torch.cat(parts)
