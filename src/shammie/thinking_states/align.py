"""Where in a question each step can first be known: by a rule for sums, or by a judge that marks the places."""

from __future__ import annotations

import re
from collections.abc import Sequence

from shammie.core.judge import Completer
from shammie.thinking_states.problems import Problem, Step

_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
_NAMED = {**{word: float(n) for n, word in enumerate(_WORDS)}, "dozen": 12.0, "half": 0.5, "twice": 2.0, "double": 2.0}
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?|\.\d+|" + "|".join(rf"\b{word}\b" for word in _NAMED), re.IGNORECASE)
_KNOWN = {1, 2, 3, 4, 7, 10, 12, 24, 30, 52, 60, 100, 365, 1000, 0.5, 0.25, 0.1, 0.01}
"""Numbers that a step may bring with it: minutes, days, weeks, parts of a hundred."""
_MARK = re.compile(r"\s?\[(\d+)\]")
PROMPT = (
    "Below are a question and numbered steps of its solution. Copy the question word for word, and after the earliest place at "
    "which a step can be worked out write its number in square brackets, in order: [1], [2] and so on. Write nothing else.\n\n"
    "Question: {question}\n\nSteps:\n{steps}\n\nMarked question:"
)


def numbers(text: str) -> list[tuple[float, int]]:
    """Every number of a text, in digits or words, and the character behind it."""
    found = []
    for match in _NUMBER.finditer(text):
        word = match[0].lower()
        found.append((_NAMED[word] if word in _NAMED else float(word.replace(",", "")), match.end()))
    return found


def aligned(question: str, steps: Sequence[str]) -> tuple[Step, ...] | str:
    """Steps `a op b = r` at the earliest place where all their numbers are known, in order; or why that cannot be said.

    A number is known from where the question first names it, or from the step that made it. One that is neither, nor a number
    that anybody knows, comes from the whole question.
    """
    named: dict[float, int] = {}
    for value, at in numbers(question):
        named.setdefault(value, at)
    made: dict[float, int] = {}
    found, reached = [], 0
    for step in steps:
        left, equals, right = step.partition("=")
        result, used = numbers(right), numbers(left)
        if not equals or not result or not used:
            return f"the step {step!r} is no sum with its result"
        for value, _ in used:
            known = [places[value] for places in (named, made) if value in places]
            reached = max(reached, min(known) if known else 0 if value in _KNOWN else len(question))
        made.setdefault(result[0][0], reached)
        found.append(Step(step, reached))
    return tuple(found)


def marked(question: str, steps: Sequence[str], reply: str) -> tuple[Step, ...] | str:
    """Steps at the places that a reply marks; or why it is not taken: the text was changed, marks are missing or out of order."""
    text, places = reply.strip(), []
    while match := _MARK.search(text):
        places.append((int(match[1]), match.start()))
        text = text[: match.start()] + text[match.end() :]
    if text != question:
        return "the judge changed the question"
    if [number for number, _ in places] != list(range(1, len(steps) + 1)):
        return f"the judge set {len(places)} marks for {len(steps)} steps"
    return tuple(Step(step, at) for step, (_, at) in zip(steps, places, strict=True))


def judged(problems: Sequence[Problem], judge: Completer) -> list[tuple[Step, ...] | str]:
    """The steps of each problem where a judge puts them, or why its reply is not taken (paper: such examples are dropped)."""
    prompts = [
        PROMPT.format(
            question=problem.question, steps="\n".join(f"{n}. {step.text}" for n, step in enumerate(problem.steps, 1))
        )
        for problem in problems
    ]
    return [
        marked(problem.question, [step.text for step in problem.steps], reply)
        for problem, reply in zip(problems, judge.complete(prompts), strict=True)
    ]
