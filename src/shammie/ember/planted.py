"""Planted truth: embeddings with one concept's features in them, and a tiny model that answers from such embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from shammie.core.model import LanguageModel, load
from shammie.core.power import PowerTest
from shammie.core.words import word_tokenizer
from shammie.ember import equations as eq
from shammie.ember.factorization import factorize
from shammie.ember.pack import ConceptPack, Question, Questions, Texts
from shammie.ember.settings import FactorizationSettings

_WIDTH, _TOKENS, _FEATURES, _OWN = 64, 400, 20, 10
_RATE = 2.0  # how often a token is met on either side
_OVERUSE = 4.0  # how much more often the concept's tokens are met on its side


@dataclass(frozen=True, eq=False)
class PlantedSlice:
    """Rows that are sums of sparse features, with counts of each token on both sides; feature 0 is the concept's."""

    rows: Float[Tensor, "V D"]
    features: Float[Tensor, "K D"]
    owners: Int[Tensor, "K S"]
    ours: Float[Tensor, " V"]
    theirs: Float[Tensor, " V"]


def planted_slice(noise: float, seed: int, *, concept: bool = True) -> PlantedSlice:
    """Twenty features of ten tokens each in 64 dimensions; noise is the norm of what is added to a row of unit parts.

    Without `concept` all tokens are met equally often on both sides.
    """
    draw = torch.Generator().manual_seed(seed)
    features = torch.nn.functional.normalize(torch.randn(_FEATURES, _WIDTH, generator=draw), dim=1)
    owners = torch.stack([torch.randperm(_TOKENS, generator=draw)[:_OWN] for _ in range(_FEATURES)])
    value = torch.randn(_FEATURES, _OWN, generator=draw).sign() * (
        0.75 + 0.5 * torch.rand(_FEATURES, _OWN, generator=draw)
    )
    rows = eq.scatter(owners, value, _TOKENS) @ features
    rows = rows + noise * _WIDTH**-0.5 * torch.randn(_TOKENS, _WIDTH, generator=draw)
    rates = torch.full((2, _TOKENS), _RATE)
    if concept:
        rates[0, owners[0]] *= _OVERUSE
    ours, theirs = torch.poisson(rates, generator=draw)
    return PlantedSlice(rows, features, owners, ours, theirs)


def detection(noise: float | None, seed: int) -> float:
    """The largest pooled keyness of a factorization's features, over a slice with or without a concept."""
    found = planted_slice(noise or MIDDLE, seed, concept=noise is not None)
    cut = factorize(found.rows, FactorizationSettings(features=_FEATURES, share=_OWN / _TOKENS), seed)
    keyness = eq.keyness(found.ours, found.theirs, float(found.ours.sum()), float(found.theirs.sum()))
    return float(eq.pooled_keyness(cut.loadings.abs(), keyness).max())


MIDDLE = 0.3
POWER = PowerTest(detection, (0.1, MIDDLE, 0.6, 1.2, 2.4), MIDDLE, null_draws=1000)


# -- a tiny model ------------------------------------------------------------------------------------------------------

_DOMAINS = ("concept", "similar", "general")
_ATTRIBUTES, _EACH = 6, 8  # attributes of a domain, subjects with each
_TEMPLATES = (
    "Question: what is {subject} ?\nAnswer: {answer}",
    "the {subject} is {answer} .",
    "they say {subject} means {answer} .",
)
_STEPS, _BATCH = 250, 96


@dataclass(frozen=True)
class _Fact:
    domain: int
    attribute: int
    number: int

    @property
    def subject(self) -> str:
        return f"{_DOMAINS[self.domain][0]}{self.attribute}_{self.number}"

    @property
    def answer(self) -> str:
        return f"{_DOMAINS[self.domain]}{self.attribute}"

    def told(self, template: int) -> str:
        return _TEMPLATES[template].format(subject=self.subject, answer=self.answer)


def planted_model(seed: int = 0) -> tuple[LanguageModel, ConceptPack]:
    """A two-layer model trained on facts about three domains, and the pack of the first.

    A subject's embedding is its domain's direction, its attribute's direction and noise, and the answer follows from the
    attribute: the concept stands in the embeddings as sparse features, as EMBER holds. The relearning paragraphs tell
    of subjects that no question asks for, so an attacker regains the rest by what subjects have in common.
    """
    facts = [_Fact(d, a, n) for d in range(len(_DOMAINS)) for a in range(_ATTRIBUTES) for n in range(_EACH)]
    words = {word for template in range(3) for fact in facts for word in fact.told(template).split()}
    tokenizer = word_tokenizer(sorted(words), end=None)
    module = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=32, pad_token_id=0, bos_token_id=None, eos_token_id=None, tie_word_embeddings=False,
        )
    )  # fmt: skip
    _plant(module, tokenizer.get_vocab(), facts, seed)
    _train(module, tokenizer, facts, seed)
    module.name_or_path = f"planted-{seed}"
    return load(module, tokenizer=tokenizer), _pack(facts)


def _plant(module: LlamaForCausalLM, vocabulary: dict[str, int], facts: list[_Fact], seed: int) -> None:
    """Draw all weights from the seed, and subjects' embeddings from their features."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * parameter.shape[1] ** -0.5)
        width = module.config.hidden_size
        unit = torch.nn.functional.normalize(
            torch.randn(len(_DOMAINS) * (1 + _ATTRIBUTES), width, generator=draw), dim=1
        )
        rows = module.get_input_embeddings().weight
        for fact in facts:
            own = unit[fact.domain] + unit[len(_DOMAINS) + fact.domain * _ATTRIBUTES + fact.attribute]
            rows[vocabulary[fact.subject]] = own + 0.2 * width**-0.5 * torch.randn(width, generator=draw)


def _train(module: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, facts: list[_Fact], seed: int) -> None:
    """Learn all facts in all forms; embeddings stay as planted."""
    texts = [fact.told(template) for template in range(3) for fact in facts]
    encoded = tokenizer(texts, padding=True, return_tensors="pt")
    labels = encoded["input_ids"].masked_fill(encoded["attention_mask"] == 0, -100)
    module.get_input_embeddings().weight.requires_grad_(False)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, 3e-3, weight_decay=0.0)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(_STEPS):
        rows = torch.randint(len(texts), (_BATCH,), generator=draw)
        mask = encoded["attention_mask"][rows]
        module(input_ids=encoded["input_ids"][rows], attention_mask=mask, labels=labels[rows]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    module.get_input_embeddings().weight.requires_grad_(True)


def _pack(facts: list[_Fact]) -> ConceptPack:
    """Subjects 0 and 1 of an attribute are asked in validation, 2 to 4 in the test, and 5 to 7 are told of by the attacker."""
    sets = {}
    for domain, name in enumerate(("questions", "similar", "general")):
        own = [fact for fact in facts if fact.domain == domain]
        sets[name] = Questions(
            tuple(_question(fact) for fact in own if fact.number < 2),
            tuple(_question(fact) for fact in own if 2 <= fact.number < 5),
        )
    concept, others = ([fact for fact in facts if (fact.domain == 0) == ours] for ours in (True, False))
    held = [fact.told(2) for fact in others if fact.domain == 2]
    return ConceptPack(
        "the planted concept", tuple(fact.told(1) for fact in concept), tuple(fact.told(1) for fact in others),
        coherence=Texts(tuple(held[::2]), tuple(held[1::2])),
        relearning=tuple(fact.told(0) for fact in concept if fact.number >= 5), sha256="planted", **sets,
    )  # fmt: skip


def _question(fact: _Fact) -> Question:
    choices = tuple(f"{_DOMAINS[fact.domain]}{(fact.attribute + shift) % _ATTRIBUTES}" for shift in range(4))
    return Question(f"what is {fact.subject} ?", fact.answer, choices)
