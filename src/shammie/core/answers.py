"""Answer matching: when a model's text counts as one of the accepted answers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from shammie.core.errors import DataError, ShammieError
from shammie.core.numbers import Number, find_numbers

Kind = Literal["text", "number", "exact"]

# Scripts written without spaces between words, and Hangul, whose particles are glued on: matched as substrings.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
_TOKEN = re.compile(f"[{_UNSPACED}]|[^ {_UNSPACED}]+")
_ACCENT = re.compile("[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u064b-\u065f\u0670]")
_LETTERS = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ħ": "h", "ı": "i", "æ": "ae", "œ": "oe", "ð": "d", "þ": "th", "−": "-"}
)
_LETTER = r"[^\W\d_]"
_PUNCTUATION = re.compile(
    rf"(?P<joined>['’‘ʼ`]|(?<=\d),(?=\d{{3}}(?!\d))"  # O'Brien, 1,000
    rf"|(?<=\b{_LETTER})\.(?={_LETTER}\b)|(?<=\b{_LETTER})\.\s(?={_LETTER}\.))"  # U.S., J. K. Rowling
    rf"|(?P<kept>(?<=\d)\.(?=\d)|(?<!\w)\.(?=\d)|(?<!\w)-(?=\.?\d)|(?<={_LETTER})[+#]+(?!\w))"  # 3.5, -5, C++
    r"|[^\w\s]|_"
)
_ARTICLE = re.compile(r"(?<!\S)(?:a|an|the) (?=\S)")


def _replace_punctuation(match: re.Match[str]) -> str:
    if match["kept"]:
        return match[0]
    category = unicodedata.category(match[0][0])
    if category[0] == "M":  # vowel signs and the like belong to their letters
        return match[0]
    return "" if match["joined"] or category == "Cf" else " "


@lru_cache(maxsize=65_536)
def normalize(text: str) -> str:
    """Give the form in which answers are compared.

    Lower case, compatibility forms folded (NFKD), accents off Latin, Greek, Cyrillic, Hebrew and Arabic letters (marks
    that make another letter in other scripts stay), punctuation and symbols dropped except within numbers and names
    such as C++, dotted initials joined (U.S. -> us), English articles dropped unless last, spaces collapsed. A text of
    symbols alone is kept as it is.
    """
    folded = _ACCENT.sub("", unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold()))
    words = " ".join(_PUNCTUATION.sub(_replace_punctuation, folded.translate(_LETTERS)).split())
    return unicodedata.normalize("NFC", _ARTICLE.sub("", words)) or " ".join(text.casefold().split())


def _accepted(aliases: Sequence[str]) -> list[str]:
    """Check the accepted answers: at least one that is not blank."""
    names = [alias for alias in ([aliases] if isinstance(aliases, str) else aliases) if alias.strip()]
    if not names:
        raise DataError("the list of accepted answers is empty; give at least one alias that is not blank")
    return names


def exact_match(answer: str | None, aliases: Sequence[str]) -> bool:
    """Success: the whole normalized answer equals a normalized alias. Empty or None never succeeds."""
    accepted = {normalize(alias) for alias in _accepted(aliases)}
    return answer is not None and normalize(answer) in accepted


@lru_cache(maxsize=65_536)
def _whole_words(alias: str) -> re.Pattern[str]:
    """Pattern of a normalized alias; its ends may not touch another word character of a script with spaces."""
    spaced = re.compile(f"[^{_UNSPACED}]")
    before = f"(?<![^ {_UNSPACED}])" if spaced.match(alias[0]) else ""
    after = f"(?![^ {_UNSPACED}])" if spaced.match(alias[-1]) else ""
    return re.compile(before + re.escape(alias) + after)


def contains_match(answer: str | None, aliases: Sequence[str], max_words: int | None = None) -> bool:
    """Success: a normalized alias occurs in the normalized answer as whole words ("US" never inside "bus").

    In scripts without spaces (Chinese, Japanese, Thai, ...) and in Korean any substring counts. `max_words` fails
    longer answers, so that a list of guesses does not win; a character of such a script counts as a word. Negation is
    not understood: "not Paris" contains Paris.
    """
    accepted = _accepted(aliases)
    if not answer or not answer.strip():
        return False
    text = normalize(answer)
    if max_words is not None and len(_TOKEN.findall(text)) > max_words:
        return False
    return any(_whole_words(normalize(alias)).search(text) for alias in accepted)


def _only_number(text: str) -> Number | None:
    """The number of a text that states one value, however often; None for no number, a range or a list."""
    numbers = find_numbers(text)
    return numbers[0] if len({number.plain for number in numbers}) == 1 else None


def _agree(answer: Number, gold: Number, tolerance: float | None) -> bool:
    readings = [(answer.plain, gold.plain, gold.unit / 100 if gold.percent else gold.unit)]
    if answer.percent != gold.percent:  # "45" for "45%"
        readings.append((answer.value, gold.value, gold.unit))
    if tolerance is not None:
        return any(abs(said - true) <= tolerance * abs(true) for said, true, _ in readings)
    return any(said == true or abs(said - true) < min(unit / 2, abs(true) / 20) for said, true, unit in readings)


def number_match(answer: str | None, aliases: Sequence[str], tolerance: float | None = None) -> bool:
    """Success: the answer states one value, and it agrees with an alias to the alias's last written digit.

    Agreement is within half of that digit and within 5 % (3.46 million meets "3.5 million", 41.7 meets 42, 2.4 does not
    meet 2); zeros at the end of a whole number count as written (1,001 does not meet 1,000); a fraction is met within
    0.2 %. `tolerance` sets a relative bound in place of all this. Read: thousands separators, decimals, signs, percents
    (45%, 0.45 and 45 meet 45%), 1.2e5, 3 × 10^8, 1/2, 1½, k, M, bn, million. Units and words around are ignored, number
    words (forty-two) too; two different values (a range, a list of guesses) fail. A DataError when no alias states one
    number.
    """
    if tolerance is not None and not tolerance >= 0:
        raise ShammieError(f"a relative tolerance must be at least 0, but is {tolerance}")
    golds = [number for alias in _accepted(aliases) if (number := _only_number(alias))]
    if not golds:
        raise DataError(f"no accepted answer in {list(aliases)!r} states one number; use the kind 'text'")
    said = _only_number(answer or "")
    return said is not None and any(_agree(said, gold, tolerance) for gold in golds)


def match(answer: str | None, aliases: Sequence[str], kind: Kind = "text") -> bool:
    """Whether an answer is correct: "text" is `contains_match`, "exact" `exact_match`, "number" `number_match`."""
    matchers = {"text": contains_match, "exact": exact_match, "number": number_match}
    if kind not in matchers:
        raise ShammieError(f"answer kind {kind!r} is not one of {', '.join(matchers)}")
    return matchers[kind](answer, aliases)


def first_line(text: str) -> str:
    """Text up to the first line break, leading blank lines skipped."""
    return next(iter(text.strip().splitlines()), "").strip()
