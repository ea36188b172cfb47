"""Numbers in running text: digits, scales, percents, fractions and powers of ten, read exactly."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

_SCALES = {"hundred": 100, "dozen": 12, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SUFFIXES = {"k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "bn": 10**9}

_SCALE = "|".join(_SCALES)
_NEGATIVE = r"(?P<sign>(?<![\w)])-|(?i:\b(?:minus|negative)\s+))?"
_DIGITS = re.compile(
    _NEGATIVE + r"(?<![\w^])(?<![^\W\d_]-)"  # no digits of a name: B2, m^2, COVID-19
    r"(?:(?<!/)(?:(?P<whole>\d{1,4})\s+)?(?P<top>\d{1,100})\s?/\s?(?P<bottom>0*[1-9]\d{0,99})(?![/\d])"
    r"|(?P<ten>10)(?:\^|\*\*)(?P<power>[-+]?\d{1,3})(?!\d)"
    r"|(?P<integer>\d{1,3}(?:,\d{3})+|\d{0,100})(?!\d)(?:\.(?P<decimals>\d{1,100})(?!\d)|(?<=\d))"
    r"(?:[eE](?P<exponent>[-+]?\d{1,3})(?!\d)|\s?[x×*]\s?10(?:\^|\*\*)(?P<times>[-+]?\d{1,3})(?!\d))?)"
    rf"(?P<suffix>(?:[kKMB]|bn)\b)?(?P<scales>(?:\s?(?i:{_SCALE})\b)*)(?P<percent>\s?(?:%|(?i:per\s?cent)\b))?"
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
    """All numbers written with digits in a text, in order."""
    text = _SUPERSCRIPT.sub(lambda found: "^" + found[0], text)
    text = re.sub(r"(?<=\d)(?=[¼-¾⅐-⅞])", " ", text)
    text = unicodedata.normalize("NFKD", _SPACED_THOUSANDS.sub(",", text)).replace("−", "-").replace("⁄", "/")
    return [_from_digits(match) for match in _DIGITS.finditer(text)]


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
