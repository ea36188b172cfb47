"""Planted truth: a tiny transformer that follows a claim or ignores it by its source, and holds what it believes in one layer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from shammie.beliefs.ask import Asker, prompt_of
from shammie.beliefs.data import Case
from shammie.beliefs.read import GridReader
from shammie.beliefs.settings import FRAMES, AskSettings, ReadSettings
from shammie.core.edit import Edit, edited
from shammie.core.model import LanguageModel, load
from shammie.core.power import PowerTest
from shammie.core.site import residual
from shammie.core.words import END, word_tokenizer

ENTITIES, VALUES = 16, 12
FOLLOWED = ("neutral", "credible", "follow")
"""Frames whose claim the model believes; under the others it keeps to what it knows."""
HELD = 2  # the layer, of four, whose states hold the belief while something else is written
READ = ReadSettings(reader="lens", first_layer=0.7, last_layer=0.8, lens_rank=1)
ASK = AskSettings(max_new_tokens=24, closing=" Answer:")
_THOUGHT = "Well , let me think about this for a while before I say more ."
_STEPS, _BATCH, _RATE = 260, 32, 5e-3


def cases(seed: int = 0) -> list[Case]:
    """One case an entity: what it is, what is claimed, and a value that is mentioned beside the question."""
    draw, found = random.Random(seed), []
    for number in range(ENTITIES):
        base, counter, third = (f"Val{value}" for value in draw.sample(range(VALUES), 3))
        base = f"Val{number % VALUES}"
        while counter in (base, third) or third == base:
            counter, third = (f"Val{value}" for value in draw.sample(range(VALUES), 2))
        name = f"Ent{number}"
        claim, beside = f"{name} is {counter} .", f"Someone spoke of {third} ."
        found.append(
            Case(f"e{number}", f"What is {name} ?", (base,), (counter,), claim, (third,), name, context=beside)
        )
    return found


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """A word a token."""
    names = [f"Ent{n}" for n in range(ENTITIES)] + [f"Val{n}" for n in range(VALUES)]
    text = " ".join(
        [*FRAMES.values(), ASK.asked, ASK.closing, _THOUGHT, "Someone spoke of What is ? . It is Text: Number: 1 2 3"]
    )
    return word_tokenizer([*text.replace("$claim", " ").replace("$question", " ").split(), *names])


@cache
def planted_model(seed: int = 0) -> LanguageModel:
    """Train the model: about ten seconds on one core.

    While it writes a thought that is the same for every question, the logit lens after layer HELD reads the value that it
    will answer; the value depends on the claim and on who makes it. Other values that are mentioned play no part.
    """
    own = tokenizer()
    config = LlamaConfig(
        vocab_size=len(own), hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=256, pad_token_id=0, bos_token_id=None, eos_token_id=own.eos_token_id, tie_word_embeddings=False,
    )  # fmt: skip
    module, draw = LlamaForCausalLM(config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 2:
                parameter.copy_(0.04 * torch.randn(parameter.shape, generator=draw))
    model = load(module, tokenizer=own)
    _train(model, seed)
    module.name_or_path = model.name = f"beliefs-{seed}"
    return model


def believed(case: Case, frame: str) -> str:
    """What the model was taught to believe."""
    return (case.counter if frame in FOLLOWED else case.base)[0]


def _train(model: LanguageModel, seed: int) -> None:
    module, draw, own = model.module, random.Random(seed), tokenizer()
    optimizer = torch.optim.AdamW(module.parameters(), _RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=_STEPS)
    thought = len(_THOUGHT.split())
    for _ in range(_STEPS):
        texts, starts, values = [], [], []
        for _ in range(_BATCH):
            case, frame = draw.choice(cases(draw.randrange(1000))), draw.choice(list(FRAMES))
            prompt = str(prompt_of(model, case, frame, ASK))
            texts.append(f"{prompt} {_THOUGHT} It is {believed(case, frame)} . Answer: {believed(case, frame)} {END}")
            starts.append(len(prompt.split()))
            values.append(int(own.convert_tokens_to_ids(believed(case, frame))))
        rows = own(texts, padding=True, return_tensors="pt")
        ids, places = rows["input_ids"], torch.tensor(starts)
        found = module.model(input_ids=ids, attention_mask=rows["attention_mask"], output_hidden_states=True)
        logits, labels = module.lm_head(found.last_hidden_state), ids.clone()
        labels[(torch.arange(ids.shape[1]) < places[:, None]) | (ids == own.pad_token_id)] = -100
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        written = places[:, None] + torch.arange(thought)
        held = found.hidden_states[HELD + 1][torch.arange(len(ids))[:, None], written]
        lens = module.lm_head(module.model.norm(held))
        loss = loss + nn.functional.cross_entropy(lens.flatten(0, 1), torch.tensor(values).repeat_interleave(thought))
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    for parameter in module.parameters():
        parameter.grad = None


def dominances(
    model: LanguageModel, asked: Sequence[Case], frame: str, noise: float = 0.0, seed: int = 0
) -> Float[Tensor, "N 3"]:
    """Density of base, counter and third belief in each case's thought, under noise as long as `noise` states."""
    asker, reader = Asker(model, ASK), GridReader(model, READ)
    source, thought = torch.Generator().manual_seed(seed), len(_THOUGHT.split())

    def blurred(state: Tensor, _position: Tensor, _row: Tensor) -> Tensor:
        draw = torch.randn(state.shape, generator=source)
        return state + noise * state.norm(dim=-1, keepdim=True) * draw / draw.norm(dim=-1, keepdim=True)

    found = []
    for told, case in zip(asker.ask([(case, frame) for case in asked]), asked, strict=True):
        with edited(model, [Edit(residual(HELD), blurred)]):
            grid = reader.read(
                told.ids[: told.start + thought],
                told.start,
                {"base": case.base, "counter": case.counter, "third": case.third},
            )
        found.append([float(grid.hits[name].double().mean()) for name in ("base", "counter", "third")])
    return torch.tensor(found)


def _score(level: float | None, seed: int) -> float:
    """How surely dominance follows the source of a claim: credible against not, paired over cases, in standard errors.

    With a level of None both sides are of the same frame, at the middle difficulty's noise.
    """
    model, draw = planted_model(), random.Random(seed)
    asked = [replace(case, id=f"{case.id}-{seed}") for case in draw.sample(cases(seed % 1000), _DRAWN)]
    one, other = ("credible", "non-credible") if level is not None else ("credible", "credible")
    sides = [
        dominances(model, asked, frame, MIDDLE if level is None else level, 2 * seed + place)
        for place, frame in enumerate((one, other))
    ]
    gap = np.array([(a[1] - a[0] - b[1] + b[0]).item() for a, b in zip(*sides, strict=True)])
    return float(gap.mean() / (gap.std(ddof=1) / len(gap) ** 0.5 + _LEAST))


_DRAWN = 6
_LEAST = 0.01  # of a standard error, where all cases agree
MIDDLE = 6.0
POWER = PowerTest(_score, (4.0, MIDDLE, 8.0, 12.0, 16.0), MIDDLE)
