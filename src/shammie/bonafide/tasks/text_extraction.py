"""A chase through numbered lines: each word found says where to look next."""

from __future__ import annotations

import random
from collections.abc import Mapping

from shammie.bonafide.tasks.base import NOTHING, Family, Parameters, Solution, Stage

_VOWELS, _LENGTHS = "aeiou", range(4, 13)
_SYLLABLES = (
    "ba",
    "ce",
    "di",
    "fo",
    "gu",
    "ha",
    "je",
    "ki",
    "lo",
    "mu",
    "na",
    "pe",
    "ri",
    "so",
    "tu",
    "va",
    "we",
    "xi",
    "yo",
    "zu",
)
_WIDTH = 5  # words a line


def _word(rng: random.Random, length: int, vowel: str) -> str:
    """An invented word of a length with a vowel as its second letter."""
    rest = "".join(rng.choice(_SYLLABLES) for _ in range(6))
    return (rng.choice("bcdfghjklmnprstvwxz") + vowel + rest)[: length - length % 2] + "n" * (length % 2)


class TextExtraction(Family):
    """The k-th word of line i; its length and first letter give the next place."""

    name = "text_extraction"
    levels = (2, 3, 4)
    form = "the last word found"

    def draw(self, rng: random.Random, level: int) -> Parameters:
        """Nine lines of five words, and as many hops as the level says.

        No two words agree in both length and second letter, so that each leads elsewhere and a wrong one is never forgotten.
        """
        while True:
            words = [_word(rng, length, vowel) for length in _LENGTHS for vowel in _VOWELS]
            rng.shuffle(words)
            lines = [words[at : at + _WIDTH] for at in range(0, len(words), _WIDTH)]
            given = {"lines": lines, "line": rng.randint(1, len(lines)), "word": rng.randint(1, _WIDTH), "hops": level}
            found = [stage.value for stage in self.solve(given).stages]
            if len(set(found)) == len(found):
                return given

    def ask(self, given: Parameters) -> str:
        """The lines, where to begin and how to go on."""
        lines = "\n".join(f"{n}: {' '.join(line)}" for n, line in enumerate(given["lines"], 1))
        return (
            f"{lines}\nBegin with word {given['word']} of line {given['line']}. From a word go on like this: its number of letters "
            "less three is the number of the next line, and the place of its second letter among a, e, i, o, u (a is 1, u is 5) is "
            f"the number of the next word in that line. Go on {given['hops']} times. Which word is the last?"
        )

    def solve(self, given: Parameters, replaced: Mapping[int, str] = NOTHING) -> Solution:
        """Every word found, the first included."""
        line, place, found = given["line"], given["word"], []
        for number in range(given["hops"] + 1):
            word = replaced.get(number, given["lines"][line - 1][place - 1])
            found.append(Stage(word, f"Word {place} of line {line} is {word}.", ((f"line {line}",),)))
            line, place = len(word) - 3, _VOWELS.index(word[1]) + 1
        return Solution(tuple(found), found[-1].value)

    def other(self, given: Parameters, stage: int, rng: random.Random) -> str:
        """Another word of the lines."""
        value = self.solve(given).stages[stage].value
        return rng.choice([word for line in given["lines"] for word in line if word != value])
