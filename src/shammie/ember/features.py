"""Which features are the concept's: activity ratio, a scale-free permutation test, keyness, and optionally a judge."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from shammie.core.judge import Judge, JudgePrompt
from shammie.core.stats import benjamini_hochberg
from shammie.ember import equations as eq
from shammie.ember.settings import FeatureSettings
from shammie.ember.vocabulary import TokenSlice

_BLOCK = 256  # labellings at once: [256, V] signs

JUDGE_PROMPT = JudgePrompt(
    "ember-feature",
    "1",
    "A group of word pieces, the strongest first:\n$tokens\n\nIs the distinctive and dominant theme of this group the topic "
    '"$concept"? A group of general words that merely could occur in texts on it is not.\n'
    'Reply with JSON: {"verdict": "MEMBER"} or {"verdict": "OTHER"}.',
    ("MEMBER", "OTHER"),
)


@dataclass(frozen=True, eq=False)
class FeatureScores:
    """What was found of each of K features, and which passed."""

    ratio: Float[Tensor, " K"]
    test_p: Float[Tensor, " K"]
    keyness_p: Float[Tensor, " K"]
    tokens: Float[Tensor, " K"]  # active concept-only tokens
    passed: Bool[Tensor, " K"]


def score_features(
    g: Float[Tensor, "V K"], vocabulary: TokenSlice, settings: FeatureSettings, seed: int = 0
) -> FeatureScores:
    """Score every feature. Tokens that both sides have count for keyness alone; the paper leaves them out."""
    concept, neutral = vocabulary.concept_only, vocabulary.neutral_only
    ratio = eq.activity_ratio(eq.activity(g, by_row=False), concept, neutral)
    test_p = _permutation_test(g, vocabulary, settings.permutations, seed)
    keyness_p = eq.normal_tail(eq.pooled_keyness(eq.activity(g, by_row=False), vocabulary.keyness))
    tokens = (g[concept] != 0).sum(0)
    passed = tokens >= settings.least_tokens
    if "ratio" in settings.criteria:
        passed &= ratio >= settings.ratio
    for name, p_values in (("test", test_p), ("keyness", keyness_p)):
        if name in settings.criteria:
            passed &= torch.from_numpy(benjamini_hochberg(p_values.numpy(), settings.false_discovery))
    return FeatureScores(ratio, test_p, keyness_p, tokens.float(), passed)


def _permutation_test(
    g: Float[Tensor, "V K"], vocabulary: TokenSlice, permutations: int, seed: int
) -> Float[Tensor, " K"]:
    """Share of labellings that put as much of a feature's row-normalized activity on the concept's side."""
    own = vocabulary.concept_only | vocabulary.neutral_only
    size = eq.activity(g, by_row=True)[own]
    signs = torch.where(vocabulary.concept_only[own], 1.0, -1.0)
    generator, null = torch.Generator().manual_seed(seed), []
    for start in range(0, permutations, _BLOCK):
        count = min(_BLOCK, permutations - start)
        null.append(eq.contrast(size, signs[torch.rand(count, len(signs), generator=generator).argsort(1)]))
    return eq.permutation_p(eq.contrast(size, signs[None])[0], torch.cat(null))


def judged(judge: Judge, concept: str, tokens: list[list[str]]) -> Bool[Tensor, " K"]:
    """Which features a judge calls the concept's, shown their strongest tokens."""
    records = [{"concept": concept, "tokens": ", ".join(map(repr, words))} for words in tokens]
    return torch.tensor([found.verdict == "MEMBER" for found in judge.judge(JUDGE_PROMPT, records)], dtype=torch.bool)
