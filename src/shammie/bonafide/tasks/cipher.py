"""A string under layers of a cipher."""

from __future__ import annotations

import random
from collections.abc import Mapping
from string import ascii_lowercase
from typing import Any

from shammie.bonafide.tasks.base import NOTHING, Family, Parameters, Solution, Stage

_PLACES = ("reverse", "rotate", "swap")
_SAID = {
    "shift": "move every letter {0} places on in the alphabet, z going on to a",
    "slide": "move the first letter {0} places on in the alphabet, the second {1}, the third {2} and so on, z going on to a",
    "reverse": "write the string backwards",
    "rotate": "move the first {0} letters to the end",
    "swap": "swap the first letter with the second, the third with the fourth and so on",
}


def _moved(letter: str, places: int) -> str:
    return ascii_lowercase[(ascii_lowercase.index(letter) + places) % 26]


def encipher(text: str, kind: str, amount: int) -> str:
    """One layer."""
    if kind == "shift":
        return "".join(_moved(letter, amount) for letter in text)
    if kind == "slide":
        return "".join(_moved(letter, amount * (at + 1)) for at, letter in enumerate(text))
    if kind == "reverse":
        return text[::-1]
    if kind == "rotate":
        return text[amount:] + text[:amount]
    return "".join(text[at : at + 2][::-1] for at in range(0, len(text), 2))


class Cipher(Family):
    """Layers that change letters by turns with layers that move them.

    A shift is the same for all places and so trades places with the layers that move letters: there is one at most, and
    further layers that change letters depend on the place. Otherwise two of them could be done at once.
    """

    name = "cipher"
    levels = (2, 3, 4)
    form = "the resulting string"

    def draw(self, rng: random.Random, level: int) -> Parameters:
        """As many layers as the level says, over a string of seven to ten different letters."""
        text = "".join(rng.sample(ascii_lowercase, rng.randint(7, 10)))
        moves_first = rng.random() < 0.5
        layers: list[list[Any]] = []
        for number in range(level):
            if (number % 2 == 0) == moves_first:
                kind = rng.choice([k for k in _PLACES if all(k != done for done, _ in layers)])
                layers.append([kind, rng.randint(2, 4) if kind == "rotate" else 0])
            else:
                first = all(kind in _PLACES for kind, _ in layers)
                layers.append([rng.choice(("shift", "slide")) if first and level == 2 else "slide", rng.randint(1, 5)])
        return {"text": text, "layers": layers}

    def ask(self, given: Parameters) -> str:
        """The string and the layers."""
        rules = [
            f"Layer {n}: {_SAID[kind].format(amount, 2 * amount, 3 * amount)}."
            for n, (kind, amount) in enumerate(given["layers"], 1)
        ]
        return f'Take the string "{given["text"]}".\n' + "\n".join(rules) + "\nWhich string comes out?"

    def solve(self, given: Parameters, replaced: Mapping[int, str] = NOTHING) -> Solution:
        """The string after each layer."""
        text, found = given["text"], []
        for number, (kind, amount) in enumerate(given["layers"]):
            before, text = text, replaced.get(number, encipher(text, kind, amount))
            found.append(Stage(text, f"Layer {number + 1} turns {before} into {text}."))
        return Solution(tuple(found), text)

    def other(self, given: Parameters, stage: int, rng: random.Random) -> str:
        """The string with one letter changed."""
        value = self.solve(given).stages[stage].value
        at, letter = rng.randrange(len(value)), rng.choice(ascii_lowercase)
        return value[:at] + (letter if letter != value[at] else _moved(letter, 1)) + value[at + 1 :]
