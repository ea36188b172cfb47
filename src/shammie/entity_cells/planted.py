"""Planted truth: a tiny transformer trained on an entity world in which some entities pass through one known neuron."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from shammie.core.model import LanguageModel, load
from shammie.core.power import PowerTest
from shammie.core.words import word_tokenizer
from shammie.entity_cells.data import Entity, EntitySet, Fact
from shammie.entity_cells.evaluate import Readings
from shammie.entity_cells.intervene import Bench
from shammie.entity_cells.localize import Localizer
from shammie.entity_cells.settings import CausalSettings, LocalizeSettings
from shammie.entity_cells.texts import ATTRIBUTES, CLOZES, ORDINARY_NAMES, PLACEHOLDER, anonymous_names

CELL_LAYER = 1
RELATIONS = ("capital", "language", "river")
SETTINGS = LocalizeSettings(templates=8, anonymous=12, group=4)
_ENTITIES, _WIRED, _ANSWERS = 24, 12, 8
_WIDTH, _NEURONS, _LAYERS = 64, 96, 4
_SIGNAL, _READ = 3.0, 2.0  # a wired name's own coordinate, and how strongly its neuron reads it
_LEAK = 0.1  # share of a wired neuron's read vectors that is noise over what all names have
_STEPS, _BATCH, _RATE = 400, 96, 4e-3
_PROMPT = "Question: What is the {} of {} ?\nAnswer:"


@dataclass(frozen=True, eq=False)
class World:
    """A trained model, its entities, and the neuron of CELL_LAYER through which each wired entity passes (None: spread)."""

    model: LanguageModel
    entities: EntitySet
    neurons: tuple[int | None, ...]

    @property
    def wired(self) -> list[int]:
        """Numbers of the wired entities."""
        return [number for number, neuron in enumerate(self.neurons) if neuron is not None]


def entity_world() -> EntitySet:
    """Two dozen entities with three relations each, an alias, and Zipf popularity."""
    draw = torch.Generator().manual_seed(0)
    answers = torch.randint(_ANSWERS, (_ENTITIES, len(RELATIONS)), generator=draw).tolist()
    entities = [
        Entity(
            f"e{number}", f"Entity{number}",
            tuple(
                Fact(relation, _PROMPT.format(relation, f"Entity{number}"), (f"{relation}{answers[number][at]}",))
                for at, relation in enumerate(RELATIONS)
            ),
            1000.0 / (number + 1), (("alias", f"Alias{number}"),),
        )
        for number in range(_ENTITIES)
    ]  # fmt: skip
    return EntitySet.of(entities, "the planted world")


@cache
def planted_world(seed: int = 0) -> World:
    """Train the world: about ten seconds on one core.

    A wired entity's name has one coordinate of the stream to itself. Nothing reads or writes that coordinate but one
    neuron of layer 1, so whatever the model learns of the entity it learns through that neuron. The other names are
    learned freely. Every second entity is wired, so wired and spread ones are equally popular.
    """
    entities = entity_world()
    tokenizer = _tokenizer(entities)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=_WIDTH + _WIRED, intermediate_size=_NEURONS, num_hidden_layers=_LAYERS,
        num_attention_heads=4, max_position_embeddings=64, pad_token_id=0, bos_token_id=None, eos_token_id=None,
        tie_word_embeddings=False, head_dim=16,
    )  # fmt: skip
    module = LlamaForCausalLM(config)
    neurons = tuple(number // 2 if number % 2 == 0 else None for number in range(_ENTITIES))
    _plant(module, tokenizer, entities, neurons, seed)
    _train(module, tokenizer, entities, seed)
    module.name_or_path = f"entity-world-{seed}"
    return World(load(module, tokenizer=tokenizer), entities, neurons)


def _tokenizer(entities: EntitySet) -> PreTrainedTokenizerFast:
    texts = [
        *CLOZES,
        *ATTRIBUTES,
        "The of",
        PLACEHOLDER,
        *ORDINARY_NAMES,
        *anonymous_names(SETTINGS.anonymous, SETTINGS.seed),
    ]
    texts += [f"{fact.prompt} {fact.answers[0]} {e.forms[0][1]}" for e in entities.entities for fact in e.facts]
    words = dict.fromkeys(word for text in texts for word in text.split())
    return word_tokenizer(words, end=None)


def _plant(
    module: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    entities: EntitySet,
    neurons: Sequence[int | None],
    seed: int,
) -> None:
    """Draw the weights, keep every wired entity's coordinate to its neuron, and hold both so while training."""
    draw = torch.Generator().manual_seed(seed)
    own = slice(_WIDTH, _WIDTH + _WIRED)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim < 2:
                continue
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * parameter.shape[1] ** -0.5)
            reads = not name.endswith(("o_proj.weight", "down_proj.weight"))
            (parameter[:, own] if reads else parameter[own]).zero_()
            mask = (parameter != 0).float()
            if name.endswith((f"layers.{CELL_LAYER}.mlp.gate_proj.weight", f"layers.{CELL_LAYER}.mlp.up_proj.weight")):
                for cell in range(_WIRED):
                    parameter[cell, :_WIDTH] *= _LEAK
                    parameter[cell, _WIDTH + cell] = _READ
                mask[:_WIRED] = 0
            if name.endswith("embed_tokens.weight"):
                parameter.copy_(parameter * _WIDTH**0.5)
                common = torch.randn(2, _WIDTH, generator=draw)
                for number, neuron in enumerate(neurons):
                    if neuron is not None:
                        entity = entities.entities[number]
                        for form, text in enumerate((entity.name, entity.forms[0][1])):
                            row = tokenizer.convert_tokens_to_ids(text)
                            parameter[row, :_WIDTH] = common[form]
                            parameter[row, _WIDTH + neuron] = _SIGNAL
                            mask[row] = 0
            parameter.register_hook(lambda gradient, mask=mask: gradient * mask)


def _train(module: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, entities: EntitySet, seed: int) -> None:
    """Learn every fact under both names; popular entities are met more often."""
    texts, weights = [], []
    for entity in entities.entities:
        for fact in entity.facts:
            for name in (entity.name, entity.forms[0][1]):
                texts.append(f"{fact.prompt.replace(entity.name, name)} {fact.answers[0]}")
                weights.append(entity.popularity**0.5)
    ids = torch.tensor([tokenizer(text)["input_ids"] for text in texts])
    optimizer = torch.optim.AdamW(module.parameters(), _RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=_STEPS)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(_STEPS):
        rows = torch.multinomial(torch.tensor(weights), _BATCH, replacement=True, generator=draw)
        states = module.model(input_ids=ids[rows, :-1]).last_hidden_state[:, -1]
        nn.functional.cross_entropy(module.lm_head(states), ids[rows, -1]).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    for parameter in module.parameters():
        parameter._backward_hooks = None
        parameter.grad = None


def leak(level: float, seed: int) -> Tensor:
    """Noise for the read vectors of the wired neurons, as long as `level` times what they read of their entity."""
    draw = torch.Generator().manual_seed(seed)
    noise = torch.randn(_WIRED, _WIDTH, generator=draw)
    return level * _READ * noise / noise.norm(dim=1, keepdim=True)


def _score(level: float | None, seed: int) -> float:
    """How much more of its facts an entity loses by its cell than by another's, if the cell found is the planted one.

    With a level of None the label is shuffled: another entity's cell stands in for the entity's own.
    """
    world = planted_world()
    up = world.model.anatomy.mlp_weights(CELL_LAYER).read.view(world.model.module)
    former = up[:_WIRED, :_WIDTH].clone()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        up[:_WIRED, :_WIDTH] += leak(MIDDLE if level is None else level, seed)
        try:
            chosen = int(torch.randint(len(world.wired), (1,), generator=draw))
            return _margin(world, world.wired[chosen], level is None, seed)
        finally:
            up[:_WIRED, :_WIDTH] = former


def _margin(world: World, number: int, shuffled: bool, seed: int) -> float:
    settings = LocalizeSettings(templates=4, anonymous=12, group=1, seed=seed % 1000)
    names = [entity.name for entity in world.entities.entities]
    bench = Bench(
        world.model, world.entities, Localizer(world.model, names, settings).cells(),
        CausalSettings(scales=(-1.0,), group=0, seed=seed),
    )  # fmt: skip
    cells = bench.cells
    if not cells.found(number):
        return 0.0
    if not shuffled and (int(cells.layer[number]), int(cells.neuron[number])) != (CELL_LAYER, world.neurons[number]):
        return 0.0
    readings = Readings([*bench.untouched([number]), *bench.ablated(bench.facts([number]))])
    keys = list(readings.facts)
    own, control = ("other", "random") if shuffled else ("own", "other")
    loss, base = (sum(readings.losses(arm, -1.0, keys)) / len(keys) for arm in (own, control))
    return loss - base


MIDDLE = 1.0
POWER = PowerTest(_score, (0.5, MIDDLE, 2.0, 4.0, 8.0), MIDDLE)
