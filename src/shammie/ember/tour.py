"""The tour's chapter: a concept taken out of the embeddings, what is left of it, and what relearning brings back."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shammie.ember.page import (
    answer_pairs,
    outcome_numbers,
    relearning_figure,
    strength_figure,
    token_blocks,
)
from shammie.report import Block, Chapter, Context, Prose, of_kind

if TYPE_CHECKING:
    from shammie.ember.edit import ConceptDirections
    from shammie.ember.measure import Bench

Record = dict[str, Any]
CONCEPT = "honeybees"
_DELTAS = (1.0, 2.0, 10.0)


def measure(context: Context, _settings: object = None) -> Iterator[Record]:
    """As `_measure`; of a model that does not know the concept there is only that to say."""
    from shammie.core.errors import ShammieError

    try:
        yield from _measure(context)
    except ShammieError as error:
        yield {"kind": "unknown", "unknown": str(error)}


def _measure(context: Context) -> Iterator[Record]:
    """EMBER alone on a shipped concept: strength by the validation split, test answers, control, relearning."""
    from shammie.ember.edit import find_directions, random_directions
    from shammie.ember.measure import Bench
    from shammie.ember.pack import load_pack
    from shammie.ember.settings import EmberSettings

    model, seed, settings, pack = context.model, context.seed, EmberSettings(), load_pack(CONCEPT)
    small = Bench(model, pack, ("choice",), seed, context.size(5, 40))
    large = Bench(model, pack, ("choice",), seed, context.size(12, 40))
    directions = find_directions(model, pack, settings, seed)
    yield from _tokens(context, directions)
    yield from _questions(small)
    yield from _said(small, "untouched")
    delta = yield from _strength(small, directions)
    before = large.ask("test")
    _ = large.readings
    yield from _relearned(context, large, "untouched")
    with directions.patch(model, delta).applied(model):
        yield from _said(small, "erased")
        yield from large.outcomes(before, large.ask("test"), "erased")
        yield from large.costs(set(directions.tokens.tolist()), "erased")
        yield from _relearned(context, large, "erased")
    control = random_directions(model, pack, settings, directions, seed)
    with control.patch(model, delta).applied(model):
        yield from large.outcomes(before, large.ask("test"), "random features")


def _strength(bench: Bench, directions: ConceptDirections) -> Generator[Record, None, float]:
    """Each strength on the validation questions; returns the best."""
    before, best = bench.ask("validation"), (-1.0, -_DELTAS[0])
    _ = bench.readings
    for delta in _DELTAS:
        with directions.patch(bench.model, delta).applied(bench.model):
            found = bench.outcome("validation", before, bench.ask("validation"), "choice", soft=True)
        yield {"kind": "strength", "delta": delta, **found.record()}
        best = max(best, (found.overall, -delta))
    yield {"kind": "chosen", "delta": -best[1], "bracketed": None}
    return -best[1]


def _questions(bench: Bench) -> Iterator[Record]:
    for number, question in enumerate(bench.pack.questions.test[: bench.limit]):
        yield {"kind": "question", "number": number, "text": question.question, "answer": question.answer}


def _said(bench: Bench, arm: str) -> Iterator[Record]:
    """Open answers to the concept's test questions."""
    from shammie.ember.measure import answer_records

    yield from answer_records(bench.ask("test", ("open",), ("questions",)), arm, "test")


def _tokens(context: Context, directions: ConceptDirections) -> Iterator[Record]:
    from shammie.core.vocabulary import token_text

    for token, size in zip(directions.tokens, directions.components.norm(dim=1), strict=True):
        text = token_text(context.model, int(token))
        yield {"kind": "edited_token", "token": int(token), "text": text, "size": float(size)}


def _relearned(context: Context, bench: Bench, arm: str) -> Iterator[Record]:
    """Accuracy before and along a short relearning by adapters, which fit a model of any dtype."""
    from shammie.core.stats import proportion
    from shammie.ember.relearn import relearn
    from shammie.ember.settings import RelearnSettings

    settings = RelearnSettings(
        paragraphs=context.size(8, 50), epochs=context.size(1, 2), batch_size=1, points=context.size(2, 4)
    )
    records: list[Record] = []

    def probe(step: int) -> None:
        own = bench.ask("test", sets=("questions",))
        found = proportion(int(sum(answer.hit for answer in own)), len(own))
        head = {"kind": "answered", "arm": arm, "attack": "lora" if records else "none", "seed": context.seed}
        records.append({**head, "step": step, "set": "questions", "accuracy": found.as_dict()})

    probe(0)
    with tempfile.TemporaryDirectory() as place:
        relearn(bench.model, bench.pack, "lora", settings, Path(place) / "training", context.seed, probe)
    yield from records


def draw(records: list[Record]) -> list[Block]:
    """What was erased and kept, answers side by side, the strength, relearning, and which tokens paid."""
    if unknown := of_kind(records, "unknown"):
        return [Prose(f"Nothing was erased: {unknown[0]['unknown']}.")]
    asked = {r["number"]: r["text"] for r in of_kind(records, "question")}
    pairs = answer_pairs(records, asked)
    return [
        outcome_numbers(records),
        Prose(
            f"The concept is **{CONCEPT}**. Its sentences and neutral ones name a slice of the vocabulary; the embeddings of that "
            "slice are cut into sparse features; what the concept's features add is taken out of the tokens that only its "
            "sentences have. Efficacy is the share of knowledge above chance that is gone, specificity what is left of "
            "neighbouring and general knowledge, coherence how well held-out neutral texts are still read. The control edits as "
            "many tokens by as much, but along features drawn at random."
        ),
        *pairs[:4],
        strength_figure(records),
        relearning_figure(records, "lora"),
        *token_blocks(records),
    ]


CHAPTER = Chapter(
    "ember", "A concept erased", "Can a concept be taken out of the token embeddings, and does it stay out?",
    "shammie tour --only ember", measure, draw,
)  # fmt: skip
