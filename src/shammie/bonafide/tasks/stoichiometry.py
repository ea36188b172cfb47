"""How much a reaction yields, with invented substances whose molar masses are given."""

from __future__ import annotations

import random
from collections.abc import Mapping

from shammie.bonafide.tasks.base import NOTHING, Family, Parameters, Solution, Stage

_NAMES = ("Arvite", "Belgon", "Cassel", "Dornite", "Elvar", "Fenrol", "Galmite", "Hestal", "Jorvin", "Kelmite")


class Stoichiometry(Family):
    """Grams to moles, the reactant that runs out, moles of product, grams."""

    name = "stoichiometry"
    levels = (1, 2)
    form = "the grams as a number with four decimals"

    def draw(self, rng: random.Random, level: int) -> Parameters:
        """Level 1 has one reactant that matters, level 2 has two of which one runs out well before the other."""
        while True:
            first, second, product = rng.sample(_NAMES, 3)
            given: Parameters = {
                "names": [first, second, product], "ratio": [rng.randint(1, 4) for _ in range(3)],
                "molar": [round(rng.uniform(20, 200), 2) for _ in range(3)],
                "grams": [round(rng.uniform(10, 300), 2) for _ in range(level)],
            }  # fmt: skip
            moles = [given["grams"][i] / given["molar"][i] / given["ratio"][i] for i in range(level)]
            if level == 1 or max(moles) > 1.3 * min(moles):
                return given

    def ask(self, given: Parameters) -> str:
        """The reaction, the masses and what there is."""
        (a, b, c), (first, second, product) = given["ratio"], given["names"]
        masses = ", ".join(f"{name} {molar} g/mol" for name, molar in zip(given["names"], given["molar"], strict=True))
        there = " and ".join(
            f"{grams} g of {name}" for name, grams in zip(given["names"], given["grams"], strict=False)
        )
        plenty = f" There is plenty of {second}." if len(given["grams"]) == 1 else ""
        return (
            f"In an invented chemistry {a} {first} and {b} {second} react to {c} {product}. Molar masses: {masses}. There are "
            f"{there}.{plenty} How many grams of {product} can be made? Round every intermediate value to four decimals."
        )

    def solve(self, given: Parameters, replaced: Mapping[int, str] = NOTHING) -> Solution:
        """Moles of each reactant, moles of product; grams are the answer. The abundant reactant serves to compare only."""
        found: list[Stage] = []
        moles = []
        for index, grams in enumerate(given["grams"]):
            name, molar = given["names"][index], given["molar"][index]
            value = float(replaced.get(index, f"{grams / molar:.4f}"))
            moles.append(value)
            found.append(
                Stage(
                    f"{value:.4f}",
                    f"{grams} g / {molar} g/mol = {value:.4f} mol of {name}.",
                    ((name,), (str(grams), str(molar))),
                )
            )
        extents = [value / given["ratio"][index] for index, value in enumerate(moles)]
        limiting = extents.index(min(extents))
        found = [
            stage if index == limiting else Stage(stage.value, stage.text, stage.operands, necessary=False)
            for index, stage in enumerate(found)
        ]
        product, a, c = given["names"][2], given["ratio"][limiting], given["ratio"][2]
        made = float(replaced.get(len(found), f"{moles[limiting] * c / a:.4f}"))
        text = f"{moles[limiting]:.4f} mol * {c} / {a} = {made:.4f} mol of {product}."
        found.append(Stage(f"{made:.4f}", text, ((product, "mol"), (f"{moles[limiting]:.4f}", "mol"))))
        molar = given["molar"][2]
        grams = f"{made * molar:.4f}"
        return Solution(tuple(found), grams, f"{made:.4f} mol * {molar} g/mol = {grams} g.")

    def other(self, given: Parameters, stage: int, rng: random.Random) -> str:
        """Another amount."""
        return f"{float(self.solve(given).stages[stage].value) * rng.uniform(0.3, 3.0):.4f}"

    def right(self, answer: str, expected: str) -> bool:
        """Within a thousandth, since values are rounded on the way."""
        try:
            found = float(answer.replace(",", "").split()[0])
        except (ValueError, IndexError):
            return False
        return abs(found - float(expected)) <= 1e-3 * abs(float(expected))
