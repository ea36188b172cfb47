"""Facts of a trace: the sentences that state something, and which of them give the answer away."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from shammie.core import files
from shammie.core.answers import contains_match, normalize
from shammie.core.judge import Judge, JudgePrompt
from shammie.core.numbers import find_numbers
from shammie.recall.data import Question
from shammie.recall.knowledge import Knowledge, Verdict

_BREAK = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])|\s*\n+\s*")
_JOINED = re.compile(
    r"(?:^\(?\d{1,2}[.)]|\b(?:Mr|Mrs|Ms|Dr|St|Mt|Jr|Sr|vs|No|Prof|Gen|Rev|approx|etc|c|ca)\.|\b[A-Z]\.)$"
)
_BULLET = re.compile(r"^(?:[-*•–]+|\(?\d{1,2}[.)])\s+")
_TALK = re.compile(
    r"^(?:so|but|and|then|first|next|now|well|also|however|therefore|thus|finally|okay|ok|hmm|wait|alright|actually|maybe|"
    r"perhaps|or)?\b[\s,]*(?:i\b|i'm|i'll|let\b|let's|we\b|you\b|to answer|to find|the (?:question|user|answer|task)\b|"
    r"this question|my\b|sure\b|yes\b|no\b|sorry|as an ai|please|based on|given (?:that|the)|here (?:is|are))",
    re.IGNORECASE,
)
_COMMON = {
    *(
        "the",
        "and",
        "of",
        "for",
        "with",
        "from",
        "that",
        "this",
        "was",
        "were",
        "has",
        "had",
        "have",
        "its",
        "his",
        "her",
    ),
    *(
        "their",
        "are",
        "not",
        "but",
        "who",
        "which",
        "what",
        "where",
        "when",
        "how",
        "one",
        "two",
        "new",
        "city",
        "country",
    ),
    *(
        "state",
        "states",
        "republic",
        "kingdom",
        "island",
        "islands",
        "north",
        "south",
        "east",
        "west",
        "united",
        "saint",
    ),
}
_PRONOUN = re.compile(r"^(?P<its>Its)\b|^(?:It|This (?:country|city|place|person|man|woman))\b")
_LEAST_WORDS, _MOST_WORDS = 4, 60
_DEMONYMS = Path(__file__).with_name("demonyms.json")

EXTRACT = JudgePrompt(
    "recall-extract", "1",
    "Does the sentence below state a concrete fact about the world, such as a name, date, place or event, rather than a plan, "
    "an opinion, or the question in other words?\n\nQuestion: $question\nSentence: $sentence\n\nReply with FACT or NO FACT.",
    ("FACT", "NO FACT"),
)  # fmt: skip
VERIFY = JudgePrompt(
    "recall-verify", "1",
    "Is the statement below true? Reply with TRUE or FALSE, or with UNKNOWN if you are not certain.\n\nStatement: $sentence",
    ("TRUE", "FALSE", "UNKNOWN"),
)  # fmt: skip


_VERDICTS: dict[str, Verdict] = {"TRUE": "true", "FALSE": "false"}


@dataclass(frozen=True)
class Fact:
    """A statement of a trace; `leak` says how it gives the answer away, None where it does not."""

    text: str
    leak: str | None
    verdict: Verdict = "unknown"


def sentences(text: str) -> list[str]:
    """The sentences of a text, bullets and numbering taken off."""
    found: list[str] = []
    for part in _BREAK.split(text):
        if found and _JOINED.search(found[-1]):
            found[-1] += " " + part.strip()
        elif part and part.strip():
            found.append(part.strip())
    return [_BULLET.sub("", sentence).strip() for sentence in found]


def statements(trace: str, question: Question, knowledge: Knowledge | None = None) -> list[str]:
    """Sentences of a trace that could be facts: they hold a name or number that the question does not, or say what is known.

    Dropped are questions, talk about the task, what is too short or long, and a last sentence that was cut off.
    """
    asked = set(normalize(question.text).split())
    kept: dict[str, str] = {}
    for sentence in sentences(trace):
        words = sentence.split()
        if not _LEAST_WORDS <= len(words) <= _MOST_WORDS or sentence[-1] not in ".!\"')]" or _TALK.match(sentence):
            continue
        if _named(words) - asked or (knowledge and knowledge.mentions(resolved(sentence, question))):
            kept.setdefault(normalize(sentence), sentence)
    return list(kept.values())


def _named(words: Sequence[str]) -> set[str]:
    """Words, normalized, that are numbers or start with a capital although they do not start the sentence."""
    found = {word for word in words[1:] if word[:1].isupper()} | {
        word for word in words if any(c.isdigit() for c in word)
    }
    return {part for word in found for part in normalize(word).split()}


def resolved(sentence: str, question: Question) -> str:
    """The sentence with the question's subject in place of the pronoun that it begins with."""
    if not question.subject:
        return sentence
    return _PRONOUN.sub(lambda found: question.subject + ("'s" if found["its"] else ""), sentence)


def leak(sentence: str, question: Question, said: str | None) -> str | None:
    """How a sentence gives an answer away: by an alias, its parts, its inflections, a number, or the sample's own answer.

    Words that stand in the question give nothing away.
    """
    for name, answers in (("answer", question.answers), ("own answer", [said] if said and said.strip() else [])):
        if not answers:
            continue
        if contains_match(sentence, answers):
            return name
        if reason := _part(sentence, answers, question.text):
            return f"{reason} of the {name}"
    return None


def _part(sentence: str, answers: Iterable[str], question: str) -> str | None:
    words, asked = normalize(sentence).split(), set(normalize(question).split())
    numbers = {number.plain for number in find_numbers(sentence)} - {number.plain for number in find_numbers(question)}
    for answer in answers:
        if numbers & {number.plain for number in find_numbers(answer)}:
            return "number"
        parts = {
            part for part in normalize(answer).split() if len(part) >= 3 and part not in _COMMON and part not in asked
        }
        if parts & set(words):
            return "part"
        forms = {form for name, own in _demonyms().items() if name in normalize(answer).split() for form in own}
        if forms & set(words) or any(_inflected(part, word) for part in parts for word in words):
            return "inflection"
    return None


def _inflected(part: str, word: str) -> bool:
    """Whether two words share their beginning up to a suffix: Italy and Italian, poet and poets."""
    shared = 0
    for one, other in zip(part, word, strict=False):
        if one != other:
            break
        shared += 1
    return shared >= 4 and len(part) - shared <= 2 and len(word) - shared <= 3


@cache
def _demonyms() -> dict[str, frozenset[str]]:
    return {normalize(name): frozenset(map(normalize, own)) for name, own in files.read_json(_DEMONYMS).items()}


def extract(
    trace: str, question: Question, said: str | None, knowledge: Knowledge | None = None, judge: Judge | None = None
) -> list[Fact]:
    """The facts of a trace: how each leaks, and whether it is true by the triples or else a judge, which may abstain.

    A judge, where given, has the last word on what is a fact.
    """
    found = statements(trace, question, knowledge)
    if judge and found:
        asked = judge.judge(EXTRACT, [{"question": question.text, "sentence": sentence} for sentence in found])
        found = [text for text, reply in zip(found, asked, strict=True) if reply.verdict == "FACT"]
    told = [resolved(text, question) for text in found]
    verdicts: list[Verdict] = [knowledge.check(text) if knowledge else "unknown" for text in told]
    if judge:
        unclear = [number for number, verdict in enumerate(verdicts) if verdict == "unknown"]
        replies = judge.judge(VERIFY, [{"sentence": told[number]} for number in unclear])
        for number, reply in zip(unclear, replies, strict=True):
            verdicts[number] = _VERDICTS.get(reply.verdict or "", "unknown")
    return [Fact(text, leak(text, question, said), verdict) for text, verdict in zip(found, verdicts, strict=True)]
