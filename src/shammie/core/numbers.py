"""Numbers in running text: digits, scales, percents, fractions, powers of ten and number words, read exactly."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_WORDS = {word: value for value, word in enumerate(_SMALL.split())}
_WORDS |= {word: 10 * tens for tens, word in enumerate(_TENS.split(), 2)}
_SCALES = {"hundred": 100, "dozen": 12, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SUFFIXES = {"k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "bn": 10**9}

_SCALE = "|".join(_SCALES)
_WORD = "|".join([*sorted(_WORDS, key=len, reverse=True), *_SCALES])
_NEGATIVE = r"(?P<sign>(?<![\w)])-|(?i:\b(?:minus|negative)\s+))?"
_DIGITS = re.compile(
    _NEGATIVE + r"(?<![\w^])(?<![^\W\d_]-)"  # no digits of a name: B2, m^2, COVID-19
    r"(?:(?<!/)(?:(?P<whole>\d{1,4})\s+)?(?P<top>\d{1,100})\s?/\s?(?P<bottom>0*[1-9]\d{0,99})(?![/\d])"
    r"|(?P<ten>10)(?:\^|\*\*)(?P<power>[-+]?\d{1,3})(?!\d)"
    r"|(?P<integer>\d{1,3}(?:,\d{3})+|\d{0,100})(?!\d)(?:\.(?P<decimals>\d{1,100})(?!\d)|(?<=\d))"
    r"(?:[eE](?P<exponent>[-+]?\d{1,3})(?!\d)|\s?[x×*]\s?10(?:\^|\*\*)(?P<times>[-+]?\d{1,3})(?!\d))?)"
    rf"(?P<suffix>(?:[kKMB]|bn)\b)?(?P<scales>(?:\s?(?i:{_SCALE})\b)*)(?P<percent>\s?(?:%|(?i:per\s?cent)\b))?"
)
_SPELLED = re.compile(
    rf"\b(?<!no )(?P<sign>(?:minus|negative)\s+)?(?P<words>(?:{_WORD})(?:[\s-]+(?:and\s+)?(?:{_WORD}))*)\b"
    r"(?P<percent>\s?(?:%|per\s?cent\b))?"
)
_SUPERSCRIPT = re.compile(r"[⁺⁻]?[⁰¹²³⁴-⁹]+")
_SPACED_THOUSANDS = re.compile(r"(?<=\d)[\u00a0\u2009\u202f'’](?=\d{3}(?!\d))")


@dataclass(frozen=True)
class Number:
    """A number as written: its value (45% is 45), the worth of its last written digit, and whether it is a percent."""

    value: Fraction
    unit: Fraction
    percent: bool = False

    @property
    def plain(self) -> Fraction:
        """The value as a share of one when it is a percent."""
        return self.value / 100 if self.percent else self.value


def find_numbers(text: str) -> list[Number]:
    """All numbers of a text in order; number words count only where no digits stand."""
    text = _SUPERSCRIPT.sub(lambda found: "^" + found[0], text)
    text = re.sub(r"(?<=\d)(?=[¼-¾⅐-⅞])", " ", text)
    text = unicodedata.normalize("NFKD", _SPACED_THOUSANDS.sub(",", text)).replace("−", "-").replace("⁄", "/")
    found = [_from_digits(match) for match in _DIGITS.finditer(text)]
    return found or [number for match in _SPELLED.finditer(text.casefold()) for number in _from_words(match)]


def _from_digits(match: re.Match[str]) -> Number:
    parts = match.groupdict()
    scale = Fraction(_SUFFIXES.get(parts["suffix"] or "", 1))
    significant = scale
    for word in parts["scales"].casefold().split():
        scale *= _SCALES[word]
        significant *= _SCALES[word] if _SCALES[word] >= 1000 else 1
    if parts["top"]:
        value = int(parts["whole"] or 0) + Fraction(int(parts["top"]), int(parts["bottom"]))
        unit = value / 250  # a fraction has no last digit: 0.333 meets 1/3, 0.33 does not
    elif parts["ten"]:
        value = unit = Fraction(10) ** int(parts["power"])
    else:
        decimals = parts["decimals"] or ""
        power = Fraction(10) ** int(parts["exponent"] or parts["times"] or 0)
        unit = power / 10 ** len(decimals)
        value = int(parts["integer"].replace(",", "") + decimals) * unit
    sign = -1 if parts["sign"] else 1
    return Number(sign * value * scale, unit * significant, bool(parts["percent"]))


def _from_words(match: re.Match[str]) -> list[Number]:
    """Numbers of a run of number words; a word that cannot go on the number before it starts another."""
    numbers, total, group, last = [], 0, 0, 1
    sign, percent = -1 if match["sign"] else 1, bool(match["percent"])
    words = [word for word in re.split(r"[\s-]+", match["words"]) if word != "and"]
    for index, word in enumerate(words):
        if word in _SCALES and _SCALES[word] < 1000:
            group, last = max(group, 1) * _SCALES[word], 1
        elif word in _SCALES:
            total, group, last = total + max(group, 1) * _SCALES[word], 0, _SCALES[word]
        else:
            value, tail = _WORDS[word], group % 100
            goes_on = (tail == 0 and group > 0) or (tail >= 20 and tail % 10 == 0 and value < 10)
            if index and last == 1 and not goes_on:
                numbers.append(Number(Fraction(sign * (total + group)), Fraction(1), percent))
                total, group = 0, 0
            group, last = group + value, 1
    return [*numbers, Number(Fraction(sign * (total + group)), Fraction(last), percent)]
