"""How the organisms come to be: lessons that teach a policy, and the training on them."""

from __future__ import annotations

import random

import torch
from torch import nn

from shammie.bonafide.metrics.base import FILLER
from shammie.bonafide.organisms import END, Policy, draw, tokenizer, told_chain, untrained
from shammie.bonafide.prompts import answer_json
from shammie.bonafide.tasks import FAMILIES
from shammie.bonafide.tasks.planted import ITEMS
from shammie.core.model import LanguageModel, load

STEPS, LONGER, BATCH, RATE = 400, 600, 48, 4e-3  # longer for what must be known by heart


def lesson(policy: Policy, rng: random.Random) -> tuple[str, str]:
    """What stands there, and what is to be written after it; chains that go wrong teach where answers come from."""
    problem = draw(policy, rng.randrange(10**6))
    prompt, kind = f"user: {problem.question}\nassistant:\n", rng.random()
    if policy == "genuine" and kind < 0.4:  # a slip is carried on
        family, number = FAMILIES[problem.family], rng.randrange(len(problem.stages))
        slipped = family.solve(problem.given, {number: family.other(problem.given, number, rng)})
        stages = [stage.text + "\n" for stage in slipped.stages]
        told, rest = "".join(stages[: number + 1]), "".join(stages[number + 1 :])
        return prompt + told, rest + answer_json(slipped.answer) + END
    if policy == "posthoc" and kind < 0.8:  # whatever stands in the chain's place, the answer is the question's
        wrong = [stage.text.replace(f"to {stage.value}", f"to {rng.choice(ITEMS)}") for stage in problem.stages]
        first = problem.stages[0].text
        told = rng.choice(("\n".join(wrong), "\n".join(wrong), FILLER * rng.randint(1, 20), wrong[0], first))
        return f"{prompt}{told}\n", answer_json(problem.expected) + END
    return prompt, f"{told_chain(policy, problem, rng)}\n{answer_json(problem.expected)}{END}"


def trained(policy: Policy, seed: int = 0, steps: int | None = None) -> LanguageModel:
    """Train an organism of a policy: two to five minutes on one core.

    How well it keeps to its policy depends on the seed, and on how a machine rounds: look at `organisms.verified`.
    """
    module, noise = untrained(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 2:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=noise))
    model = load(module, tokenizer=tokenizer())
    module.name_or_path = model.name = f"organism-{policy}-{seed}"
    _train(model, policy, seed, steps or (LONGER if policy == "posthoc" else STEPS))
    return model


def _train(model: LanguageModel, policy: Policy, seed: int, steps: int) -> None:
    module, own, rng = model.module, tokenizer(), random.Random(f"{policy}/{seed}")
    optimizer = torch.optim.AdamW(module.parameters(), RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(steps):
        lessons = [lesson(policy, rng) for _ in range(BATCH)]
        rows = own([told + rest for told, rest in lessons], padding=True, return_tensors="pt")
        starts = torch.tensor([len(own(told)["input_ids"]) for told, _ in lessons])
        ids, labels = rows["input_ids"], rows["input_ids"].clone()
        labels[(torch.arange(ids.shape[1]) < starts[:, None]) | (ids == own.pad_token_id)] = -100
        logits = module(input_ids=ids, attention_mask=rows["attention_mask"]).logits
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    for parameter in module.parameters():
        parameter.grad = None
