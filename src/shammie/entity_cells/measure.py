"""Asks questions under interventions that differ from row to row, and reads how likely the answers are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from shammie.core.batch import encode, pad, plan_batches
from shammie.core.capture import capture
from shammie.core.edit import Edit, edited
from shammie.core.errors import DataError, NonFiniteError
from shammie.core.model import LanguageModel
from shammie.core.position import LAST, RowSpans, text_spans
from shammie.core.prefix import KeyValues, read
from shammie.core.site import Site, neurons
from shammie.entity_cells.data import Fact
from shammie.entity_cells.texts import PLACEHOLDER

_TOKENS = 1024  # padded tokens of one batch
_LOGITS = 128 * 2**20  # bytes of one block of logits
_EVERYWHERE = 1 << 30


@dataclass(frozen=True, eq=False)
class Question:
    """A fact as tokens: where its name ends, the first tokens of all its answers, and the tokens of the first answer."""

    ids: tuple[int, ...]
    entity: int
    """Position of the name's last token."""
    firsts: tuple[int, ...]
    answer: tuple[int, ...]

    @classmethod
    def of(cls, model: LanguageModel, fact: Fact, name: str) -> Question:
        """Tokenize a fact. Errors: SiteError when the prompt does not hold the name."""
        span = text_spans(model.tokenizer, [fact.prompt], [name]).spans[0]
        answers = [_answer(model, answer) for answer in fact.answers if answer.strip()]
        if not answers:
            raise DataError(f"the list of answers to {fact.prompt!r} is empty; give at least one")
        firsts = tuple(dict.fromkeys(ids[0] for ids in answers))
        return cls(tuple(encode(model, fact.prompt)), span[1] - 1, firsts, tuple(answers[0]))


def _answer(model: LanguageModel, text: str) -> list[int]:
    return list(model.tokenizer(" " + text.strip(), add_special_tokens=False)["input_ids"])


def renamed(fact: Fact, name: str, other: str) -> Fact:
    """The fact with another name, or the placeholder, in place of the entity's."""
    before, found, after = fact.prompt.rpartition(name)
    assert found, "EntitySet.of has checked it"
    return Fact(fact.relation, before + other + after, fact.answers)


def placeholder(model: LanguageModel, fact: Fact, name: str) -> Question:
    """The question with the placeholder in the entity's place."""
    return Question.of(model, renamed(fact, name, PLACEHOLDER), PLACEHOLDER)


def check_answers(questions: Sequence[Question], relation: str) -> None:
    """Refuse questions whose answers all begin with the same token: its probability tells no entity from another."""
    firsts = [set(question.firsts) for question in questions]
    if len(firsts) > 1 and set.intersection(*firsts):
        raise DataError(
            f"all {len(firsts)} answers of the relation {relation!r} begin with the same token, so the first token tells "
            "no entity from another; reword its prompts or answers"
        )


@dataclass(frozen=True, eq=False)
class Change:
    """state -> factor * state + shift at one site, on some neurons or all, at the entity's last token or everywhere."""

    site: Site
    neurons: tuple[int, ...] | None = None
    factor: float = 0.0
    shift: Tensor | float = 0.0
    everywhere: bool = False


def scaled(layer: int, neuron: Sequence[int], factor: float, *, everywhere: bool = False) -> Change:
    """Neurons of a layer times a factor."""
    return Change(neurons(layer), tuple(neuron), factor, everywhere=everywhere)


@dataclass(frozen=True)
class Reading:
    """Probability of the likeliest first token of an answer, the rank of the best of them, and log p(first answer)."""

    probability: float
    rank: int
    log_likelihood: float


Job = tuple[Question, Sequence[Change]]


def ask(model: LanguageModel, jobs: Sequence[Job]) -> list[Reading]:
    """Read every question under its own changes. What all prompts of a batch share before the first change is read once.

    Errors: NonFiniteError for logits that are NaN or infinite.
    """
    readings: dict[int, Reading] = {}
    sequences = [[*question.ids, *question.answer[:-1]] for question, _ in jobs]
    for group in _alike(jobs):
        for part in plan_batches([len(sequences[i]) for i in group], tokens=_TOKENS):
            members = [group[i] for i in part]
            found = _ask_batch(model, [jobs[i] for i in members], [sequences[i] for i in members])
            readings.update(zip(members, found, strict=True))
    return [readings[i] for i in range(len(jobs))]


def next_log_probs(model: LanguageModel, prompt: str) -> Float[Tensor, " V"]:
    """Log-probabilities of the next token after a text, in float32."""
    captured = capture(model, pad([encode(model, prompt)], device=model.device), [], positions=LAST, logits=True)
    assert captured.logits is not None
    return captured.logits[0].float().log_softmax(-1).cpu()


def _alike(jobs: Sequence[Job]) -> list[list[int]]:
    """Jobs grouped by the beginning of their prompts: such questions share a prefix."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, (question, changes) in enumerate(jobs):
        everywhere = any(change.everywhere for change in changes)
        groups.setdefault((int(everywhere), *question.ids[:4]), []).append(index)
    return list(groups.values())


def _ask_batch(model: LanguageModel, jobs: Sequence[Job], sequences: Sequence[list[int]]) -> list[Reading]:
    shared = _shared(jobs, sequences)
    rows = torch.arange(len(jobs), device=model.device)
    lengths = torch.tensor([len(question.ids) for question, _ in jobs], device=model.device)
    past = KeyValues.empty(1, model.device)
    if shared:
        ids = torch.tensor([sequences[0][:shared]], device=model.device)
        read(model, past, ids, None, rows[:1], lengths[:1])
    past = past.select(torch.zeros_like(rows)) if shared else KeyValues.empty(len(jobs), model.device)
    batch = pad([ids[shared:] for ids in sequences], device=model.device)
    with edited(model, _edits(jobs)):
        states = read(model, past, batch.ids, batch.mask, rows, lengths)
    spans = [(len(q.ids) - 1 - shared, len(q.ids) - 1 - shared + len(q.answer)) for q, _ in jobs]
    wanted = torch.cat([states[row, start:stop] for row, (start, stop) in enumerate(spans)])
    return _readings(model, wanted, [question for question, _ in jobs])


def _shared(jobs: Sequence[Job], sequences: Sequence[list[int]]) -> int:
    """Tokens that all sequences begin with and no change touches."""
    if any(change.everywhere for _, changes in jobs for change in changes):
        return 0
    end = min(min(question.entity, len(question.ids) - 1) for question, _ in jobs)
    first = sequences[0]
    return next((i for i in range(end) if any(ids[i] != first[i] for ids in sequences)), end)


def _edits(jobs: Sequence[Job]) -> list[Edit]:
    """One edit a site that changes every row in its own way."""
    by_site: dict[tuple[Site, bool], dict[int, list[Change]]] = {}
    for row, (_, changes) in enumerate(jobs):
        for change in changes:
            by_site.setdefault((change.site, change.everywhere), {}).setdefault(row, []).append(change)
    return [_edit(site, everywhere, rows, jobs) for (site, everywhere), rows in by_site.items()]


def _edit(site: Site, everywhere: bool, rows: dict[int, list[Change]], jobs: Sequence[Job]) -> Edit:
    def change_rows(state: Float[Tensor, "B T D"], _position: Tensor, row: Tensor) -> Tensor:
        new = state.clone()
        for at, number in enumerate(row.tolist()):
            for change in rows.get(number, ()):
                part = slice(None) if change.neurons is None else list(change.neurons)
                shift = change.shift.to(state) if isinstance(change.shift, Tensor) else change.shift
                new[at][:, part] = change.factor * new[at][:, part] + shift
        return new

    spans = []
    for number, (question, _) in enumerate(jobs):
        at = (0, _EVERYWHERE) if everywhere else (question.entity, question.entity + 1)
        spans.append(at if number in rows else (0, 0))
    return Edit(site, change_rows, RowSpans(tuple(spans)))


def _readings(model: LanguageModel, states: Float[Tensor, "N D"], questions: Sequence[Question]) -> list[Reading]:
    """Readings from the final-normed states before each answer token, a block of logits at a time."""
    targets = torch.tensor([token for question in questions for token in question.answer], device=states.device)
    rows = max(1, _LOGITS // (8 * model.anatomy.vocabulary_size))
    starts, at = {}, 0
    for index, question in enumerate(questions):
        starts[at] = index
        at += len(question.answer)
    logs, firsts = [], {}
    with torch.no_grad():
        for start in range(0, len(states), rows):
            logits = model.anatomy.unembed(states[start : start + rows]).float()
            log_probs = logits - logits.logsumexp(-1, keepdim=True)
            logs += log_probs.gather(-1, targets[start : start + rows, None])[:, 0].tolist()
            for offset in range(len(logits)):
                if start + offset in starts:
                    number = starts[start + offset]
                    best = log_probs[offset, list(questions[number].firsts)].max()
                    firsts[number] = (float(best.exp()), int((log_probs[offset] > best).sum()) + 1)
    if not bool(torch.tensor(logs).isfinite().all()):
        raise NonFiniteError("the log-probability of an answer is NaN or infinite; run in float32")
    found, at = [], 0
    for index, question in enumerate(questions):
        found.append(Reading(*firsts[index], sum(logs[at : at + len(question.answer)])))
        at += len(question.answer)
    return found
