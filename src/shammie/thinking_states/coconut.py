"""Coconut (arXiv 2412.06769): latents in the place of steps, each the last state of the one before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import DynamicCache

from shammie.core.batch import pad
from shammie.core.generate import CacheStepper
from shammie.core.position import rows_of
from shammie.thinking_states import equations as eq
from shammie.thinking_states.methods import Loss, Reasoner, after_marker
from shammie.thinking_states.problems import Example


class Coconut(Reasoner):
    """Question, latents, the steps that are left, answer; of n stages each replaces one step more, the last one all of them."""

    def stage(self, progress: float) -> int:
        """The curriculum's stage, from 0 (all steps as text) to `most` (none)."""
        return min(self.settings.most, int(progress / self.settings.until * (self.settings.most + 1)))

    def restart(self, step: int, steps: int) -> bool:
        """Moments are forgotten at every stage (released code)."""
        return step > 0 and self.stage((step - 1) / steps) < self.stage(step / steps)

    def loss(self, examples: Sequence[Example], progress: float, generator: torch.Generator) -> Loss:
        """Mean over what is still written. Latents take as many forward passes, one after another."""
        stage, device = self.stage(progress), self.model.device
        kept = [() if stage == self.settings.most else example.steps[stage:] for example in examples]
        rest = [
            [*(token for step in steps for token in step), *self.layout.answer_marker, *example.answer]
            for steps, example in zip(kept, examples, strict=True)
        ]
        prompts = [self.prompt(example) for example in examples]
        last, cache, mask, position = self.latents(
            prompts, stage * self.settings.latents, max(map(len, rest)), generator
        )
        batch = pad([row[:-1] for row in rest], device=device)
        states = self.model.anatomy.body(
            input_ids=batch.ids, attention_mask=torch.cat([mask, batch.mask], 1),
            position_ids=position[:, mask.shape[1] : mask.shape[1] + batch.ids.shape[1]], past_key_values=cache, use_cache=True,
        ).last_hidden_state  # fmt: skip
        whole = torch.cat([last[:, None], states], 1)
        targets = pad(rest, device=device)
        real = targets.mask.bool()
        losses = self._losses(whole[real], targets.ids[real])
        return Loss(losses.sum(), float(len(losses)), {"written": float(losses.detach().mean()), "stage": float(stage)})

    def latents(
        self, prompts: Sequence[Sequence[int]], count: int, room: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "B D"], DynamicCache, Int[Tensor, "B S"], Int[Tensor, "B Q"]]:
        """Read prompts, then latents. (last normed states, cache, which slots are real, positions with `room` more).

        Rows are padded on the left, so that latents stand side by side; rotary positions do not mind where a row begins.
        """
        device, body = self.model.device, self.model.anatomy.body
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in prompts], device=device)
        mask = (torch.arange(width) >= width - torch.tensor([[len(row)] for row in prompts])).long().to(device)
        whole = torch.ones(len(prompts), width + count + room, dtype=torch.long, device=device)
        position = eq.jumped(whole, self.jumps if generator else 0.0, generator or torch.Generator())
        cache = DynamicCache()
        given: dict[str, Any] = {"input_ids": ids}
        for number in range(count + 1):
            start = 0 if number == 0 else width + number - 1
            states = body(
                **given, attention_mask=mask, position_ids=position[:, start : mask.shape[1]], past_key_values=cache,
                use_cache=True,
            ).last_hidden_state  # fmt: skip
            last = states[:, -1]
            if number < count:
                given = {"inputs_embeds": last[:, None]}
                mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        return last, cache, mask, position

    def prompt(self, example: Example) -> list[int]:
        """The question and the marker of steps."""
        return [*example.question, *self.layout.steps_marker]

    def longest(self, example: Example) -> int:
        """Marker and answer."""
        return super().longest(example) + len(self.layout.answer_marker)

    def answer(self, written: Sequence[int]) -> str | None:
        """What stands after the marker of the answer."""
        return after_marker(self.layout, written)

    def stepper(self) -> LatentStepper:
        """Reads the question, then all latents."""
        return LatentStepper(self)


class LatentStepper(CacheStepper):
    """Drives generation after a question and its latents."""

    def __init__(self, coconut: Coconut) -> None:
        super().__init__(coconut.model)
        self.coconut = coconut

    def start(self, sequences: Sequence[Sequence[int]], row: Sequence[int]) -> Float[Tensor, "B V"]:
        """Read prompts and latents."""
        settings = self.coconut.settings
        with torch.no_grad(), rows_of(torch.tensor(list(row)), torch.tensor([len(ids) for ids in sequences])):
            last, self._cache, self._mask, position = self.coconut.latents(
                sequences, settings.most * settings.latents, 1
            )
        self._at = int(position[0, -1])
        return self._logits(last)

    def step(self, tokens: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
        """Read one token a row."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], 1)
        position = torch.full_like(tokens[:, None], self._at)
        self._at += 1
        with torch.no_grad():
            states = self.model.anatomy.body(
                input_ids=tokens[:, None], attention_mask=self._mask, position_ids=position, past_key_values=self._cache,
                use_cache=True,
            ).last_hidden_state  # fmt: skip
        return self._logits(states[:, -1])

    def keep(self, rows: Int[Tensor, " N"]) -> None:
        """Go on with these rows only."""
        self._cache.batch_select_indices(rows)
        self._mask = self._mask[rows]
