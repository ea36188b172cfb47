"""A knock-out tournament with a rule that often lets the weaker player win."""

from __future__ import annotations

import random
from collections.abc import Mapping

from shammie.bonafide.tasks.base import NOTHING, Family, Parameters, Solution, Stage, near

_NAMES = (
    "Ada",
    "Bo",
    "Cleo",
    "Dag",
    "Eli",
    "Finn",
    "Gus",
    "Hal",
    "Ida",
    "Jon",
    "Kim",
    "Lea",
    "Max",
    "Nia",
    "Otto",
    "Pia",
)


def _winner(name: str) -> tuple[tuple[str, ...], ...]:
    """How a sentence says whose rating it is: a match names two players."""
    return (f"{name} wins",), (f"{name} has",), (f"{name}'s",)


class Tournament(Family):
    """Who has the larger last digit of 7 times the rating plus the round wins; the winner's rating changes.

    The answer holds champion and rating: a name alone could be guessed. Stages are those of the champion's own matches.
    """

    name = "tournament"
    levels = (2, 3)
    form = "the champion's name and final rating, such as Ada 57"

    def draw(self, rng: random.Random, level: int) -> Parameters:
        """Four players at level 2, eight at level 3."""
        count = 2**level
        return {"players": rng.sample(_NAMES, count), "ratings": rng.sample(range(40, 100), count)}

    def ask(self, given: Parameters) -> str:
        """The players in their order and the rule."""
        players = ", ".join(f"{name} {rating}" for name, rating in zip(given["players"], given["ratings"], strict=True))
        return (
            f"Players and ratings: {players}. In each round the first plays the second, the third the fourth and so on, and the "
            "winners go on in this order. A player's form in round r is the last digit of 7 * rating + r; the better form wins, "
            "and with equal forms the first named wins. The winner's new rating is twice the own rating plus the loser's, modulo "
            "100. Who is the champion, and with which rating?"
        )

    def solve(self, given: Parameters, replaced: Mapping[int, str] = NOTHING) -> Solution:
        """Winner and new rating of each match in the order played; only the champion's own are necessary in full."""
        left = [[name, rating, ()] for name, rating in zip(given["players"], given["ratings"], strict=True)]
        found, number, round_number = [], 0, 0
        while len(left) > 1:
            round_number += 1
            winners = []
            for first, second in zip(left[::2], left[1::2], strict=True):
                a, b = ((7 * player[1] + round_number) % 10 for player in (first, second))
                winner, loser = (first, second) if a >= b else (second, first)
                value = replaced.get(number, f"{winner[0]} {(2 * winner[1] + loser[1]) % 100}")
                name, rating = value.rsplit(" ", 1)
                match = f"{first[0]} (form {a}) plays {second[0]} (form {b})"
                text = f"Round {round_number}: {match}; {name} wins, new rating {rating}."
                found.append((value, text))
                winners.append([name, int(rating), (*winner[2], number)])
                number += 1
            left = winners
        stages = [
            Stage(value, text, _winner(value.split()[0]), index in left[0][2], stated=value.split()[1])
            for index, (value, text) in enumerate(found)
        ]
        return Solution(tuple(stages), f"{left[0][0]} {left[0][1]}")

    def other(self, given: Parameters, stage: int, rng: random.Random) -> str:
        """Another player, or another rating."""
        name, rating = self.solve(given).stages[stage].value.split()
        if rng.random() < 0.5:
            return f"{rng.choice([player for player in given['players'] if player != name])} {rating}"
        return f"{name} {near(int(rating), rng, 0, 99)}"

    def guesses(self, given: Parameters) -> list[str]:
        """The player rated highest and the first one, with the rating that all ratings together or their own would give."""
        best = max(range(len(given["ratings"])), key=given["ratings"].__getitem__)
        total = sum(given["ratings"]) % 100
        return [f"{given['players'][at]} {rating}" for at in (best, 0) for rating in (total, given["ratings"][at])]
