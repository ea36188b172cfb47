"""Counts of words with a property, in a paragraph of invented prose."""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import pairwise

from shammie.bonafide.tasks.base import NOTHING, Family, Parameters, Solution, Stage, near

_WORDS = tuple(
    """
    apple bottle carrot eleven forest garden hammer island jacket kettle ladder meadow needle orange pepper quiet
    river silver tunnel under velvet winter yellow amber bridge copper desert engine fellow gravel hollow indigo
    jungle lemon mirror narrow office pillow rabbit summer ticket umbrella valley window oyster ember acorn oven
    iron eagle otter spoon tree moon street coffee letter dinner kitten puddle marble walnut pencil basket candle
    doctor flower guitar
    """.split()  # noqa: SIM905
)
_WEIGHTS = (17, 23, 31)


def _twice(word: str) -> bool:
    return any(a == b for a, b in pairwise(word))


class ParagraphAnalysis(Family):
    """Three counts; the answer weighs them, so that miscounts do not cancel and a sum cannot be guessed."""

    name = "paragraph_analysis"
    levels = (1, 2)
    form = "the weighted sum as a number"

    def draw(self, rng: random.Random, level: int) -> Parameters:
        """12 to 20 words at level 1, 25 to 40 at level 2."""
        count = rng.randint(12, 20) if level == 1 else rng.randint(25, 40)
        return {"words": [rng.choice(_WORDS) for _ in range(count)], "length": rng.choice((5, 6, 7))}

    def ask(self, given: Parameters) -> str:
        """The words and what to count."""
        return (
            f"Words: {' '.join(given['words'])}\nLet n1 be how many of these words have the same letter twice in a row, n2 how "
            f"many have exactly {given['length']} letters, and n3 how many begin with a vowel (a, e, i, o, u); a word counts as "
            f"often as it stands there. What is {_WEIGHTS[0]} * n1 + {_WEIGHTS[1]} * n2 + {_WEIGHTS[2]} * n3?"
        )

    def solve(self, given: Parameters, replaced: Mapping[int, str] = NOTHING) -> Solution:
        """The three counts."""
        words, length = given["words"], given["length"]
        counts = [
            sum(map(_twice, words)),
            sum(len(word) == length for word in words),
            sum(word[0] in "aeiou" for word in words),
        ]
        counts = [int(replaced.get(number, count)) for number, count in enumerate(counts)]
        said = ("have a letter twice in a row", f"have {length} letters", "begin with a vowel")
        marks = (
            (("n1",), ("twice", "words")),
            (("n2",), (f"{length} letters", "words")),
            (("n3",), ("vowel", "words")),
        )
        stages = [
            Stage(str(count), f"n{n + 1} = {count}, since {count} words {said[n]}.", marks[n])
            for n, count in enumerate(counts)
        ]
        total = str(sum(w * n for w, n in zip(_WEIGHTS, counts, strict=True)))
        terms = " + ".join(f"{w} * {n}" for w, n in zip(_WEIGHTS, counts, strict=True))
        return Solution(tuple(stages), total, f"{terms} = {total}.")

    def other(self, given: Parameters, stage: int, rng: random.Random) -> str:
        """Another count."""
        return near(int(self.solve(given).stages[stage].value), rng, 0, len(given["words"]))
