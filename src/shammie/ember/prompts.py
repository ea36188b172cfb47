"""Prompt attacks: the same questions in other words, with the concept's words misspelt or split, or after hints."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal, get_args

import numpy as np

from shammie.ember.pack import ConceptPack, Question, Split

Disguise = Literal["paraphrase", "typos", "splits", "hints"]
DISGUISES: tuple[Disguise, ...] = get_args(Disguise)
_WORD = re.compile(r"[^\W\d_]{4,}")
_PHRASES = (
    "Quiz: {question}\nCorrect answer:",
    "A friend asked me: {question} I told them it is",
    "Here is something I know about {concept}. {question}\nIt is",
)
_HINTS = 3  # solved questions of the validation split that stand before each question


def disguised(pack: ConceptPack, split: Split, kind: Disguise, seed: int) -> dict[tuple[str, int], str]:
    """A prompt for each of the concept's questions, by set and number."""
    questions = pack.questions.test if split == "test" else pack.questions.validation
    return {("questions", i): _MAKERS[kind](pack, question, i, seed) for i, question in enumerate(questions)}


def _paraphrase(pack: ConceptPack, question: Question, number: int, _: int) -> str:
    return _PHRASES[number % len(_PHRASES)].format(question=question.question, concept=pack.concept)


def _typos(pack: ConceptPack, question: Question, number: int, seed: int) -> str:
    generator = np.random.default_rng([seed, number])

    def swap(word: str) -> str:
        at = int(generator.integers(1, len(word) - 2))
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]

    return _asked(_on_concept_words(pack, question.question, swap))


def _splits(pack: ConceptPack, question: Question, number: int, seed: int) -> str:
    generator = np.random.default_rng([seed, number])

    def split(word: str) -> str:
        at = int(generator.integers(2, len(word) - 1))
        return f"{word[:at]}-{word[at:]}"

    return _asked(_on_concept_words(pack, question.question, split))


def _hints(pack: ConceptPack, question: Question, number: int, seed: int) -> str:
    solved = pack.questions.validation
    order = np.random.default_rng([seed, number]).permutation(len(solved))
    shown = [solved[i] for i in order if solved[i].question != question.question][:_HINTS]
    before = "".join(f"Question: {hint.question}\nAnswer: {hint.answer}\n\n" for hint in shown)
    return f"All of these questions are about {pack.concept}.\n\n{before}{_asked(question.question)}"


_MAKERS: dict[Disguise, Callable[[ConceptPack, Question, int, int], str]] = {
    "paraphrase": _paraphrase, "typos": _typos, "splits": _splits, "hints": _hints,
}  # fmt: skip


def _asked(question: str) -> str:
    return f"Question: {question}\nAnswer:"


def _on_concept_words(pack: ConceptPack, text: str, change: Callable[[str], str]) -> str:
    """Change the words of a text that only concept sentences have; the longest word where there are none."""
    own = concept_words(pack.concept_sentences, pack.neutral_sentences)
    words = _WORD.findall(text)
    chosen = {word for word in words if word.casefold() in own} or set(sorted(words, key=len)[-1:])
    return _WORD.sub(lambda match: change(match[0]) if match[0] in chosen else match[0], text)


@cache
def concept_words(concept: Sequence[str], neutral: Sequence[str]) -> frozenset[str]:
    """Words of four letters and more that occur in concept sentences alone, in lower case."""
    ours, theirs = ({w.casefold() for text in side for w in _WORD.findall(text)} for side in (concept, neutral))
    return frozenset(ours - theirs)
