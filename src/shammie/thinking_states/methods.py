"""The ways to reason, behind one interface: a loss to train with, a stepper that answers, and how long it may write.

Thinking states train in one parallel pass; direct, cot and icot are one decoder with more or less text before the answer.
Coconut, whose latents are made one after another, has a file of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from shammie.core.batch import pad
from shammie.core.generate import CacheStepper, Stepper
from shammie.core.loss import token_losses
from shammie.core.model import LanguageModel
from shammie.thinking_states import equations as eq
from shammie.thinking_states.modeling import ShammieThinkingForCausalLM
from shammie.thinking_states.problems import Example, Layout
from shammie.thinking_states.reading import Prefill, Reader, ThinkingStepper
from shammie.thinking_states.settings import MethodSettings

_SLACK = 16  # tokens that a chain may be longer than the right one, beside half of that
_ANSWER = 12  # tokens that an answer may have at least


class Loss(NamedTuple):
    """A sum of losses, what it is divided by, and sums to be shown: of answers and of thoughts."""

    total: Float[Tensor, ""]
    weight: float
    parts: dict[str, float]


class Reasoner(ABC):
    """A way to reason with one model. `jumps` is the size of position jumps in training, 0 for none."""

    def __init__(self, model: LanguageModel, layout: Layout, settings: MethodSettings, jumps: float = 0.0) -> None:
        self.model, self.layout, self.settings, self.jumps = model, layout, settings, jumps

    @abstractmethod
    def loss(self, examples: Sequence[Example], progress: float, generator: torch.Generator, /) -> Loss:
        """The loss of some examples after a share `progress` of the training."""

    @abstractmethod
    def prompt(self, example: Example) -> list[int]:
        """What is read before the model writes."""

    def stepper(self) -> Stepper:
        """What drives generation."""
        return CacheStepper(self.model)

    def longest(self, example: Example) -> int:
        """Tokens that may be written for an example."""
        return max(_ANSWER, len(example.answer) + 2)

    def answer(self, written: Sequence[int]) -> str | None:
        """The answer in what was written; None where it holds none, which is never right."""
        return self.layout.text(written) or None

    def fits(self, _example: Example) -> str | None:
        """Why an example cannot be taught; None where it can."""
        return None

    def restart(self, _step: int, _steps: int) -> bool:
        """Whether the optimizer forgets its moments before a step, because what is taught changes."""
        return False

    def _targets(
        self, rows: Sequence[Sequence[int]], firsts: Sequence[int]
    ) -> tuple[Tensor, Tensor, Bool[Tensor, "B T"]]:
        """Inputs, their mask, and the positions that predict what stands from `first` on in each row."""
        device = self.model.device
        batch = pad([row[:-1] for row in rows], device=device)
        position = torch.arange(batch.ids.shape[1], device=device)
        chosen = (position >= torch.tensor(firsts, device=device)[:, None] - 1) & batch.mask.bool()
        return batch.ids, batch.mask, chosen

    def _losses(self, states: Float[Tensor, "N D"], targets: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        anatomy = self.model.anatomy
        return token_losses(anatomy.unembed, states, targets, anatomy.vocabulary_size)


def following(rows: Sequence[Sequence[int]], chosen: Bool[Tensor, "B T"]) -> Int[Tensor, " N"]:
    """The token after each chosen position."""
    return pad([row[1:] for row in rows], device=chosen.device).ids[chosen]


class Plain(Reasoner):
    """A decoder that writes its steps, all (cot), none (direct) or fewer and fewer (icot), before the answer."""

    def loss(self, examples: Sequence[Example], progress: float, generator: torch.Generator) -> Loss:
        """Mean over what is written: markers, steps and answer."""
        prompts = [self.prompt(example) for example in examples]
        rows = [
            [*prompt, *self._written(example, progress, generator)]
            for prompt, example in zip(prompts, examples, strict=True)
        ]
        ids, mask, chosen = self._targets(rows, [len(prompt) for prompt in prompts])
        states = self.model.anatomy.body(
            input_ids=ids, attention_mask=mask, position_ids=eq.jumped(mask, self.jumps, generator), use_cache=False
        ).last_hidden_state
        losses = self._losses(states[chosen], following(rows, chosen))
        return Loss(losses.sum(), float(len(losses)), {"written": float(losses.detach().mean())})

    def prompt(self, example: Example) -> list[int]:
        """The question and the marker of what follows."""
        marker = self.layout.answer_marker if self.settings.method == "direct" else self.layout.steps_marker
        return [*example.question, *marker]

    def longest(self, example: Example) -> int:
        """A chain may be half as long again as the right one."""
        steps = 0 if self.settings.method == "direct" else sum(map(len, example.steps))
        return super().longest(example) + (3 * steps // 2 + _SLACK if steps else 0)

    def answer(self, written: Sequence[int]) -> str | None:
        """What stands after the marker of the answer."""
        if self.settings.method == "direct":
            return super().answer(written)
        return after_marker(self.layout, written)

    def restart(self, step: int, steps: int) -> bool:
        """Implicit chains forget moments whenever a further tenth of its chains is gone (released code: at each removal)."""
        if self.settings.method != "icot" or step == 0:
            return False
        tenth = [int(10 * at / (steps * self.settings.until)) for at in (step - 1, step)]
        return tenth[0] < tenth[1] <= 10

    def _written(self, example: Example, progress: float, generator: torch.Generator) -> list[int]:
        if self.settings.method == "direct":
            return list(example.answer)
        chain = [token for step in example.steps for token in step]
        if self.settings.method == "icot":
            chain = chain[removed(len(chain), progress / self.settings.until, generator) :]
        return [*chain, *self.layout.answer_marker, *example.answer]


def removed(length: int, progress: float, generator: torch.Generator) -> int:
    """Tokens of a chain that iCoT has taken away from its left, with a small random surplus (rate 4 of an exponential)."""
    surplus = int(torch.empty(1).exponential_(4.0, generator=generator)) if progress > 0 else 0
    return length if progress >= 1 else min(length, int(progress * (length + 1)) + surplus)


def after_marker(layout: Layout, written: Sequence[int]) -> str | None:
    """The text after the first marker of an answer; None where there is no marker, or nothing after it."""
    marker = list(layout.answer_marker)
    for at in range(len(written) - len(marker) + 1):
        if list(written[at : at + len(marker)]) == marker:
            return layout.text(written[at + len(marker) :]) or None
    return None


class Thinking(Reasoner):
    """Thoughts while reading, taught in one parallel pass: gold thoughts make all states (paper, section 3.2)."""

    @property
    def module(self) -> ShammieThinkingForCausalLM:
        """The thinking model."""
        return cast(ShammieThinkingForCausalLM, self.model.module)

    def loss(self, examples: Sequence[Example], _progress: float, generator: torch.Generator) -> Loss:
        """An example's loss: the sum over its answer's tokens, and over its chunks of the mean over the thought's tokens."""
        marker = self.layout.answer_marker
        rows = [[*example.question, *marker, *example.answer] for example in examples]
        ids, mask, chosen = self._targets(rows, [len(example.question) + len(marker) for example in examples])
        states, hidden = self.forced(examples, ids, mask, eq.jumped(mask, self.jumps, generator))
        answers = self._losses(states[chosen], following(rows, chosen)).sum()
        thoughts = self.thought_losses(examples, hidden).sum()
        parts = {"answer": float(answers.detach()) / len(rows), "thought": float(thoughts.detach()) / len(rows)}
        return Loss(answers + thoughts, float(len(rows)), parts)

    def fits(self, example: Example) -> str | None:
        """Why an example cannot be taught; None where it can."""
        longest = max(map(len, example.thoughts)) + 1
        if longest <= self.module.settings.longest:
            return None
        return f"a thought of {longest} tokens does not fit into --longest {self.module.settings.longest}"

    def forced(
        self,
        examples: Sequence[Example],
        ids: Int[Tensor, "B T"],
        mask: Int[Tensor, "B T"],
        position: Int[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T D"]]:
        """(normed last states, extracted states) of a batch read with the states of its gold thoughts."""
        module = self.module
        lengths = torch.tensor([len(example.question) for example in examples], device=ids.device)
        number, slot = eq.places(lengths, torch.zeros_like(lengths), module.settings.chunk, ids.shape[1])
        with module.adding(eq.added(self.gold_states(examples), number, slot)):
            states = module.anatomy.body(
                input_ids=ids, attention_mask=mask, position_ids=position, use_cache=False
            ).last_hidden_state
        return states, module.extracted

    def gold_states(self, examples: Sequence[Example]) -> Float[Tensor, "B K C D"]:
        """The state before each chunk, zero before the first, and the one after the last."""
        most = max(len(example.thoughts) for example in examples)
        made = self.module.compress([thought for example in examples for thought in example.thoughts])
        states = made.new_zeros(len(examples), most + 1, *made.shape[1:])
        row, at = _numbered(examples, made.device)
        return states.index_put((row, at + 1), made)

    def thought_losses(self, examples: Sequence[Example], hidden: Float[Tensor, "B T D"]) -> Float[Tensor, " N"]:
        """The mean loss over each thought's tokens, its end among them."""
        states, targets, real = self.thought_states(examples, hidden)
        vocabulary = self.model.anatomy.vocabulary_size
        losses = torch.zeros(real.shape, device=real.device)
        losses[real] = token_losses(self.module.thought_logits, states[real], targets[real], vocabulary)
        return losses.sum(1) / real.sum(1)

    def thought_states(
        self, examples: Sequence[Example], hidden: Float[Tensor, "B T D"]
    ) -> tuple[Float[Tensor, "N S D"], Int[Tensor, "N S"], Bool[Tensor, "N S"]]:
        """Of every chunk of every example: normed states that predict its gold thought, the tokens, and which of them are real."""
        module, chunk = self.module, self.module.settings.chunk
        row, at = _numbered(examples, hidden.device)
        sizes = torch.tensor([len(example.question) for example in examples], device=hidden.device)[row]
        size = (sizes - at * chunk).clamp(max=chunk)
        own, filled = eq.chunk_states(hidden, row, at * chunk, size, chunk)
        gold = [[*thought, module.end] for example in examples for thought in example.thoughts]
        targets = pad(gold, device=hidden.device)
        return module.think(own, filled, targets.ids[:, :-1]), targets.ids, targets.mask.bool()

    def prompt(self, example: Example) -> list[int]:
        """The question and the marker of the answer."""
        return [*example.question, *self.layout.answer_marker]

    def stepper(
        self, prefill: Prefill = "speculative", states: Float[Tensor, "B K C D"] | None = None
    ) -> ThinkingStepper:
        """Reads with thoughts, or with given states in their place."""
        return ThinkingStepper(Reader(self.model, prefill), len(self.layout.answer_marker), states)


def _numbered(examples: Sequence[Example], device: torch.device) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"]]:
    """(row, chunk) of every chunk of every example, in order."""
    counts = torch.tensor([len(example.thoughts) for example in examples], device=device)
    row = torch.arange(len(examples), device=device).repeat_interleave(counts)
    return row, torch.arange(len(row), device=device) - (counts.cumsum(0) - counts)[row]
