"""What a trained model does: answers by length, thoughts forced and free, answers without states or with another's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shammie.core.anatomy import Anatomy
from shammie.core.batch import pad
from shammie.core.decoding import GenerationSettings
from shammie.core.generate import complete
from shammie.core.stats import mean_interval, proportion
from shammie.thinking_states.methods import Reasoner, Thinking
from shammie.thinking_states.problems import Example
from shammie.thinking_states.reading import Prefill, Read

Record = dict[str, Any]
ROWS = 64


@dataclass(frozen=True)
class Answered:
    """An answer (None where nothing could be read as one), the thoughts before it, chunk by chunk, and how many were cut off."""

    text: str | None
    written: int
    thoughts: tuple[tuple[int, ...], ...] = ()
    cut: int = 0

    def right(self, example: Example) -> bool:
        """Whether it is exactly the answer; an empty one never is."""
        return self.text is not None and self.text == example.problem.answer


def answers(
    reasoner: Reasoner, examples: Sequence[Example], *, rows: int = ROWS, states: Tensor | None = None,
    prefill: Prefill = "speculative",
) -> list[Answered]:  # fmt: skip
    """Greedy answers in order; `states` [B, K, C, D] replace a thinking model's own."""
    found: dict[int, Answered] = {}
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].question))
    for start in range(0, len(order), rows):
        part = order[start : start + rows]
        own = None if states is None else states[part]
        found |= zip(part, _batch(reasoner, [examples[i] for i in part], own, prefill), strict=True)
    return [found[i] for i in range(len(examples))]


def _batch(
    reasoner: Reasoner, examples: Sequence[Example], states: Tensor | None, prefill: Prefill
) -> Iterator[Answered]:
    settings = GenerationSettings(max(reasoner.longest(example) for example in examples))
    prompts = [reasoner.prompt(example) for example in examples]
    jobs = [(number, 0) for number in range(len(examples))]
    thoughts: Sequence[Sequence[Sequence[int]]] = [()] * len(examples)
    cut = [0] * len(examples)
    if isinstance(reasoner, Thinking):
        stepper = reasoner.stepper(prefill, states)
        made = complete(reasoner.model, prompts, jobs, settings, stepper=stepper)
        assert stepper.found is not None
        thoughts, cut = stepper.found.thoughts, stepper.found.cut
    else:
        made = complete(reasoner.model, prompts, jobs, settings, stepper=reasoner.stepper())
    for completion, own, lost, example in zip(made, thoughts, cut, examples, strict=True):
        limit = reasoner.longest(example)  # its own, whatever it is batched with
        written = len(completion.tokens)
        text = reasoner.answer(completion.tokens) if completion.finish == "end" and written <= limit else None
        yield Answered(text, min(written, limit), tuple(map(tuple, own)), lost)


def accuracy(reasoner: Reasoner, examples: Sequence[Example]) -> float:
    """Share of right answers."""
    return float(np.mean([one.right(e) for one, e in zip(answers(reasoner, examples), examples, strict=True)]))


def by_length(reasoner: Reasoner, groups: dict[int, list[Example]]) -> Iterator[Record]:
    """Accuracy at each length, answers that could not be read, and of a thinking model its thoughts, forced and free."""
    for length, examples in groups.items():
        made = answers(reasoner, examples)
        right = sum(one.right(example) for one, example in zip(made, examples, strict=True))
        unread = sum(one.text is None for one in made)
        yield {
            "kind": "accuracy", "length": length, "accuracy": proportion(right, len(made)).as_dict(), "unread": unread / len(made),
            "written": sum(one.written for one in made) / len(made),
        }  # fmt: skip
        if isinstance(reasoner, Thinking):
            cut = sum(one.cut > 0 for one in made) / len(made)
            yield {"kind": "thoughts", "length": length, **thought_accuracy(reasoner, examples, made), "cut": cut}


@torch.no_grad()
def thought_accuracy(reasoner: Thinking, examples: Sequence[Example], made: Sequence[Answered]) -> Record:
    """Share of chunks whose thought is wholly right: after gold thoughts, and after the model's own. By chunk and by question."""
    forced: list[bool] = []
    for start in range(0, len(examples), ROWS):
        part = examples[start : start + ROWS]
        batch = pad([example.question for example in part], device=reasoner.model.device)
        position = torch.arange(batch.ids.shape[1], device=batch.ids.device).expand(len(part), -1)
        _, hidden = reasoner.forced(part, batch.ids, batch.mask, position)
        states, targets, real = reasoner.thought_states(part, hidden)
        said = reasoner.module.thought_logits(states).argmax(-1)
        forced += ((said == targets) | ~real).all(1).tolist()
    free = [
        own == gold
        for one, example in zip(made, examples, strict=True)
        for own, gold in zip(one.thoughts, example.thoughts, strict=True)
    ]
    return {
        "forced": proportion(sum(forced), len(forced)).as_dict(),
        "free": proportion(sum(free), len(free)).as_dict(),
    }


def causal(reasoner: Thinking, examples: Sequence[Example]) -> Iterator[Record]:
    """Answers with the own states, with none, and with those of another question of the same group, whose answer should follow.

    Only questions whose donor has another answer and as many chunks count.
    """
    pairs = list(_donors(examples))
    if not pairs:
        return
    own, donors = [examples[a] for a, _ in pairs], [examples[b] for _, b in pairs]
    given = _states(reasoner, donors)
    arms = {"own": None, "none": torch.zeros_like(given), "another's": given}
    for name, states in arms.items():
        made = answers(reasoner, own, states=states)
        right = sum(one.right(example) for one, example in zip(made, own, strict=True))
        follows = sum(one.right(donor) for one, donor in zip(made, donors, strict=True))
        counts = {"accuracy": right, "donor": follows}
        yield {"kind": "causal", "states": name, **{k: proportion(n, len(own)).as_dict() for k, n in counts.items()}}


def _donors(examples: Sequence[Example]) -> Iterator[tuple[int, int]]:
    """Each question with the next one of its group and number of chunks that has another answer."""
    for a, example in enumerate(examples):
        for step in range(1, len(examples)):
            other = examples[b := (a + step) % len(examples)]
            alike = (other.problem.group, len(other.thoughts)) == (example.problem.group, len(example.thoughts))
            if alike and other.problem.answer != example.problem.answer:
                yield a, b
                break


def _states(reasoner: Thinking, examples: Sequence[Example]) -> Tensor:
    """The states that a model's own thoughts make on each question, padded to the most chunks."""
    most = max(len(example.thoughts) for example in examples)
    found = []
    for start in range(0, len(examples), ROWS):
        part: Read = reasoner.stepper().reader.read([example.question for example in examples[start : start + ROWS]])
        found.append(torch.nn.functional.pad(part.states, (0, 0, 0, 0, 0, most + 1 - part.states.shape[1])))
    return torch.cat(found)


def passes(reasoner: Reasoner, examples: Sequence[Example], prefill: Prefill = "speculative") -> Record:
    """Forward passes that a question takes when it is alone: of the decoder, and of a thinking model's blocks."""
    counted = {"decoder": [reasoner.model.anatomy.body]}
    if isinstance(reasoner, Thinking):
        counted["blocks"] = [Anatomy(reasoner.module.thinker).body, reasoner.module.compressor]
    calls: Counter[str] = Counter()
    found: dict[str, list[int]] = {name: [] for name in counted}
    with ExitStack() as stack:
        for name, modules in counted.items():
            for module in modules:
                stack.callback(module.register_forward_hook(partial(_count, calls, name)).remove)
        for example in examples:
            calls.clear()
            answers(reasoner, [example], prefill=prefill)
            for name, own in found.items():
                own.append(calls[name])
    means = {name: mean_interval(np.array(own, dtype=float)).as_dict() for name, own in found.items()}
    return {"kind": "passes", "prefill": prefill if isinstance(reasoner, Thinking) else "plain", **means}


def _count(calls: Counter[str], name: str, *_: Any) -> None:
    calls[name] += 1
