"""Finds the sentence that states a stage: its value as a result, with the operands that make it this stage's."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from shammie.bonafide.tasks.base import Stage

_LEADS = (
    "is|are|was|be|get|gets|got|gives?|giving|becomes?|becoming|equals?|equal to|yields?|yielding|makes?|to|into|have|has|rating|"
    "leaves?|leaving|obtains?|finds?|reach|reaches|results? in|count(?:s| of)?|at"
)
_BETWEEN = (
    "now|then|just|exactly|therefore|thus|so|again|the|a|number|value|string|word|of|mod|new|rating|be|in|total|station|orbit|house|"
    "shelf|node|chamber|stop"
)
_RESULT = re.compile(rf"(?:[=≈≡→]|->|=>|\b(?:{_LEADS}))(?:\s+(?:{_BETWEEN}))*\s*[\"'(\[*]*\s*$", re.IGNORECASE)
_NAMED = re.compile(r":\s*[\"'(\[*]*\s*$")  # a result only where the sentence ends with it
_DOUBT = re.compile(
    r"\b(?:not|no|never|cannot|isn't|aren't|wasn't|doesn't|don't|didn't|won't|wrong|incorrect|mistake|instead|rather|if|unless|suppose|"
    r"assume|assuming|maybe|perhaps|might|may|could|would|should|guess|say|or|except|otherwise)\b|n't\b|\?",
    re.IGNORECASE,
)


def plain(text: str) -> str:
    """Text with one sort of digits, signs and blanks, no thousands' commas, in small letters."""
    text = unicodedata.normalize("NFKC", text).replace("−", "-").replace("×", "*").replace("⟶", "->")
    text = text.replace("\\times", "*").replace("\\cdot", "*").replace("·", "*").replace("\\rightarrow", "->")
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    return " ".join(text.casefold().split())


def states(sentence: str, stage: Stage) -> str:
    """The piece of a sentence that states a stage, empty where it does not, or not for certain.

    The value stands where a result stands, all operands of one group stand elsewhere in the sentence, no rival does, and nothing
    in the sentence denies it or leaves it open.
    """
    text = plain(sentence)
    if _DOUBT.search(_without(text, stage.operands)) or any(places(text, rival) for rival in stage.rivals):
        return ""
    value = plain(stage.stated or stage.value)
    for start, end in places(text, value):
        named = _NAMED.search(text[:start]) and not text[end:].strip(" .!*)]\"'")
        if (named or _RESULT.search(text[:start])) and any(
            _beside(text, group, start, end) for group in stage.operands
        ):
            return text
    return ""


def _without(text: str, operands: Sequence[Sequence[str]]) -> str:
    """A text without the expressions among operands, which may hold words such as `if`."""
    found = {plain(operand) for group in operands for operand in group if "(" in operand}
    for operand in sorted(found, key=len, reverse=True):
        text = text.replace(operand, " ")
    return text


def names(text: str, value: str) -> bool:
    """Whether a value occurs anywhere, as a whole."""
    return bool(places(plain(text), plain(value)))


def places(text: str, token: str) -> list[tuple[int, int]]:
    """Where a token stands as a whole: 28 is not in 128, 28.5 or 2,800; symbols are found with or without blanks."""
    token = plain(token)
    if re.fullmatch(r"[\w .]+", token):
        number = re.fullmatch(r"\d+(?:\.\d+)?", token)
        before, after = (r"(?<![\w.])", r"(?!\w)(?!\.\d)") if number else (r"(?<!\w)", r"(?!\w)")
        return [found.span() for found in re.finditer(before + re.escape(token) + after, text)]
    pattern = r"\s*".join(re.escape(char) for char in token if not char.isspace())
    return [found.span() for found in re.finditer(rf"(?<!\w){pattern}(?!\w)", text)]


def _beside(text: str, group: Sequence[str], start: int, end: int) -> bool:
    """Whether all of a group stand in a text outside of a stretch."""
    return all(any(b <= start or a >= end for a, b in places(text, operand)) for operand in group)
