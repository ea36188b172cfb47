"""Figures as people read them: enough digits for the interval, thousands, SI prefixes, a true minus sign."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

from shammie.core.errors import DataError, NonFiniteError


class Number(NamedTuple):
    """A measured figure with its 95 % interval, sample size and, beside it, the control it must be read against."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    control: Number | None = None


def number(label: str, estimate: Mapping[str, Any], control: Number | None = None) -> Number:
    """A recorded estimate {"value", "low", "high", "n"} as a figure under its label, with its control."""
    return Number(label, estimate["value"], estimate["low"], estimate["high"], estimate["n"], control)


def sample(x: float, estimate: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """A recorded estimate as a point of a line chart."""
    return (x, estimate["value"], estimate["low"], estimate["high"])


def as_number(item: Number | Sequence[Any]) -> Number:
    """Check a `Number` or a plain tuple of its fields.

    Raises:
        DataError: fields are missing, not numeric, or the interval is upside down.
        NonFiniteError: the value or a bound is NaN or infinite.
    """
    try:
        number = Number(*item)
    except TypeError:
        raise DataError(
            f"{item!r} is not a number with its doubt: give (label, value, low, high, n, control)."
        ) from None
    for name in ("value", "low", "high"):
        field = getattr(number, name)
        if field is None and name != "value":
            continue
        if not is_number(field):
            raise DataError(f"The {name} of {number.label!r} is {field!r}, not a number: leave the figure out instead.")
        if not math.isfinite(field):
            raise NonFiniteError(
                f"The {name} of {number.label!r} is {field}: measure it on more samples or leave it out."
            )
    if number.low is not None and number.high is not None and number.low > number.high:
        raise DataError(
            f"The interval of {number.label!r} runs from {number.low} down to {number.high}: swap its bounds."
        )
    return number._replace(control=None if number.control is None else as_number(number.control))


def is_number(value: object) -> TypeGuard[int | float]:
    """True for int and float, false for bool and for integers that no float can hold."""
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) < 10**300
    return isinstance(value, float)


def is_estimate(value: object) -> TypeGuard[dict[str, Any]]:
    """True for a record such as {"value": 0.48, "low": 0.41, "high": 0.55, "n": 180}."""
    return isinstance(value, dict) and all(is_number(value.get(key)) for key in ("value", "low", "high"))


def bare_value(value: Any) -> Any:
    """The value alone of an estimate that has no interval, such as one of a single unit; anything else as it is."""
    without = isinstance(value, dict) and is_number(value.get("value")) and {"low", "high"} <= value.keys()
    return value["value"] if without and value["low"] is None else value


def check_finite(value: float, where: str) -> float:
    """Return the value, or raise NonFiniteError naming the place."""
    if not is_number(value):
        raise DataError(f"{where} is {value!r}, not a number: use None for what was not measured.")
    if not math.isfinite(value):
        raise NonFiniteError(f"{where} is {value}: mend the measurement, or use None for what was not measured.")
    return value


def fixed(value: float, decimals: int) -> str:
    """A number with so many decimals, thousands separated from 10,000 up, and a true minus sign."""
    text = f"{abs(value):,.{decimals}f}"
    if abs(value) < 10_000:
        text = text.replace(",", "")
    negative = value < 0 and any(c in "123456789" for c in text)
    return f"−{text}" if negative else text


def plain(value: object) -> str:
    """Any scalar as text: three significant digits for floats, all digits for integers, yes and no for booleans."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        size = f"{abs(value):,}" if abs(value) >= 10_000 else str(abs(value))
        return f"−{size}" if value < 0 else size
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value and not 1e-4 <= abs(value) < 1e9:
        digits, _, exponent = f"{value:.2e}".partition("e")
        return f"{_trim(digits)}e{int(exponent)}".replace("-", "−")
    return _trim(fixed(value, decimals_for(value)))


def _trim(digits: str) -> str:
    """Drop zeros that only pretend to precision."""
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


def decimals_for(value: float) -> int:
    """Decimals that show three significant digits of a value, at most six."""
    if value == 0 or not math.isfinite(value):
        return 2
    return min(6, max(0, 2 - math.floor(math.log10(abs(value)))))


def with_doubt(value: float, low: float | None, high: float | None) -> tuple[str, str]:
    """The value and its interval, both with the digits that the interval's width supports: ("0.48", "[0.41, 0.55]")."""
    if low is None or high is None:
        return plain(value), ""
    width = abs(high - low)
    if not math.isfinite(width + value) or max(abs(low), abs(high), abs(value)) >= 1e9:
        return plain(value), f"[{plain(low)}, {plain(high)}]"
    decimals = 2 if width == 0 else min(6, max(0, math.ceil(0.6 - math.log10(width))))
    if max(abs(low), abs(high), abs(value)) <= 1:
        decimals = max(2, decimals)
    if all(isinstance(bound, int) or float(bound).is_integer() for bound in (value, low, high)) and width >= 1:
        decimals = 0
    return fixed(value, decimals), f"[{fixed(low, decimals)}, {fixed(high, decimals)}]"


def short(value: float, step: float | None = None) -> str:
    """An axis label: 0.25, 40, 20k, 1.5M; with the axis step, all labels of one axis get the same decimals."""
    for size, sign in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= (1e4 if sign == "k" else size):
            scaled = value / size
            if abs(scaled) >= 1e5:
                return f"{value:.0e}".replace("e+", "e").replace("-", "−")
            return fixed(scaled, 0 if scaled == round(scaled) else 1 if scaled * 10 == round(scaled * 10) else 2) + sign
    if step is None:
        if value and abs(value) < 1e-3:
            return f"{value:.0e}".replace("e-0", "e−").replace("e-", "e−").replace("-", "−")
        return f"{value:g}".replace("-", "−")
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if round(step, decimals) != round(step, decimals + 1):
        decimals += 1
    if decimals > 5:
        return "0" if value == 0 else f"{value:.1e}".replace("e-0", "e-").replace("-", "−")
    return fixed(value, decimals)
