"""Batched generation: greedy or sampled, n samples a prompt, reasoning kept apart from the answer.

Random draws belong to (seed, prompt, sample), never to the batch, so a completion does not depend on what it was
batched with. Where reasoning is not closed there is no answer, and stop strings are looked for only outside reasoning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from shammie.core.batch import Prompt, encode
from shammie.core.decoding import GenerationSettings as GenerationSettings
from shammie.core.errors import NonFiniteError
from shammie.core.model import LanguageModel
from shammie.core.prefix import KeyValues, SharedPrefixes, read

T = TypeVar("T")
Numbered = Sequence[T] | Mapping[int, T]
"""Prompts by number; a mapping where only some are at hand. Draws belong to the number."""
_CANDIDATES = 256  # likeliest tokens among which a draw is looked for first
_CROWDED = 0.75  # finished rows are dropped, which copies the cache, once no more than this share is still going


@dataclass(frozen=True)
class Completion:
    """One continuation. `answer` is None when reasoning was still open at the end: a truncated chain is no answer."""

    prompt: int
    sample: int
    text: str
    reasoning: str | None
    answer: str | None
    finish: str  # "end" (the model ended it), "stop" (a stop string), "length"
    tokens: tuple[int, ...] = ()
    log_probability: float | None = None  # of all tokens, at temperature 1; None from backends that do not say


@runtime_checkable
class Stepper(Protocol):
    """What the sampling loop drives: a model with a memory. Rooms whose models carry states of their own write one."""

    def start(self, sequences: Sequence[Sequence[int]], row: Sequence[int]) -> Float[Tensor, "B V"]:
        """Read the prompts and return next-token logits."""

    def step(self, tokens: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
        """Read one more token of each row and return next-token logits."""

    def keep(self, rows: Int[Tensor, " N"]) -> None:
        """Go on with these rows only."""


class CacheStepper:
    """The plain model with its key-value cache."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self._past: KeyValues | None = None

    def start(self, sequences: Sequence[Sequence[int]], row: Sequence[int]) -> Float[Tensor, "B V"]:
        """Read the prompts, what they share once."""
        prefixes = SharedPrefixes(self.model, sequences, row)
        states, mask, past = prefixes.read(range(len(sequences)))
        self._past = past.aligned()
        self._row = torch.tensor(list(row), device=self.model.device)
        self._prompt_length = torch.tensor([len(ids) for ids in sequences], device=self.model.device)
        last = mask.sum(-1) - 1
        return self._logits(states[torch.arange(len(states), device=states.device), last])

    def step(self, tokens: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
        """Read one token a row."""
        assert self._past is not None, "start comes first"
        states = read(self.model, self._past, tokens[:, None], None, self._row, self._prompt_length)
        return self._logits(states[:, -1])

    def keep(self, rows: Int[Tensor, " N"]) -> None:
        """Drop the other rows from the cache."""
        assert self._past is not None, "start comes first"
        self._past = self._past.select(rows).aligned()
        self._row, self._prompt_length = self._row[rows], self._prompt_length[rows]

    def _logits(self, states: Float[Tensor, "B D"]) -> Float[Tensor, "B V"]:
        with torch.no_grad():
            return self.model.anatomy.unembed(states).float()


def plan_generation(prompts: int, settings: GenerationSettings, rows: int) -> list[list[tuple[int, int]]]:
    """Batches of (prompt, sample) in order, `rows` each; a function of the settings alone, so that resuming repeats it."""
    jobs = [(prompt, sample) for prompt in range(prompts) for sample in range(settings.samples)]
    return [jobs[i : i + rows] for i in range(0, len(jobs), rows)]


def generate(
    model: LanguageModel, prompts: Sequence[Prompt], settings: GenerationSettings, *, rows: int = 32
) -> list[Completion]:
    """Continue every prompt, `rows` at a time, under whatever edits are in force; in order of (prompt, sample)."""
    encoded = encode_prompts(model, prompts, settings)
    batches = plan_generation(len(prompts), settings, rows)
    return [completion for jobs in batches for completion in complete(model, encoded, jobs, settings)]


def encode_prompts(model: LanguageModel, prompts: Sequence[Prompt], settings: GenerationSettings) -> list[list[int]]:
    """Token ids of each prompt with the prefill at its end."""
    return [encode(model, prompt, prefill=settings.prefill) for prompt in prompts]


def complete(
    model: LanguageModel, prompts: Numbered[Sequence[int]], jobs: Sequence[tuple[int, int]], settings: GenerationSettings,
    *, stepper: Stepper | None = None,
) -> list[Completion]:  # fmt: skip
    """One batch: a completion for each (prompt, sample) of `jobs`, where `prompts` are token ids by number."""
    stepper = stepper or CacheStepper(model)
    writers = [_Writer(model, prompts[prompt], job, settings) for job in jobs for prompt in (job[0],)]
    active = list(range(len(jobs)))
    logits = stepper.start([prompts[prompt] for prompt, _ in jobs], [prompt for prompt, _ in jobs])
    for step in range(settings.max_new_tokens):
        draws = [writers[i].draws[step] for i in active] if settings.temperature else None
        tokens, log_probs = pick(logits, settings, draws)
        for i, token, log_prob in zip(active, tokens.tolist(), log_probs.tolist(), strict=True):
            if not writers[i].finish:
                writers[i].write(token, log_prob)
        going = [slot for slot, i in enumerate(active) if not writers[i].finish]
        if not going or step == settings.max_new_tokens - 1:
            break
        if len(going) <= _CROWDED * len(active):
            rows = torch.tensor(going, device=tokens.device)
            stepper.keep(rows)
            active, tokens = [active[slot] for slot in going], tokens[rows]
        logits = stepper.step(tokens)
    return [writer.completion() for writer in writers]


def pick(
    logits: Float[Tensor, "B V"], settings: GenerationSettings, draws: Sequence[float] | None
) -> tuple[Int[Tensor, " B"], Float[Tensor, " B"]]:
    """The next token of each row and its log-probability at temperature 1.

    `draws` are uniform numbers in [0, 1), one a row, turned into tokens by inverting the cumulative distribution.
    """
    normalizer = logits.logsumexp(-1)
    if not bool(normalizer.isfinite().all()):
        raise NonFiniteError("the model's logits hold NaN or infinity")
    if draws is None:
        tokens = logits.argmax(-1)
    else:
        target = torch.tensor(draws, dtype=torch.float64, device=logits.device)
        tokens = _draw(logits / settings.temperature, settings, target, max(_CANDIDATES, settings.top_k))
    return tokens, logits.gather(-1, tokens[:, None])[:, 0] - normalizer


def _draw(
    scores: Float[Tensor, "B V"], settings: GenerationSettings, draws: Float[Tensor, " B"], candidates: int
) -> Int[Tensor, " B"]:
    """Where each draw falls in the cumulative distribution, likeliest token first.

    Only about `candidates` of the likeliest are put in order, which is most of the work; rows whose draw falls beyond
    them are done over with 16 times as many.
    """
    ordered, order = _likeliest(scores, candidates)
    top = ordered[:, :1].double()
    weights = (ordered.double() - top).exp()
    partial = candidates < scores.shape[1]
    total = (scores.logsumexp(-1).double() - top[:, 0]).exp() if partial else weights.sum(-1)
    if settings.top_k:
        weights[:, settings.top_k :] = 0
        total = weights.sum(-1)
    beyond = torch.zeros_like(draws, dtype=torch.bool)
    if settings.top_p < 1:
        cumulative = weights.cumsum(-1)
        beyond = cumulative[:, -1] < settings.top_p * total
        weights = weights * (cumulative - weights < settings.top_p * total[:, None])
        total = weights.sum(-1)
    cumulative = weights.cumsum(-1)
    place = torch.searchsorted(cumulative, (draws * total)[:, None], right=True)
    last = (weights > 0).sum(-1, keepdim=True) - 1
    tokens = order.gather(-1, place.minimum(last))[:, 0]
    beyond |= (place > last)[:, 0]
    if partial and bool(beyond.any()):
        tokens[beyond] = _draw(scores[beyond], settings, draws[beyond], 16 * candidates)
    return tokens


def _likeliest(scores: Float[Tensor, "B V"], count: int) -> tuple[Float[Tensor, "B C"], Int[Tensor, "B C"]]:
    """At least `count` of each row's highest scores in order, and their tokens; padded with minus infinity.

    Equal scores, common in bfloat16, are all taken and ordered by the vocabulary, never by the batch.
    """
    if count >= scores.shape[1]:
        ordered, order = scores.sort(dim=-1, descending=True, stable=True)
        return ordered, order
    chosen = (scores >= scores.topk(count).values[:, -1:]) & (scores > -torch.inf)
    rows, tokens = chosen.nonzero(as_tuple=True)
    sizes = chosen.sum(-1)
    slot = torch.arange(len(rows), device=rows.device) - (sizes.cumsum(0) - sizes)[rows]
    packed = scores.new_full((len(scores), int(sizes.max())), -torch.inf)
    names = tokens.new_zeros(packed.shape)
    packed[rows, slot], names[rows, slot] = scores[rows, tokens], tokens
    ordered, order = packed.sort(dim=-1, descending=True, stable=True)
    return ordered, names.gather(-1, order)


class _Writer:
    """Collects one completion and knows when it is over."""

    def __init__(
        self, model: LanguageModel, prompt: Sequence[int], job: tuple[int, int], settings: GenerationSettings
    ) -> None:
        self.model, self.settings, self.job = model, settings, job
        self.draws = np.random.Generator(np.random.Philox(np.random.SeedSequence([settings.seed, *job]))).random(
            settings.max_new_tokens if settings.temperature else 0
        )
        self.tokens: list[int] = []
        self.log_probability = 0.0
        self.finish = ""
        tail = self._decode(prompt[-16:]) if settings.reasoning_start else ""
        self.opened = tail.rstrip().endswith(settings.reasoning_start) if settings.reasoning_start else False
        self._ends = ending_tokens(model)

    def write(self, token: int, log_probability: float) -> None:
        """Take the next token."""
        self.log_probability += log_probability
        self.tokens.append(token)
        if token in self._ends:
            self.finish = "end"
        elif self.settings.stop and self._stopped():
            self.finish = "stop"

    def _stopped(self) -> bool:
        # Only the newest tokens can complete a stop string; the full text is looked at when they seem to.
        window = max(len(stop.encode()) for stop in self.settings.stop) + 8  # a token may be a single byte
        recent = self._decode(self.tokens[-window:])
        return any(stop in recent for stop in self.settings.stop) and self._split()[2]

    def completion(self) -> Completion:
        """What was written, split into reasoning and answer."""
        made = part(self.job, self._decode(self._content()), self.finish or "length", self.settings, opened=self.opened)
        return replace(made, tokens=tuple(self.tokens), log_probability=self.log_probability)

    def _split(self) -> tuple[str | None, str | None, bool]:
        return split_reasoning(self._decode(self._content()), self.settings, opened=self.opened)

    def _content(self) -> list[int]:
        return self.tokens[:-1] if self.tokens and self.tokens[-1] in self._ends else self.tokens

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self.model.tokenizer.decode(list(tokens), skip_special_tokens=False))


def split_reasoning(
    text: str, settings: GenerationSettings, *, opened: bool = False
) -> tuple[str | None, str | None, bool]:
    """Reasoning, answer up to the first stop string, and whether a stop string was found in it.

    `opened` says that the prompt ended inside reasoning. Unclosed reasoning leaves no answer (None).
    """
    reasoning: str | None = None
    answer: str | None = text
    if settings.reasoning_end:
        start = text.lstrip().startswith(settings.reasoning_start) if settings.reasoning_start else True
        if opened or start:
            body = text if opened or not settings.reasoning_start else text.split(settings.reasoning_start, 1)[1]
            reasoning, closed, rest = body.partition(settings.reasoning_end)
            answer = rest if closed else None
    if answer is None:
        return reasoning, None, False
    cuts = [at for stop in settings.stop if (at := answer.find(stop)) >= 0]
    return reasoning, answer[: min(cuts)] if cuts else answer, bool(cuts)


def part(
    job: tuple[int, int], text: str, finish: str, settings: GenerationSettings, *, opened: bool = False
) -> Completion:
    """The completion that a text makes: parted into reasoning and answer, and cut off where the answer stops."""
    reasoning, answer, stopped = split_reasoning(text, settings, opened=opened)
    if answer is not None and stopped:
        _, longer, _ = split_reasoning(text, replace(settings, stop=()), opened=opened)
        text, finish = text[: len(text) - len(longer or "") + len(answer)], "stop"
    return Completion(*job, text, reasoning, answer, finish)


def ending_tokens(model: LanguageModel) -> frozenset[int]:
    """Tokens with which this model ends a text."""
    named = getattr(model.module.generation_config, "eos_token_id", None)
    ends = named if isinstance(named, list) else [named]
    return frozenset(int(token) for token in [*ends, model.tokenizer.eos_token_id] if token is not None)
