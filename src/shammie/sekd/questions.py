"""Questions with one right answer: last words of passages, choice sets, and how well confidence matches correctness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shammie.core.batch import Batch, encode, pad, plan_batches
from shammie.core.errors import DataError, NonFiniteError
from shammie.core.intervals import bootstrap
from shammie.core.model import LanguageModel
from shammie.core.position import rows_of
from shammie.core.score import LOGIT_BUDGET, Scored, score
from shammie.core.stats import Estimate, mean_interval, proportion

BINS = 15
"""Equal-width bins of confidence (the paper's)."""
PROMPT = "Question: {question}\nAnswer:"
Record = dict[str, Any]
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class LastWord:
    """A passage without its last word, and that word (the layout of LAMBADA)."""

    text: str
    answer: str


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question with its choices. `answer` is an index from 0, a letter from A, or the text of a choice."""

    question: str
    choices: tuple[str, ...]
    answer: str | int

    @property
    def correct(self) -> int:
        """The index of the right choice. Errors: DataError for too few choices or an answer that is none of them."""
        if len(self.choices) < 2 or not all(choice.strip() for choice in self.choices):
            raise DataError(f"the question {self.question!r} needs at least two choices that are not blank")
        if isinstance(self.answer, str) and self.answer in self.choices:
            return self.choices.index(self.answer)
        letter = isinstance(self.answer, str) and len(self.answer) == 1
        index = ord(self.answer) - ord("A") if letter else self.answer  # type: ignore[arg-type]
        if not isinstance(index, int) or not 0 <= index < len(self.choices):
            raise DataError(
                f"the answer {self.answer!r} of the question {self.question!r} is none of its {len(self.choices)} choices; "
                "give an index from 0, a letter from A, or a choice's text"
            )
        return index


# -- last words ------------------------------------------------------------------------------------------------------


def ask_last_words(model: LanguageModel, items: Sequence[LastWord]) -> list[Record]:
    """Log-probability of each last word, in nats over all its tokens, and whether greedy decoding would say it.

    Both come from one reading of passage and word: greedy decoding says the word when each of its tokens is the
    likeliest after the true ones before it.
    """
    prompts = [encode(model, item.text.rstrip()) for item in items]
    words = [model.tokenizer(f" {item.answer.strip()}", add_special_tokens=False)["input_ids"] for item in items]
    for item in items:
        if not item.answer.strip():
            raise DataError(f"the passage {item.text[-60:]!r} has a blank answer; give its last word")
    sequences = [[*prompt, *word[:-1]] for prompt, word in zip(prompts, words, strict=True)]
    records: dict[int, Record] = {}
    for members in plan_batches(list(map(len, sequences)), tokens=4096):
        batch = pad([sequences[i] for i in members], device=model.device)
        states, ends = final_states(model, batch), batch.lengths.tolist()
        sizes = [len(words[i]) for i in members]
        wanted = [states[row, end - size : end] for row, (end, size) in enumerate(zip(ends, sizes, strict=True))]
        targets = torch.tensor([token for i in members for token in words[i]], device=model.device)
        log_probs, best = _read(model, torch.cat(wanted), targets)
        for i, surely, likeliest in zip(members, log_probs.split(sizes), best.split(sizes), strict=True):
            records[i] = {"hit": bool(likeliest.all()), "log_probability": _finite(float(surely.sum()), i)}
    return [records[i] for i in range(len(items))]


def final_states(model: LanguageModel, batch: Batch) -> Tensor:
    """Final-normed states [B, T, D] of a padded batch, without a gradient."""
    model.anatomy.check_length(int(batch.lengths.max()))
    with torch.no_grad(), rows_of(batch.row, batch.lengths):
        states: Tensor = model.anatomy.body(**batch.inputs(), use_cache=False).last_hidden_state
    return states


def _read(model: LanguageModel, states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log p(target) [N], and whether the target is the likeliest token [N], a block of logits at a time."""
    rows = max(1, LOGIT_BUDGET // (8 * model.anatomy.vocabulary_size))
    log_probs, best = [], []
    with torch.no_grad():
        for block, ids in zip(states.split(rows), targets.split(rows), strict=True):
            logits = model.anatomy.unembed(block).float()
            log_probs.append((logits.gather(-1, ids[:, None])[:, 0] - logits.logsumexp(-1)).double())
            best.append(logits.argmax(-1) == ids)
    return torch.cat(log_probs), torch.cat(best)


def _finite(value: float, item: int) -> float:
    if not math.isfinite(value):
        raise NonFiniteError(f"the log-probability of answer {item} is {value}; the model's states or logits overflow")
    return value


def summarize_last_words(records: Sequence[Record], seed: int) -> list[Record]:
    """Accuracy, and perplexity of a whole answer: exp of its mean negative log-probability, as lm-eval has it."""
    accuracy = proportion(sum(record["hit"] for record in records), len(records))
    loss = mean_interval([-record["log_probability"] for record in records], seed=seed)
    return [{"kind": "last_words", "accuracy": accuracy.as_dict(), "perplexity": exponential(loss).as_dict()}]


def exponential(estimate: Estimate) -> Estimate:
    """Exp of an estimate: the percentile interval goes along with a monotone map; where it overflows there is no end."""
    with np.errstate(over="ignore"):
        value, low, high = (float(np.exp(end)) for end in (estimate.value, estimate.low, estimate.high))
    return Estimate(value, low, high, estimate.n, estimate.level, estimate.method)


# -- choices ---------------------------------------------------------------------------------------------------------


def ask_choices(model: LanguageModel, items: Sequence[ChoiceQuestion]) -> list[Record]:
    """Which choice each question's answers by likelihood point to, and how surely.

    hit: the likeliest choice is right. hit_per_character: the likeliest for its length in characters is (lm-eval's
    acc_norm). confidence: the likeliest choice's share of the choices' likelihood.
    """
    correct = [item.correct for item in items]
    pairs = [(PROMPT.format(question=item.question), f" {choice}") for item in items for choice in item.choices]
    scores = iter(score(model, pairs))
    return [
        _choice_record(item, answer, [next(scores) for _ in item.choices])
        for item, answer in zip(items, correct, strict=True)
    ]


def _choice_record(item: ChoiceQuestion, correct: int, scored: Sequence[Scored]) -> Record:
    total = np.array([one.log_probability for one in scored])
    per_character = total / [len(choice) for choice in item.choices]
    shares = np.exp(total - total.max())
    return {
        "hit": int(total.argmax()) == correct,
        "hit_per_character": int(per_character.argmax()) == correct,
        "confidence": float(shares.max() / shares.sum()),
        "chance": 1 / len(item.choices),
    }


def summarize_choices(records: Sequence[Record], seed: int) -> list[Record]:
    """Accuracy by either likelihood beside chance, the expected calibration error of the first, and its bins."""
    hits = np.array([record["hit"] for record in records], dtype=np.float64)
    confidence = np.array([record["confidence"] for record in records])
    normed = sum(record["hit_per_character"] for record in records)
    figures = {
        "accuracy": proportion(int(hits.sum()), len(hits)).as_dict(),
        "accuracy_per_character": proportion(normed, len(hits)).as_dict(),
        "chance": float(np.mean([record["chance"] for record in records])),
        "ece": bootstrap(calibration_error, confidence, hits, seed=seed).as_dict(),
    }
    bins = [{"kind": "reliability", **vars(one)} for one in reliability(confidence, hits)]
    return [{"kind": "choices", **figures}, *bins]


# -- calibration -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bin:
    """Answers whose confidence lies in (low, high]: how many, their mean confidence and accuracy."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


def reliability(confidence: Vector, hits: Vector, bins: int = BINS) -> list[Bin]:
    """The bins that hold answers, of `bins` of equal width; confidence and hits [N] lie in 0 to 1."""
    place = _bin(confidence, bins)
    return [
        Bin(b / bins, (b + 1) / bins, int(own.sum()), float(confidence[own].mean()), float(hits[own].mean()))
        for b in np.unique(place).tolist()
        for own in (place == b,)
    ]


def calibration_error(confidence: Vector, hits: Vector, bins: int = BINS) -> float:
    """Expected calibration error: the gap between accuracy and mean confidence of a bin, averaged over answers.

    Few answers make it too large, since a bin's accuracy is then a noisy mean.
    """
    gaps = np.bincount(_bin(confidence, bins), hits - confidence)  # n_b (accuracy_b - confidence_b)
    return float(np.abs(gaps).sum()) / len(confidence)


def _bin(confidence: Vector, bins: int) -> NDArray[np.int64]:
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
