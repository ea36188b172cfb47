"""Sentences about things of known kinds, written for this project: what regions can be held against without labels in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONCEPTS: dict[str, tuple[str, ...]] = {
    "weekday": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "month": (
        "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
        "December",
    ),
    "number": ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    "place": (
        "Paris", "London", "Berlin", "Rome", "Madrid", "Tokyo", "Beijing", "Moscow", "Cairo", "Chicago", "Boston", "Sydney",
    ),
    "colour": ("red", "blue", "green", "yellow", "white", "black", "brown", "orange", "purple", "pink"),
    "animal": ("dog", "cat", "horse", "cow", "sheep", "lion", "bear", "wolf", "mouse", "bird", "fish", "snake"),
}  # fmt: skip
_COORDINATES = (  # longitude and latitude of the places
    (2, 49), (0, 52), (13, 52), (12, 42), (-4, 40), (140, 36), (116, 40), (38, 56), (31, 30), (-88, 42), (-71, 42), (151, -34),
)  # fmt: skip
_SENTENCES: dict[str, tuple[str, ...]] = {
    "weekday": (
        "The committee will meet again on {} to settle the matter", "We spoke on the phone late last {} and agreed",
        "Nobody in the office expected the letter to come on {} at all", "The shop near the station is closed every {} morning",
    ),
    "month": (
        "The bridge was opened to the public in {} after a long delay", "They plan to move to the new house next {} or later",
        "The weather in that valley is mild in {} and the days are calm", "The old school was rebuilt between {} and the winter",
    ),
    "number": (
        "The farmer counted exactly {} boxes in the barn today", "It took the team about {} years to finish the work",
        "She has lived there with her {} brothers since the war", "The report names only {} reasons for the decline",
    ),
    "place": (
        "The young painter moved to {} and stayed for many years", "The train from {} was late because of the snow",
        "A famous museum in {} has bought the picture for itself", "The company opened a second office in {} that year",
    ),
    "colour": (
        "The door of the house was painted {} by the new owner", "He wore a long {} coat and carried an umbrella",
        "She chose the {} one because it was easy to see", "The flag of the club is {} with a narrow border",
    ),
    "animal": (
        "In the evening the {} came out of the wood to drink", "The child drew a picture of a {} on the wall",
        "Nobody had seen a {} in this part of the country", "The old man feeds the {} before he goes to bed",
    ),
}  # fmt: skip


def _circle(period: int) -> list[tuple[float, float]]:
    return [(math.cos(2 * math.pi * i / period), math.sin(2 * math.pi * i / period)) for i in range(period)]


PLANES: dict[str, Sequence[tuple[float, float]]] = {
    "weekday": _circle(7), "month": _circle(12), "number": [(n, (n - 6.5) ** 2) for n in range(1, 13)], "place": _COORDINATES,
}  # fmt: skip
"""Where the things of a kind lie if its geometry is known: on a circle, on a curve (line and bend), on the map."""


@dataclass(frozen=True)
class Mention:
    """A sentence that names a thing of a kind; `index` is its place among its kind."""

    text: str
    part: str
    kind: str
    index: int
    template: int


def mentions(kinds: tuple[str, ...] = tuple(CONCEPTS)) -> list[Mention]:
    """Every thing in every sentence of its kind."""
    return [
        Mention(sentence.format(thing), thing, kind, index, number)
        for kind in kinds
        for number, sentence in enumerate(_SENTENCES[kind])
        for index, thing in enumerate(CONCEPTS[kind])
    ]
