"""Axes with round ticks, and colour ramps in OKLab whose every level has a text colour legible on it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shammie.core.errors import DataError
from shammie.report.numerals import short

LEVELS = 65
"""Steps of a colour ramp: finer than the eye, and class names stay short."""

_RAMPS = {
    # Light theme: paper to ink, low values recede. Dark theme: night to light, so that high values glow there.
    ("q", "light"): ("#f3f1ea", "#cfe2df", "#86bcc6", "#3f86b3", "#23539a", "#1b2a66"),
    ("q", "dark"): ("#20242b", "#1f3a55", "#1f6187", "#2f93a6", "#7fcbb0", "#eef6c8"),
    # Blue to orange: told apart in every common form of colour blindness.
    ("d", "light"): ("#173f7d", "#3f7fc0", "#a5c8e4", "#f3f1ea", "#f2bd94", "#d1702f", "#8a3206"),
    ("d", "dark"): ("#a9d2ff", "#4f92d6", "#254b78", "#20242b", "#74401f", "#d27a3d", "#ffc79b"),
}
_PREFIX = {"sequential": "q", "diverging": "d"}


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic scale from data to fractions of the plot, with its round ticks."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def at(self, value: float) -> float:
        """Fraction of the plot at which a value lies, clipped to the plot."""
        if self.log:
            span = math.log(self.high) - math.log(self.low)
            fraction = (math.log(value) - math.log(self.low)) / span
        else:
            fraction = (value - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, fraction))


def axis(
    values: Iterable[float],
    name: str,
    *,
    log: bool = False,
    limits: tuple[float, float] | None = None,
    padded: bool = False,
) -> Axis:
    """Choose the scale for some finite values.

    Args:
        values: all that must be visible; may be empty when limits are given.
        name: the axis in words, for errors.
        log: logarithmic; then every value must be above zero.
        limits: fixed ends; otherwise round numbers around the values.
        padded: end a little beyond the values rather than at round numbers.

    Raises:
        DataError: a value that a logarithmic axis cannot show, or limits upside down.
    """
    known = list(values)
    if limits is not None and not (limits[0] < limits[1] and all(map(math.isfinite, limits))):
        raise DataError(f"The limits {limits} of axis {name!r} are not two finite numbers in rising order.")
    low, high = limits or ((min(known), max(known)) if known else (0.0, 1.0))
    if max(abs(low), abs(high)) > 1e100:
        raise DataError(f"Axis {name!r} would reach {max(low, high, key=abs):.3g}: plot its logarithm instead.")
    if log:
        if low < 1e-100:
            raise DataError(
                f"Axis {name!r} is logarithmic and cannot show {low:g}: drop values that are not above zero."
            )
        return _logarithmic(low, high, fixed_ends=limits is not None)
    if padded and limits is None and high > low:
        margin = 0.05 * (high - low)
        low, high = low - margin, high + margin
    return _linear(low, high, fixed_ends=limits is not None or padded)


def _linear(low: float, high: float, *, fixed_ends: bool) -> Axis:
    size = max(abs(low), abs(high))
    if high - low <= max(1e-9 * size, 1e-100):
        margin = 0.5 * size if size > 1e-9 else 0.5
        low, high = low - margin, high + margin
    step = _round_step((high - low) / 5)
    first, last = low / step, high / step
    begin, end = (
        (math.ceil(first - 1e-9), math.floor(last + 1e-9))
        if fixed_ends
        else (math.floor(first + 1e-9), math.ceil(last - 1e-9))
    )
    ticks = tuple((index * step, short(round(index * step, 12) + 0.0, step)) for index in range(begin, end + 1))
    return Axis(low, high, ticks) if fixed_ends else Axis(begin * step, end * step, ticks)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(multiple * power for multiple in (1, 2, 2.5, 5, 10) if multiple * power >= rough * (1 - 1e-9))


def _logarithmic(low: float, high: float, *, fixed_ends: bool) -> Axis:
    if high / low < 1.0001:
        low, high = low / 2, high * 2
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    stride = max(1, math.ceil((last - first) / 6))
    multiples = (1, 2, 5) if last - first <= 2 else (1,)
    marks = [m * 10.0**power for power in range(first, last + 1, stride) for m in multiples]
    if not fixed_ends:
        margin = (high / low) ** 0.04
        low, high = low / margin, high * margin
    inside = [mark for mark in marks if low * (1 - 1e-9) <= mark <= high * (1 + 1e-9)]
    if len(inside) < 2:
        straight = _linear(low, high, fixed_ends=True)
        return Axis(low, high, tuple(tick for tick in straight.ticks if tick[0] > 0), log=True)
    return Axis(low, high, tuple((mark, short(mark)) for mark in inside), log=True)


def level_class(scale: str, fraction: float) -> str:
    """The CSS class that paints a fraction of a ramp, for example `q12` or `d20`."""
    if scale not in _PREFIX:
        raise DataError(f"Colour scale {scale!r} does not exist: choose sequential or diverging.")
    return f"{_PREFIX[scale]}{round(min(1.0, max(0.0, fraction)) * (LEVELS - 1))}"


def ramp(prefix: str, theme: str) -> list[str]:
    """The LEVELS colours of a ramp (`q` or `d`) in a theme (`light` or `dark`) as #rrggbb."""
    stops = [_to_oklab(stop) for stop in _RAMPS[prefix, theme]]
    colours = []
    for level in range(LEVELS):
        place = level / (LEVELS - 1) * (len(stops) - 1)
        index = min(int(place), len(stops) - 2)
        part = place - index
        mixed = [a + (b - a) * part for a, b in zip(stops[index], stops[index + 1], strict=True)]
        colours.append(_to_hex(mixed))
    return colours


def ink_on(colour: str) -> str:
    """Black or white, whichever contrasts more with the colour; at least 4.58 to 1 on any."""
    return "#000" if contrast(colour, "#000000") >= contrast(colour, "#ffffff") else "#fff"


def contrast(one: str, other: str) -> float:
    """WCAG contrast ratio of two #rrggbb colours, from 1 to 21."""
    bright, dim = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def ramp_css(theme: str) -> str:
    """The rules that paint every level of both ramps in a theme, and the gradients of their legends."""
    rules = []
    for prefix in ("q", "d"):
        colours = ramp(prefix, theme)
        rules += [f".{prefix}{i}{{background:{c};color:{ink_on(c)}}}" for i, c in enumerate(colours)]
        rules.append(f".ramp-{prefix}{{background:linear-gradient(90deg,{','.join(colours[::8])})}}")
    return "".join(rules)


def ramp_prefix(scale: str) -> str:
    """The class prefix of a ramp: `q` for sequential, `d` for diverging."""
    return _PREFIX[scale]


def _linear_light(colour: str) -> list[float]:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]


def _luminance(colour: str) -> float:
    red, green, blue = _linear_light(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _to_oklab(colour: str) -> list[float]:
    """Björn Ottosson's OKLab, in which a straight line between two colours looks even."""
    r, g, b = _linear_light(colour)
    lms = [
        (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b) ** (1 / 3),
        (0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b) ** (1 / 3),
        (0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b) ** (1 / 3),
    ]
    return [
        _dot((0.2104542553, 0.7936177850, -0.0040720468), lms),
        _dot((1.9779984951, -2.4285922050, 0.4505937099), lms),
        _dot((0.0259040371, 0.7827717662, -0.8086757660), lms),
    ]


def _to_hex(lab: Sequence[float]) -> str:
    lms = [
        _dot((1, 0.3963377774, 0.2158037573), lab) ** 3,
        _dot((1, -0.1055613458, -0.0638541728), lab) ** 3,
        _dot((1, -0.0894841775, -1.2914855480), lab) ** 3,
    ]
    light = [
        _dot((4.0767416621, -3.3077115913, 0.2309699292), lms),
        _dot((-1.2684380046, 2.6097574011, -0.3413193965), lms),
        _dot((-0.0041960863, -0.7034186147, 1.7076147010), lms),
    ]
    channels = [min(1.0, max(0.0, c)) for c in light]
    encoded = [12.92 * c if c <= 0.0031308 else 1.055 * c ** (1 / 2.4) - 0.055 for c in channels]
    return "#" + "".join(f"{round(255 * c):02x}" for c in encoded)


def _dot(row: Sequence[float], column: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(row, column, strict=True))
