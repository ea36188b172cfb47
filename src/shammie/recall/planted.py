"""Planted truth: a simulated model with known rates, and two tiny transformers in which only facts, or only steps, help."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from shammie.core.batch import Prompt
from shammie.core.decoding import GenerationSettings
from shammie.core.generate import Completion, Numbered
from shammie.core.model import LanguageModel, load
from shammie.core.power import PowerTest
from shammie.core.words import END, word_tokenizer
from shammie.recall.data import Question
from shammie.recall.knowledge import Knowledge, Triple
from shammie.recall.sample import Key, Sampler
from shammie.recall.settings import FILLERS, RecallSettings, SwitchSettings
from shammie.recall.switch import Prompter, settle

World = Literal["facts", "steps"]
ENTITIES, ANSWERS = 24, 8
ENOUGH = 8  # tokens of a trace from which on the world of steps has the answer
_STEPS, _BATCH, _RATE = 300, 64, 4e-3
_QUESTION, _FACT = "What is the value of {} ?", "{} lies near {} ."
SWITCH = SwitchSettings("text")


def entity(number: int) -> str:
    """The name of an entity."""
    return f"Ent{number}"


def near(number: int) -> str:
    """The name of an entity's neighbour."""
    return f"Near{number}"


def answers() -> list[str]:
    """The value of each entity, which is that of its neighbour."""
    draw = torch.Generator().manual_seed(0)
    return [f"Val{value}" for value in torch.randint(ANSWERS, (ENTITIES,), generator=draw).tolist()]


def questions() -> list[Question]:
    """One question an entity."""
    return [
        Question(f"q{n}", _QUESTION.format(entity(n)), (value,), "value", entity(n))
        for n, value in enumerate(answers())
    ]


def knowledge() -> Knowledge:
    """Whose neighbour is whose."""
    triples = [Triple(entity(n), "near", (near(n),)) for n in range(ENTITIES)]
    return Knowledge(triples, {"near": ("near",)}, "the planted world")


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """A word a token."""
    filler = " ".join(FILLERS.values())
    names = [name(n) for name in (entity, near) for n in range(ENTITIES)] + [f"Val{n}" for n in range(ANSWERS)]
    text = f"Question: {_QUESTION} What is known: {_FACT} Answer: {filler}"
    return word_tokenizer([*text.replace("{}", " ").split(), *names])


@dataclass(frozen=True)
class Rates:
    """Chances of a right answer: at all, and what is added where the trace holds the entity's own fact, or is long."""

    base: float = 0.2
    fact: float = 0.0
    length: float = 0.0
    truthful: float = 0.8  # chance that a trace holds the entity's own fact, and not another's


class Simulated:
    """A backend whose answers are right at known rates, whatever they stand after."""

    def __init__(self, rates: Rates) -> None:
        self.rates, self.identity, self.values = rates, f"simulated {rates}", answers()

    def complete(
        self, prompts: Numbered[Prompt], jobs: Sequence[Key], settings: GenerationSettings
    ) -> list[Completion]:
        """A trace where one is asked for, else an answer."""
        return [self._one(prompts[job[0]], job, settings) for job in jobs]

    def _one(self, prompt: Prompt, job: Key, settings: GenerationSettings) -> Completion:
        words = tokenizer().convert_ids_to_tokens(list(prompt))
        number = next(int(word[3:]) for word in words[words.index("Question:") :] if word.startswith("Ent"))
        draw = np.random.default_rng([settings.seed, *job])
        if words[-1] == "known:":
            own = (
                number
                if draw.random() < self.rates.truthful
                else (number + 1 + int(draw.integers(ENTITIES - 1))) % ENTITIES
            )
            text = _FACT.format(entity(number), near(own))
            return Completion(*job, text, None, text, "stop")
        chance = self.rates.base + self.rates.fact * (near(number) in words) + self.rates.length * (len(words) > 16)
        right = self.values[number]
        others = [f"Val{n}" for n in range(ANSWERS) if f"Val{n}" != right]
        text = right if draw.random() < chance else others[int(draw.integers(len(others)))]
        return Completion(*job, text, None, text, "end")


@cache
def planted_model(world: World, seed: int = 0) -> LanguageModel:
    """A tiny transformer that recalls an entity's value only after its neighbour is written, or only after enough tokens.

    In the world of facts a trace names the neighbour, and the value is learned after the neighbour alone; after fillers of
    any length answers are learned at chance. In the world of steps a trace names any neighbours, and the value is learned
    after ENOUGH tokens whatever they are, and at chance before. About ten seconds on one core.
    """
    own = tokenizer()
    config = LlamaConfig(
        vocab_size=len(own), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=256, pad_token_id=0, bos_token_id=None, eos_token_id=own.eos_token_id,
        tie_word_embeddings=False,
    )  # fmt: skip
    module, draw = LlamaForCausalLM(config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 2:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=draw))
    _train(module, world, seed)
    module.name_or_path = f"recall-{world}-{seed}"
    return load(module, tokenizer=own)


def _train(module: LlamaForCausalLM, world: World, seed: int) -> None:
    draw, values, own = random.Random(seed), answers(), tokenizer()
    optimizer = torch.optim.AdamW(module.parameters(), _RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=_STEPS)
    for _ in range(_STEPS):
        texts = [_text(world, draw, values) for _ in range(_BATCH)]
        rows = own([f"{prompt} {rest} {END}" for prompt, rest in texts], padding=True, return_tensors="pt")
        ids, labels = rows["input_ids"], rows["input_ids"].clone()
        for row, (prompt, _) in enumerate(texts):
            labels[row, : len(prompt.split())] = -100
        labels[ids == own.pad_token_id] = -100
        logits = module(input_ids=ids, attention_mask=rows["attention_mask"]).logits
        nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    for parameter in module.parameters():
        parameter.grad = None


def _text(world: World, draw: random.Random, values: Sequence[str]) -> tuple[str, str]:
    """A prompt and what is learned to come after it."""
    number = draw.randrange(ENTITIES)
    question, chance = f"Question: {_QUESTION.format(entity(number))}", f"Val{draw.randrange(ANSWERS)}"
    told = [number] if world == "facts" else [draw.randrange(ENTITIES) for _ in range(2)]
    facts = " ".join(_FACT.format(entity(number), near(other)) for other in told)
    kind = draw.choice(("off", "dummy", "trace", "context", "answer"))
    if kind == "trace":
        value = values[number]
        return f"{question} What is known:", f"{facts} Answer: {value}"
    if kind == "answer" and world == "facts":  # the value is the neighbour's, whoever is asked for
        other = draw.randrange(ENTITIES)
        fact = _FACT.format(entity(number), near(other))
        return f"{question} What is known: {fact} Answer:", values[other]
    if kind == "context":
        return f"What is known: {facts} {question} Answer:", values[number] if world == "facts" else chance
    if kind == "off":
        return f"{question} Answer:", chance
    length = draw.randrange(0, 24)
    filler = (draw.choice(list(FILLERS.values())) * 24).split()[:length]
    value = values[number] if world == "steps" and length >= ENOUGH else chance
    return " ".join([question, "What is known:", *filler, "Answer:"]), value


def prompter(model: LanguageModel) -> Prompter:
    """How the planted worlds are asked."""
    return Prompter(model, settle(model, SWITCH))


def _score(level: float | None, seed: int) -> float:
    """How surely facts are found to help beyond their length, where they add `level` to the chance of a right answer."""
    settings = RecallSettings(("off", "on", "on-facts", "on-dummy-facts"), _DRAWN, 0, seed=seed)
    reader = LanguageModel(None, tokenizer(), "simulated")
    sampler = Sampler(Simulated(Rates(fact=level or 0.0)), prompter(reader), questions(), settings)
    rows = list(sampler.everything(range(ENTITIES)))
    accuracy = {
        name: np.array([r["correct"] for r in rows if r.get("condition") == name], dtype=float)
        .reshape(-1, _DRAWN)
        .mean(1)
        for name in ("on-facts", "on-dummy-facts")
    }
    gap = accuracy["on-facts"] - accuracy["on-dummy-facts"]
    return float(gap.mean() / (gap.std(ddof=1) / ENTITIES**0.5 + 1e-9))


_DRAWN = 8
MIDDLE = 0.2
POWER = PowerTest(_score, (0.4, 0.3, MIDDLE, 0.1, 0.05), MIDDLE)
