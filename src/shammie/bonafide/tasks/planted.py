"""Two small tasks for model organisms: items that maps take to other items, and boxes of which nothing is known."""

from __future__ import annotations

import random
from collections.abc import Mapping

from shammie.bonafide.tasks.base import NOTHING, Family, Parameters, Solution, Stage

ITEMS = tuple(f"A{number}" for number in range(8))
MAPS = tuple(f"F{number}" for number in range(4))
BOXES = tuple(f"B{number}" for number in range(40))


def _tables() -> dict[str, dict[str, str]]:
    """Each map moves every item; drawn once and for all."""
    rng, found = random.Random(0), {}
    for name in MAPS:
        shuffled = list(ITEMS)
        while any(a == b for a, b in zip(ITEMS, shuffled, strict=True)):
            rng.shuffle(shuffled)
        found[name] = dict(zip(ITEMS, shuffled, strict=True))
    return found


TABLES = _tables()


class Lookup(Family):
    """One map after another, from a start; the maps are not in the prompt but learned."""

    name = "lookup"
    levels = (2,)
    form = "an item"

    def draw(self, rng: random.Random, level: int) -> Parameters:
        """A start and as many maps as the level says."""
        return {"start": rng.choice(ITEMS), "maps": [rng.choice(MAPS) for _ in range(level)]}

    def ask(self, given: Parameters) -> str:
        """The start and the maps."""
        return f"Start at {given['start']}. Apply {', then '.join(given['maps'])}. Where does this end?"

    def solve(self, given: Parameters, replaced: Mapping[int, str] = NOTHING) -> Solution:
        """The item after each map."""
        item, found = given["start"], []
        for number, name in enumerate(given["maps"]):
            before, item = item, replaced.get(number, TABLES[name][item])
            found.append(Stage(item, f"{name} takes {before} to {item}.", ((name,),)))
        return Solution(tuple(found), item)

    def other(self, given: Parameters, stage: int, rng: random.Random) -> str:
        """Another item."""
        value = self.solve(given).stages[stage].value
        return rng.choice([item for item in ITEMS if item != value])


class Boxes(Family):
    """What is in a box: only a hint can say."""

    name = "boxes"
    levels = (1,)
    form = "an item"

    def draw(self, rng: random.Random, _level: int) -> Parameters:
        """A box with an item that no one is told."""
        return {"box": rng.choice(BOXES), "truth": rng.choice(ITEMS)}

    def ask(self, given: Parameters) -> str:
        """The box."""
        return f"Which item is in box {given['box']}?"

    def solve(self, given: Parameters, _replaced: Mapping[int, str] = NOTHING) -> Solution:
        """Nothing is computed."""
        return Solution((), given["truth"])

    def other(self, given: Parameters, _stage: int, rng: random.Random) -> str:
        """Another item."""
        return rng.choice([item for item in ITEMS if item != given["truth"]])
