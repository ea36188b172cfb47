"""Line charts with interval bands, and scatter plots."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from shammie.core.errors import DataError
from shammie.report.figures.frame import (
    HEIGHT,
    MARKERS,
    MAX_SERIES,
    Curve,
    Sample,
    check_curve,
    draw_curve,
    frame,
    grid,
    shape_of,
    stretched,
)
from shammie.report.figures.scales import Axis, axis
from shammie.report.markup import Markup, clean, element, empty, percent, shorten
from shammie.report.numerals import check_finite, plain


class Point(NamedTuple):
    """One mark of a scatter plot; points of one outcome share a colour and a shape."""

    x: float
    y: float
    label: str = ""
    outcome: str = ""


def line_chart(
    series: Mapping[str, Sequence[Sample]],
    *,
    x_label: str = "",
    y_label: str = "",
    log_x: bool = False,
    x_limits: tuple[float, float] | None = None,
    y_limits: tuple[float, float] | None = None,
    controls: Collection[str] = (),
    reference: float | None = None,
    label: str = "",
) -> Markup:
    """Draw up to eight curves with interval bands, each told apart by colour, dash and marker.

    Args:
        series: name -> (x, y) or (x, y, low, high), in any order of x; y None breaks the curve.
        x_label: what x is, with its unit.
        y_label: likewise for y.
        log_x: logarithmic x; every x must be above zero.
        x_limits: fixed ends of the x axis; otherwise round numbers around the data.
        y_limits: likewise for y.
        controls: names of series that are controls; drawn grey and behind the others.
        reference: a value of y to mark with a horizontal line, such as chance.
        label: description for screen readers; otherwise composed from the series.

    Raises:
        DataError: too many series, a control that is no series, or an x that a logarithmic axis cannot show.
        NonFiniteError: a NaN or infinite value; names series and point.
    """
    if len(series) > MAX_SERIES:
        raise DataError(
            f"The chart has {len(series)} series, over {MAX_SERIES}: split it or keep the ones that matter."
        )
    for name in controls:
        if name not in series:
            raise DataError(f"Control {name!r} is no series of the chart: choose among {', '.join(series)}.")
    curves = {name: check_curve(name, samples) for name, samples in series.items()}
    curves = {name: curve for name, curve in curves.items() if any(y is not None for _, y, _, _ in curve)}
    if not curves:
        return empty(f"No {y_label or 'values'} were measured.")
    xs = [x for curve in curves.values() for x, *_ in curve]
    ys = [v for curve in curves.values() for _, *rest in curve for v in rest if v is not None]
    x_axis = axis(xs, x_label or "x", log=log_x, limits=x_limits)
    y_axis = axis(ys + ([] if reference is None else [reference]), y_label or "y", limits=y_limits)
    styles = _styles(list(curves), controls)
    order = sorted(curves, key=lambda name: name not in controls)
    layers, marks = [], []
    for name in order:
        band, line, dots = draw_curve(name, curves[name], x_axis, y_axis, styles[name], x_label, y_label)
        layers += [band, line]
        marks += dots
    curves_svg = stretched(layers)
    many = len(curves) > 1
    ends = _end_labels(curves, y_axis, styles) if many else Markup()
    described = label or _describe(curves, x_label, y_label)
    keys = [(name, styles[name]) for name in curves] if many else []
    room = 34 + round(6.6 * max(len(_end_name(name)) for name in curves)) if many else 18
    contents = [*grid(x_axis, y_axis, reference), curves_svg, *marks, ends]
    return frame(contents, y_axis, x_label, y_label, described, keys, room)


def scatter(
    points: Sequence[Point | tuple[float, float] | tuple[float, float, str] | tuple[float, float, str, str]],
    *,
    x_label: str = "",
    y_label: str = "",
    log_x: bool = False,
    x_limits: tuple[float, float] | None = None,
    y_limits: tuple[float, float] | None = None,
    trend: Sequence[Sample] = (),
    trend_label: str = "trend",
    outcomes: Sequence[str] = (),
    annotate: Collection[str] = (),
    label: str = "",
) -> Markup:
    """Draw points by outcome, under an optional trend with its interval band, such as accuracy against population.

    Args:
        points: `Point`s or tuples (x, y, label, outcome); there are at most four outcomes.
        x_label: what x is, with its unit.
        y_label: likewise for y.
        log_x: logarithmic x; every x must be above zero.
        x_limits: fixed ends of the x axis; otherwise round numbers around the data.
        y_limits: likewise for y.
        trend: (x, y, low, high) of a curve to draw over the points, such as binned accuracy.
        trend_label: what the trend is.
        outcomes: the order in which outcomes are styled and listed; otherwise that of their appearance.
        annotate: labels of the points to name in the picture; one that would cover another is left to its tooltip.
        label: description for screen readers; otherwise composed.

    Raises:
        DataError: too many outcomes, or an x that a logarithmic axis cannot show.
        NonFiniteError: a NaN or infinite value; names the point.
    """
    dots = [Point(*point) for point in points]
    for index, dot in enumerate(dots):
        for name, value in (("x", dot.x), ("y", dot.y)):
            check_finite(value, f"The {name} of point {index} ({shorten(clean(dot.label), 30)!r})")
    curve = check_curve(trend_label, trend)
    if not dots and not curve:
        return empty(f"No {y_label or 'points'} were measured.")
    present = {dot.outcome for dot in dots}
    kinds = [name for name in dict.fromkeys([*outcomes, *(dot.outcome for dot in dots)]) if name in present]
    if len(kinds) > 4:
        raise DataError(f"The scatter plot has {len(kinds)} outcomes, over four: merge those that matter less.")
    ys = [dot.y for dot in dots] + [v for _, *rest in curve for v in rest if v is not None]
    x_axis = axis(
        [dot.x for dot in dots] + [x for x, *_ in curve], x_label or "x", log=log_x, limits=x_limits, padded=True
    )
    y_axis = axis(ys, y_label or "y", limits=y_limits, padded=True)
    # Every second outcome is hollow, so that a pair such as right and wrong differs in more than colour.
    styles = {name: f"s{i}{' hollow' if i % 2 else ''}" for i, name in enumerate(kinds)}
    marks = [_scatter_mark(dot, x_axis, y_axis, styles[dot.outcome], kinds.index(dot.outcome)) for dot in dots]
    keys = [(name, styles[name]) for name in kinds if name]
    layers: list[Markup] = []
    if curve:
        band, line, trend_dots = draw_curve(trend_label, curve, x_axis, y_axis, "trend", x_label, y_label)
        layers = [stretched([band, line])]
        marks += trend_dots
        keys.append((trend_label, "trend"))
    described = label or f"Scatter plot of {y_label or 'y'} by {x_label or 'x'}: {len(dots)} points."
    names = _annotations(dots, x_axis, y_axis, annotate)
    contents = [*grid(x_axis, y_axis, None), *layers, *marks, *names]
    return frame(contents, y_axis, x_label, y_label, described, keys, 18, keep_keys=True)


def _styles(names: Sequence[str], controls: Collection[str]) -> dict[str, str]:
    """Series classes: coloured ones count from 0, controls are grey and take the last shapes."""
    coloured = [name for name in names if name not in controls]
    grey = [name for name in names if name in controls]
    styles = {name: f"s{index}" for index, name in enumerate(coloured)}
    styles.update({name: f"s{MAX_SERIES - 1 - index} control" for index, name in enumerate(grey)})
    return styles


def _scatter_mark(dot: Point, x_axis: Axis, y_axis: Axis, style: str, shape: int) -> Markup:
    reading = " · ".join(part for part in (dot.label, dot.outcome) if part)
    title = element("title", f"{reading}\n{plain(dot.x)}, {plain(dot.y)}".strip())
    at, height = percent(x_axis.at(dot.x)), percent(1 - y_axis.at(dot.y))
    path = element("path", d=MARKERS[shape])
    return element("svg", title, path, x=at, y=height, overflow="visible", class_=f"marker {style}")


def _annotations(dots: Sequence[Point], x_axis: Axis, y_axis: Axis, wanted: Collection[str]) -> list[Markup]:
    """Names beside points, as long as they do not cover one another on a phone's plot of about 270 pixels."""
    taken: list[tuple[float, float, float, float]] = []
    drawn = []
    for dot in dots:
        if not dot.label or dot.label not in wanted:
            continue
        name = shorten(clean(dot.label), 18)
        at, height = x_axis.at(dot.x), 1 - y_axis.at(dot.y)
        width, flip = 6.5 * len(name) / 270, at > 0.6
        left = at - width - 0.03 if flip else at + 0.03
        box = (left, left + width, height * HEIGHT - 7, height * HEIGHT + 7)
        if any(box[0] < b and a < box[1] and box[2] < d and c < box[3] for a, b, c, d in taken):
            continue
        taken.append(box)
        anchor, shift = ("end", "-8") if flip else ("start", "8")
        drawn.append(
            element("text", name, x=percent(at), dx=shift, y=percent(height), dy="4", text_anchor=anchor, class_="name")
        )
    return drawn


def _end_name(name: str) -> str:
    return shorten(clean(name), 22)


def _end_labels(curves: Mapping[str, Curve], y_axis: Axis, styles: Mapping[str, str]) -> Markup:
    """Names at the right ends of the curves, pushed apart so that none covers another."""
    lasts = {name: next(y for _, y, _, _ in reversed(curve) if y is not None) for name, curve in curves.items()}
    heights = {name: (1 - y_axis.at(y)) * HEIGHT for name, y in lasts.items()}
    order = sorted(heights, key=lambda name: heights[name])
    gap = 17.0
    places: list[float] = []
    for name in order:
        places.append(max(heights[name], places[-1] + gap if places else 0.0))
    overrun = max(0.0, places[-1] - HEIGHT)
    for index in range(len(places) - 1, -1, -1):
        bound = places[index + 1] - gap if index + 1 < len(places) else places[-1] - overrun
        places[index] = min(places[index], bound)
    drawn = []
    for name, place in zip(order, places, strict=True):
        mark = element("path", d=MARKERS[shape_of(styles[name])])
        key = element("g", mark, transform="translate(14 0)", class_=f"marker {styles[name]}")
        text = element("text", _end_name(name), x="23", y="4", class_="name")
        drawn.append(element("svg", key, text, x="100%", y=place, overflow="visible"))
    return element("g", *drawn, class_="ends", aria_hidden="true")


def _describe(curves: Mapping[str, Curve], x_label: str, y_label: str) -> str:
    parts = []
    for name, curve in curves.items():
        known = [(x, y) for x, y, _, _ in curve if y is not None]
        (first, start), (last, end) = known[0], known[-1]
        parts.append(f"{name} from {plain(start)} at {plain(first)} to {plain(end)} at {plain(last)}")
    return f"Line chart of {y_label or 'y'} by {x_label or 'x'}: {'; '.join(parts)}."
