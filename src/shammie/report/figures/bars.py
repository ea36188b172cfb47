"""Dots with error bars, each beside the control that it must be read against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shammie.report.figures.scales import Axis, axis
from shammie.report.markup import Markup, element, empty, percent
from shammie.report.numerals import Number, as_number, plain, with_doubt


def whiskers(number: Number) -> Markup:
    """The picture in a headline card: a figure and its control on a scale of their own, 0 to 1 where they fit."""
    values = _extent([number])
    within = all(0 <= value <= 1 for value in values)
    scale = axis([*values, 0.0], number.label, limits=(0.0, 1.0) if within else None)
    ends = [element("line", x1=end, x2=end, y1="30%", y2="70%", class_="tick") for end in ("0%", "100%")]
    base = element("line", x1="0%", x2="100%", y1="50%", y2="50%", class_="grid")
    return element("svg", base, *ends, *_marks(number, scale), width="100%", height="20", aria_hidden="true")


def interval_bars(
    items: Sequence[Number | Sequence[Any]],
    *,
    value_label: str = "",
    limits: tuple[float, float] | None = None,
    reference: float | None = None,
) -> Markup:
    """Draw one row an item: a dot with its interval, the control as a hollow diamond beneath, and both in figures.

    Args:
        items: `Number`s or tuples (label, value, low, high, n, control), drawn from the top.
        value_label: what the axis measures.
        limits: ends of the axis; 0 to 1 when every value lies there, round numbers with zero otherwise.
        reference: a value to mark with a vertical line, such as chance.

    Raises:
        DataError: a malformed item or limits upside down.
        NonFiniteError: a NaN or infinite value; names the item.
    """
    numbers = [as_number(item) for item in items]
    if not numbers:
        return empty(f"No {value_label or 'values'} to compare.")
    values = _extent(numbers) + ([] if reference is None else [reference])
    if limits is None and all(0 <= value <= 1 for value in values):
        limits = (0.0, 1.0)
    scale = axis([*values, 0.0], value_label or "value", limits=limits)
    rows = [_row(number, scale, reference) for number in numbers]
    ticks = [
        element("text", text, x=percent(scale.at(at)), y="14", class_="tick-label", text_anchor="middle")
        for at, text in scale.ticks
    ]
    ruler = element("svg", *ticks, width="100%", height="18", aria_hidden="true")
    foot = element(
        "div",
        element("div", class_="bar-label"),
        element("div", ruler, element("div", value_label, class_="axis-title"), class_="bar-track"),
        element("div", class_="bar-reading"),
        class_="bar-row bar-axis",
        aria_hidden="true",
    )
    parts = [element("div", *rows, foot, class_="bars", role="list", aria_label=value_label or None)]
    controls = dict.fromkeys(number.control.label for number in numbers if number.control is not None)
    if controls:
        signs = [
            _sign("mark-value", "measured, with its interval"),
            _sign("mark-control", "control" if set(controls) == {"control"} else "control: " + ", ".join(controls)),
        ]
        parts.append(element("div", *signs, class_="legend"))
    return element("div", *parts, class_="interval-bars")


def _row(number: Number, scale: Axis, reference: float | None) -> Markup:
    grid = [
        element("line", x1=percent(scale.at(at)), x2=percent(scale.at(at)), y1="0", y2="100%", class_="grid")
        for at, _ in scale.ticks
    ]
    if reference is not None:
        at = percent(scale.at(reference))
        grid.append(element("line", x1=at, x2=at, y1="0", y2="100%", class_="reference"))
    picture = element("svg", *grid, *_marks(number, scale), width="100%", height="100%", aria_hidden="true")
    value, interval = with_doubt(number.value, number.low, number.high)
    doubt = " ".join(part for part in (interval, f"n = {plain(number.n)}" if number.n is not None else "") if part)
    readings = [element("div", element("b", value), " ", element("span", doubt, class_="doubt"))]
    if number.control is not None:
        middle, bounds = with_doubt(number.control.value, number.control.low, number.control.high)
        words = element("span", f"{number.control.label}: ", class_="unseen")
        readings.append(element("div", words, f"{middle} {bounds}".strip(), class_="bar-control"))
    return element(
        "div",
        element("div", number.label, class_="bar-label"),
        element("div", picture, class_="bar-track"),
        element("div", *readings, class_="bar-reading nums"),
        class_="bar-row",
        role="listitem",
    )


def _marks(number: Number, scale: Axis) -> list[Markup]:
    """The control behind and below, the value in front, in percentages so that they stretch and text does not."""
    marks = []
    middle, below = ("50%", "") if number.control is None else ("36%", "70%")
    if number.control is not None:
        marks.append(_whisker(number.control, scale, below, "control"))
        diamond = element("path", d="M0-4.6 4.6 0 0 4.6-4.6 0z", class_="control-dot")
        at = percent(scale.at(number.control.value))
        marks.append(element("svg", diamond, x=at, y=below, overflow="visible"))
    marks.append(_whisker(number, scale, middle, "value"))
    marks.append(element("circle", cx=percent(scale.at(number.value)), cy=middle, r="5", class_="value-dot"))
    return marks


def _whisker(number: Number, scale: Axis, y: str, kind: str) -> Markup:
    if number.low is None or number.high is None:
        return Markup()
    low, high = percent(scale.at(number.low)), percent(scale.at(number.high))
    return element("line", x1=low, x2=high, y1=y, y2=y, class_=f"{kind}-range")


def _sign(css: str, text: str) -> Markup:
    return element("span", element("i", class_=css, aria_hidden="true"), text, class_="legend-sign")


def _extent(numbers: Sequence[Number]) -> list[float]:
    """Every value and bound that must be visible, controls included."""
    both = [*numbers, *(number.control for number in numbers if number.control is not None)]
    return [field for n in both for field in (n.value, n.low, n.high) if field is not None]
