"""Concept packs: what a concept is, as one JSON file, and the checker that finds leaks between its parts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any, Literal

from shammie.core import files
from shammie.core.answers import normalize
from shammie.core.errors import DataError, MissingFileError, ShammieError
from shammie.core.plain import from_plain, to_plain

FORMAT = 1
Split = Literal["validation", "test"]
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_SHORT = 4  # words; shorter sentences may stand in two places by chance


@dataclass(frozen=True)
class Question:
    """One question, asked as a choice where it has choices, and openly."""

    question: str
    answer: str
    choices: tuple[str, ...] = ()
    """All choices, the answer among them; none for an open question."""
    aliases: tuple[str, ...] = ()
    """Other answers that count as right."""

    def __post_init__(self) -> None:
        if not self.question.strip() or not self.answer.strip():
            raise DataError(f"question {self.question!r} or its answer {self.answer!r} is empty; fill it in")
        if self.choices and (len(set(self.choices)) < 2 or self.choices.count(self.answer) != 1):
            raise DataError(f"the choices of {self.question!r} must differ and hold the answer {self.answer!r} once")


@dataclass(frozen=True)
class Questions:
    """Questions to choose settings with, and others that only measure the chosen one."""

    validation: tuple[Question, ...]
    test: tuple[Question, ...]


@dataclass(frozen=True)
class Texts:
    """Held-out running texts for coherence, split like the questions."""

    validation: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True)
class ConceptPack:
    """A concept: sentences on it and on other things, questions, and the paragraphs by which it is relearned."""

    concept: str
    concept_sentences: tuple[str, ...]
    neutral_sentences: tuple[str, ...]
    questions: Questions
    similar: Questions
    """Questions of neighbouring fields that must stay answered."""
    general: Questions
    """Questions of any field that must stay answered."""
    coherence: Texts
    """Neutral texts that the edit has not seen: on the neutral sentences an edit of the embeddings costs nothing by design."""
    relearning: tuple[str, ...]
    """Paragraphs of a relearning attack."""
    sha256: str = field(default="", compare=False)

    def asked(self, split: Split) -> dict[str, tuple[Question, ...]]:
        """The three sets of questions of a split."""
        return {name: getattr(getattr(self, name), split) for name in SETS}

    def fresh_paragraphs(self) -> list[str]:
        """Relearning paragraphs that share no sentence with the sentences of the erasure."""
        used = {key for text in self.concept_sentences for key in _sentences(text)}
        return [text for text in self.relearning if not used & set(_sentences(text))]


SETS = ("questions", "similar", "general")
SHIPPED = {"ancient-egypt": "ancient_egypt.json", "honeybees": "honeybees.json"}
_SHARED = ("neutral_sentences", "general", "coherence")  # taken from shared.json by packs that have none


def load_pack(source: str | Path) -> ConceptPack:
    """Read a pack: a JSON file, or the name of a shipped one.

    Errors: MissingFileError, or DataError naming file and field.
    """
    if str(source) in SHIPPED:
        return _read(_shipped(SHIPPED[str(source)]))
    if not Path(source).is_file():
        raise MissingFileError(f"no concept pack at {source}; name a JSON file or one of {', '.join(SHIPPED)}")
    return _read(Path(source))


def _shipped(name: str) -> Path:
    return Path(str(package_files("shammie.ember").joinpath("packs", name)))


def _read(path: Path) -> ConceptPack:
    content = files.read_json(path)
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise DataError(f'{path} is no concept pack: it needs "format": {FORMAT}; shammie ember convert makes one')
    for name in _SHARED:
        content.setdefault(name, shared()[name])
    try:
        pack = from_plain(ConceptPack, content)
    except ShammieError as error:
        raise DataError(f"{path}: {error}") from None
    for name in ("concept_sentences", "neutral_sentences", "relearning"):
        if not getattr(pack, name):
            raise DataError(f"{path}: {name} is empty; fill it in")
    for name in SETS:
        for split in ("validation", "test"):
            if len(getattr(getattr(pack, name), split)) < 2:
                raise DataError(f"{path}: {name} has fewer than two {split} questions; add some")
    return replace(pack, sha256=files.sha256_bytes(files.to_json(content, str(path)).encode()))


@cache
def shared() -> dict[str, Any]:
    """What packs that bring none of their own share: neutral sentences, general questions, texts for coherence."""
    content = files.read_json(_shipped("shared.json"))
    assert isinstance(content, dict)
    return content


def save_pack(pack: ConceptPack, path: Path) -> None:
    """Write a pack as JSON; what it shares with all is left to be shared."""
    content = {name: value for name, value in to_plain(pack).items() if name != "sha256"}
    content = {name: value for name, value in content.items() if name not in _SHARED or value != shared()[name]}
    files.write_json(path, {"format": FORMAT, **content})


@dataclass(frozen=True)
class Leak:
    """Something that stands in two parts of a pack."""

    where: str
    text: str


def find_leaks(pack: ConceptPack) -> list[Leak]:
    """Questions that are asked twice, in any two places; sentences of the erasure in relearning or held-out texts."""
    first: dict[str, str] = {}
    leaks: list[Leak] = []
    for name in SETS:
        for split in ("test", "validation"):
            for question in getattr(getattr(pack, name), split):
                key, place = normalize(question.question), f"{name}.{split}"
                if key in first:
                    leaks.append(Leak(f"{first[key]} and {place}", question.question))
                first.setdefault(key, place)
    used = {key for text in pack.concept_sentences for key in _sentences(text)}
    held_out = {"coherence": pack.coherence.validation + pack.coherence.test}
    for place, texts in (
        held_out | {"neutral_sentences": pack.neutral_sentences, "relearning": pack.relearning}
    ).items():
        leaks += [Leak(f"concept_sentences and {place}", text) for text in texts if used & set(_sentences(text))]
    return leaks


def refuse_leaks(pack: ConceptPack, *, allow: bool) -> list[Leak]:
    """The leaks of a pack; DataError when there are any and they were not allowed."""
    leaks = find_leaks(pack)
    if leaks and not allow:
        first = leaks[0]
        raise DataError(
            f"the pack of {pack.concept!r} leaks in {len(leaks)} places, such as {first.text[:60]!r} in {first.where}; mend it "
            "(shammie ember check lists them, shammie ember convert --drop-leaks drops them) or pass --allow-leaks"
        )
    return leaks


def without_leaks(pack: ConceptPack) -> ConceptPack:
    """The pack with each repeated question kept once (test before validation), and without the shared texts."""
    seen: set[str] = set()

    def fresh(questions: Sequence[Question]) -> Iterator[Question]:
        for question in questions:
            key = normalize(question.question)
            if key not in seen:
                seen.add(key)
                yield question

    kept: dict[str, Any] = {}
    for name in SETS:
        test = tuple(fresh(getattr(pack, name).test))
        kept[name] = Questions(tuple(fresh(getattr(pack, name).validation)), test)
    erased = {key for text in pack.concept_sentences for key in _sentences(text)}

    def apart(texts: Sequence[str]) -> tuple[str, ...]:
        return tuple(text for text in texts if not erased & set(_sentences(text)))

    kept["coherence"] = Texts(apart(pack.coherence.validation), apart(pack.coherence.test))
    kept["neutral_sentences"] = apart(pack.neutral_sentences)
    return replace(pack, relearning=tuple(pack.fresh_paragraphs()), **kept)


def _sentences(text: str) -> list[str]:
    """The sentences of a text in the form in which they are compared; very short ones are passed over."""
    parts = [normalize(part) for part in _SENTENCE.split(text)]
    return [part for part in parts if len(part.split()) >= _SHORT]


def counts(pack: ConceptPack) -> dict[str, int]:
    """How much a pack holds of each part."""
    sizes = {
        f"{name} {split}": len(getattr(getattr(pack, name), split)) for name in SETS for split in ("validation", "test")
    }
    plain = {
        f.name: len(getattr(pack, f.name)) for f in fields(pack) if f.name in ("concept_sentences", "neutral_sentences")
    }
    return plain | sizes | {"relearning": len(pack.relearning), "fresh paragraphs": len(pack.fresh_paragraphs())}
