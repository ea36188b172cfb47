"""The harness: what is still known of the concept, of its neighbours and of the rest, and how well the model still reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from shammie.core.answers import contains_match, first_line
from shammie.core.batch import encode
from shammie.core.errors import DataError
from shammie.core.generate import CacheStepper, GenerationSettings, generate
from shammie.core.judge import Judge, JudgePrompt
from shammie.core.model import LanguageModel
from shammie.core.score import score, score_tokens
from shammie.core.stats import Estimate, bootstrap, mean_interval, proportion
from shammie.ember import equations as eq
from shammie.ember.pack import SETS, ConceptPack, Question, Split
from shammie.ember.settings import Format

FORMATS: tuple[Format, ...] = get_args(Format)
_TEMPLATE = "Question: {question}\nAnswer:"
_NEAR = 10  # cloze: the answer counts as at hand while it is among so many tokens
_ROWS = 32
_OPEN = GenerationSettings(max_new_tokens=16, stop=("\n",))

JUDGE_PROMPT = JudgePrompt(
    "ember-open-answer",
    "1",
    "Question: $question\nTrue answer: $answer\nGiven answer: $said\n\nDoes the given answer state the true one?\n"
    'Reply with JSON: {"verdict": "CORRECT"} or {"verdict": "WRONG"}.',
    ("CORRECT", "WRONG"),
)


@dataclass(frozen=True)
class Answer:
    """One question in one format: `hit` 0 or 1, `soft` the same thing without a threshold, `chance` of both.

    choice: hit is the likeliest choice, soft the correct one's share of likelihood (its margin through the logistic
    function). open: hit by alias or judge. cloze: hit within the ten likeliest tokens, soft the reciprocal rank.
    """

    set: str
    format: Format
    question: int
    hit: float
    soft: float
    chance: float
    said: str

    def record(self) -> dict[str, Any]:
        """As a line of results."""
        return {"kind": "answer", **vars(self), "soft": round(self.soft, 6)}


def ask(
    model: LanguageModel,
    pack: ConceptPack,
    split: Split,
    formats: Sequence[Format] = FORMATS,
    *,
    limit: int | None = None,
    judge: Judge | None = None,
    sets: Sequence[str] = SETS,
    prompt: Mapping[tuple[str, int], str] | None = None,
) -> list[Answer]:
    """Put a split's questions to the model as it now is; `prompt` replaces single prompts by (set, number)."""
    answers: list[Answer] = []
    for name in sets:
        questions = pack.asked(split)[name][:limit]
        plain = [_TEMPLATE.format(question=question.question) for question in questions]
        prompts = [(prompt or {}).get((name, number), text) for number, text in enumerate(plain)]
        for style in formats:
            answers += _READERS[style](model, name, questions, prompts, judge)
    return answers


def _choices(
    model: LanguageModel, name: str, questions: Sequence[Question], prompts: Sequence[str], _: Judge | None
) -> list[Answer]:
    pairs = [(prompts[i], f" {choice}") for i, question in enumerate(questions) for choice in question.choices]
    scores = iter(score(model, pairs))
    answers = []
    for number, question in enumerate(questions):
        own = torch.tensor([next(scores).log_probability for _ in question.choices])
        if question.choices:
            correct, best = question.choices.index(question.answer), int(own.argmax())
            soft = float(eq.choice_probability(own, correct))
            chance = 1 / len(own)
            answers.append(Answer(name, "choice", number, float(best == correct), soft, chance, question.choices[best]))
    return answers


def _open(
    model: LanguageModel, name: str, questions: Sequence[Question], prompts: Sequence[str], judge: Judge | None
) -> list[Answer]:
    said = [first_line(made.text) for made in generate(model, prompts, _OPEN, rows=_ROWS)]
    if judge is None:
        hits = [contains_match(text, [q.answer, *q.aliases]) for q, text in zip(questions, said, strict=True)]
    else:
        records = [
            {"question": q.question, "answer": q.answer, "said": text} for q, text in zip(questions, said, strict=True)
        ]
        hits = [found.verdict == "CORRECT" for found in judge.judge(JUDGE_PROMPT, records)]
    return [Answer(name, "open", i, float(hit), float(hit), 0.0, said[i]) for i, hit in enumerate(hits)]


def _cloze(
    model: LanguageModel, name: str, questions: Sequence[Question], prompts: Sequence[str], _: Judge | None
) -> list[Answer]:
    answers = []
    for start in range(0, len(questions), _ROWS):
        part = range(start, min(start + _ROWS, len(questions)))
        logits = CacheStepper(model).start([encode(model, prompts[i]) for i in part], list(part))
        for row, number in zip(logits, part, strict=True):
            wanted = int(model.tokenizer(f" {questions[number].answer}", add_special_tokens=False)["input_ids"][0])
            rank = int((row > row[wanted]).sum())
            answers.append(Answer(name, "cloze", number, float(rank < _NEAR), 1 / (1 + rank), 0.0, str(rank)))
    return answers


_READERS = {"choice": _choices, "open": _open, "cloze": _cloze}


# -- coherence -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """How surely a text was read: its tokens and the log-probability of all but the first."""

    tokens: tuple[int, ...]
    log_probabilities: tuple[float, ...]

    @property
    def loss(self) -> float:
        """Mean negative log-probability of a token."""
        return -sum(self.log_probabilities) / len(self.log_probabilities)


def read_texts(model: LanguageModel, texts: Sequence[str], *, max_tokens: int = 128) -> list[Reading]:
    """Log-probability of every token of each text after its first."""
    encoded = [encode(model, text)[:max_tokens] for text in texts]
    encoded = [ids for ids in encoded if len(ids) > 1]
    scored = score_tokens(model, [(ids[:1], ids[1:]) for ids in encoded])
    return [Reading(tuple(ids), found.token_log_probabilities) for ids, found in zip(encoded, scored, strict=True)]


def coherence(before: Sequence[Reading], after: Sequence[Reading], seed: int) -> Estimate:
    """Perplexity before over perplexity after, at most 1, on held-out neutral texts, with an interval over texts."""
    costs = np.array([new.loss - old.loss for old, new in zip(before, after, strict=True)])
    found = mean_interval(costs, seed=seed)
    low, high = (
        min(1.0, math.exp(-end)) if math.isfinite(end) else bound
        for end, bound in ((found.high, 0.0), (found.low, 1.0))
    )
    return Estimate(min(1.0, math.exp(-found.value)), low, high, found.n, found.level, found.method)


def cost_by_place(
    before: Sequence[Reading], after: Sequence[Reading], edited: set[int], seed: int
) -> list[dict[str, Any]]:
    """Loss added to tokens read right after an edited one, later in its text, and where none came before."""
    costs: dict[str, list[float]] = {"after an edited token": [], "later in such a text": [], "before any": []}
    owners: dict[str, list[int]] = {name: [] for name in costs}
    for text, (old, new) in enumerate(zip(before, after, strict=True)):
        met = False
        for place, (was, now) in enumerate(zip(old.log_probabilities, new.log_probabilities, strict=True)):
            here = old.tokens[place] in edited
            met |= here
            name = "after an edited token" if here else "later in such a text" if met else "before any"
            costs[name].append(was - now)
            owners[name].append(text)
    return [
        {
            "kind": "cost", "place": name, "tokens": len(values), "share": round(len(values) / sum(map(len, costs.values())), 4),
            "added_loss": mean_interval(values, owners[name], seed).as_dict(),
        }
        for name, values in costs.items()
        if len(set(owners[name])) > 1
    ]  # fmt: skip


# -- figures ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What an erasure did, against the model before it; `soft` says which of an answer's values it is made of."""

    efficacy: Estimate
    similar: Estimate
    general: Estimate
    specificity: Estimate
    coherence: Estimate
    overall: float
    accuracy: Estimate
    accuracy_before: Estimate

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return {name: value.as_dict() if isinstance(value, Estimate) else value for name, value in vars(self).items()}


def outcome(
    before: Sequence[Answer], after: Sequence[Answer], reading: Estimate, style: Format, *, soft: bool, seed: int
) -> Outcome:
    """Efficacy 1 - r, specificity HM(r similar, r general), and their harmonic mean with coherence, in one format.

    Intervals are bootstraps over questions, before and after drawn together.
    """
    pairs = [(a, b) for a, b in zip(before, after, strict=True) if b.format == style]
    if not pairs:
        raise DataError(f"no question of this pack can be asked as {style}; choose another format")
    columns = [
        np.array([b.soft if soft else b.hit for _, b in pairs]),
        np.array([a.soft if soft else a.hit for a, _ in pairs]),
        np.array([b.chance for _, b in pairs]),
        np.array([SETS.index(b.set) for _, b in pairs], dtype=np.float64),
    ]
    found = {
        name: bootstrap(statistic, *columns, seed=seed)
        for name, statistic in (
            ("efficacy", lambda *c: 1 - _retained(0, *c)), ("similar", lambda *c: _retained(1, *c)),
            ("general", lambda *c: _retained(2, *c)),
            ("specificity", lambda *c: eq.harmonic_mean(_retained(1, *c), _retained(2, *c))),
        )
    }  # fmt: skip
    overall = eq.harmonic_mean(found["efficacy"].value, found["specificity"].value, reading.value)
    ours = [(a, b) for a, b in pairs if b.set == SETS[0]]
    was, now = ([getattr(pair[i], "hit") for pair in ours] for i in (0, 1))  # noqa: B009 - one field of either side
    rates = [proportion(int(sum(side)), len(side)) for side in (now, was)]
    return Outcome(
        found["efficacy"], found["similar"], found["general"], found["specificity"], reading, overall, *rates
    )


def _retained(code: int, after: NDArray[Any], before: NDArray[Any], chance: NDArray[Any], sets: NDArray[Any]) -> float:
    own = sets == code
    known = float((before[own] - chance[own]).sum())
    if known <= 0:
        raise DataError(
            f"the untouched model does not answer the {SETS[code]} above chance, so nothing can be said of what is left; "
            "choose another concept or model"
        )
    return eq.retained(float((after[own] - chance[own]).sum()), known, 0.0)


def knows(answers: Sequence[Answer], style: Format, seed: int) -> Estimate:
    """How far the untouched model answers the concept's questions above chance; known where the interval is above 0."""
    own = [answer for answer in answers if answer.set == SETS[0] and answer.format == style]
    return mean_interval([answer.hit - answer.chance for answer in own], seed=seed)
