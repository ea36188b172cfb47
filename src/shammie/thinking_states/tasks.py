"""Tasks whose steps are known: the state of a coin, variables, relations of a fictional world, stories of numbers."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from shammie.core.errors import ShammieError
from shammie.thinking_states.problems import ANSWER, STEPS, Problem, Step

NAMES = ("Ann", "Ben", "Cleo", "Dan", "Eve", "Finn")
MODULUS, VARIABLES = 10, ("a", "b", "c")
ENTITIES, RELATIONS = 60, ("boss", "friend", "mother", "teacher", "neighbour", "doctor")
HELD_OUT = 5  # of the compositions of two relations one in so many is never trained on
ITEMS, MOST = ("apples", "books", "coins"), 12  # a person owns at most so many, so that all sums occur often


@dataclass(frozen=True)
class Task:
    """Draws problems of a length; `words` are all that occur in them."""

    draw: Callable[[random.Random, int, bool], Problem]
    """(random numbers, length, whether it is for testing)."""
    words: tuple[str, ...]
    lengths: bool
    """Whether problems have a length beyond which one can test."""

    def problem(self, seed: int, index: int, longest: int, *, shortest: int = 1, test: bool = False) -> Problem:
        """A problem by number: a function of its arguments alone. Training and test problems are drawn apart."""
        draw = random.Random(f"{seed}/{index}/{'test' if test else 'train'}/{shortest}/{longest}")
        return self.draw(draw, draw.randint(shortest, longest), test)


class _Text:
    """A question being written, with steps at the place where they can be known."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.steps: list[Step] = []

    def say(self, text: str) -> None:
        self.words.append(text)

    def know(self, text: str) -> None:
        self.steps.append(Step(text, len(" ".join(self.words))))

    def problem(self, answer: str, length: int, group: str = "") -> Problem:
        return Problem(" ".join(self.words), tuple(self.steps), answer, length, group)


def parity(draw: random.Random, length: int, _test: bool) -> Problem:
    """A coin that is flipped or not; two people take turns. Sentences differ in length, so that chunks meet them everywhere."""
    text, heads = _Text(), True
    text.say("The coin shows heads .")
    for number in range(length):
        name = NAMES[number % 2]
        if flips := draw.random() < 0.5:
            text.say(f"{name} flips it .")
        else:
            text.say(f"{name} does not flip it .")
        heads ^= flips
        text.know("heads" if heads else "tails")
    return text.problem("heads" if heads else "tails", length)


def variables(draw: random.Random, length: int, _test: bool) -> Problem:
    """Three variables modulo ten, changed by sums and differences; the thought is the value of all of them."""
    text = _Text()
    values = {name: draw.randrange(MODULUS) for name in VARIABLES}
    text.say(" ".join(f"{name} = {value} ." for name, value in values.items()))
    text.know(" ".join(str(value) for value in values.values()))
    for _ in range(length):
        name, one, two = (draw.choice(VARIABLES) for _ in range(3))
        number, kind = draw.randrange(MODULUS), draw.randrange(4)
        sign = draw.choice("+-")
        right = (f"{number}", f"{one}", f"{one} {sign} {two}", f"{one} {sign} {number}")[kind]
        second = values[two] if kind == 2 else number
        values[name] = (
            (number, values[one])[kind] if kind < 2 else values[one] + (second if sign == "+" else -second)
        ) % MODULUS
        text.say(f"{name} = {right} .")
        text.know(" ".join(str(value) for value in values.values()))
    asked = draw.choice(VARIABLES)
    text.say(f"{asked} ?")
    return text.problem(str(values[asked]), length, asked)


def entity(number: int) -> str:
    """The name of an entity of the fictional world."""
    return f"Nam{number}"


def related(number: int, relation: int) -> int:
    """Whose boss, friend or mother an entity has, by a fixed draw."""
    return random.Random(f"world/{number}/{relation}").randrange(ENTITIES)


def held_out(number: int, first: int, second: int) -> bool:
    """Whether a question of two relations is kept for testing."""
    return random.Random(f"held/{number}/{first}/{second}").randrange(HELD_OUT) == 0


def hops(draw: random.Random, _length: int, test: bool) -> Problem:
    """Whose relation's relation: single facts are trained on, some of their compositions only tested."""
    while True:
        number, first, second = (draw.randrange(n) for n in (ENTITIES, len(RELATIONS), len(RELATIONS)))
        if not test and draw.random() < 0.5:
            text = _Text()
            text.say(f"{entity(number)} 's {RELATIONS[first]} ?")
            return text.problem(entity(related(number, first)), 1)
        if held_out(number, first, second) == test:
            break
    bridge, text = related(number, first), _Text()
    text.say(f"{entity(number)} 's {RELATIONS[first]}")
    text.know(entity(bridge))
    text.say(f"'s {RELATIONS[second]} ?")
    return text.problem(entity(related(bridge, second)), 2, RELATIONS[second])


def stories(draw: random.Random, length: int, _test: bool) -> Problem:
    """Who has how many: some events between two people, each with one or two sums, then a question."""
    one, two = draw.sample(NAMES, 2)
    item, text = draw.choice(ITEMS), _Text()
    owned = {one: draw.randint(2, MOST // 2), two: draw.randint(2, MOST // 2)}
    for name, count in owned.items():
        text.say(f"{name} has {count} {item} .")
    for _ in range(length):
        _event(draw, text, owned, item)
    if draw.random() < 0.3:
        total = sum(owned.values())
        text.say(f"How many {item} do they have together ?")
        text.know(f"{owned[one]} + {owned[two]} = {total} ;")
        return text.problem(str(total), length, "together")
    asked = draw.choice((one, two))
    text.say(f"How many {item} does {asked} have ?")
    return text.problem(str(owned[asked]), length, "first" if asked == one else "second")


def _event(draw: random.Random, text: _Text, owned: dict[str, int], item: str) -> None:
    name = draw.choice(list(owned))
    other = next(person for person in owned if person != name)
    kind = draw.choice(("buys", "gives", "loses", "doubles"))
    bags, each, count = draw.randint(2, 3), draw.randint(2, 3), draw.randint(1, max(1, owned[name] - 1))
    fits = {
        "buys": owned[name] + bags * each, "gives": owned[other] + count, "loses": 0, "doubles": 2 * owned[name],
    }[kind] <= MOST  # fmt: skip
    if kind == "doubles" and fits:
        text.say(f"{name} finds as many {item} again .")
        _sum(text, owned, name, "+", owned[name])
    elif kind in ("gives", "loses") and fits and owned[name] > 2:
        text.say(f"{name} gives {count} {item} to {other} ." if kind == "gives" else f"{name} loses {count} {item} .")
        _sum(text, owned, name, "-", count)
        if kind == "gives":
            _sum(text, owned, other, "+", count)
    elif kind == "buys" and fits:
        text.say(f"{name} buys {bags} bags with {each} {item} each .")
        text.know(f"{bags} * {each} = {bags * each} ;")
        _sum(text, owned, name, "+", bags * each)
    else:
        text.say(f"{name} counts the {item} .")


def _sum(text: _Text, owned: dict[str, int], name: str, sign: str, count: int) -> None:
    before = owned[name]
    owned[name] = before + count if sign == "+" else before - count
    text.know(f"{name} {before} {sign} {count} = {owned[name]} ;")


def _words(*texts: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(" ".join([STEPS, ANSWER, *texts]).split()))


TASKS: dict[str, Task] = {
    "parity": Task(parity, _words("The coin shows heads tails . flips does not flip it", *NAMES[:2]), True),
    "variables": Task(variables, _words(*VARIABLES, "= + - . ?", *map(str, range(MODULUS))), True),
    "hops": Task(hops, _words("'s ?", *RELATIONS, *map(entity, range(ENTITIES))), False),
    "stories": Task(
        stories,
        _words(
            *NAMES, *ITEMS, "has . buys bags with each gives to loses finds as many again counts the How do they have together",
            "does ? + - * = ;", *map(str, range(2 * MOST + 1)),
        ),
        True,
    ),
}  # fmt: skip


def task_named(name: str) -> Task:
    """A task by name. Errors: ShammieError, naming those there are."""
    if name not in TASKS:
        raise ShammieError(f"no task {name!r}; there are {', '.join(TASKS)}, or give a .jsonl file")
    return TASKS[name]
