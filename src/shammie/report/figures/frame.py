"""The frame of a plot: grid, tick labels, axis titles and key, and how a curve is drawn into it.

Every plot stretches with the page while its text keeps its size: curves live in a nested SVG that scales freely (with
strokes that do not), marks and labels sit at percentages of the outer one.
"""

from __future__ import annotations

from collections.abc import Sequence

from shammie.core.errors import DataError
from shammie.report.figures.scales import Axis
from shammie.report.markup import Markup, coordinate, element, percent
from shammie.report.numerals import check_finite, plain, with_doubt

HEIGHT = 280
MAX_SERIES = 8
MARKERS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",  # circle
    "M-3.5-3.5h7v7h-7z",  # square
    "M0-4.8 4.6 3.4h-9.2z",  # triangle
    "M0-5 5 0 0 5-5 0z",  # diamond
    "M0 4.8 4.6-3.4h-9.2z",  # triangle pointing down
    "M-1.4-4.4h2.8v3h3v2.8h-3v3h-2.8v-3h-3v-2.8h3z",  # plus
    "M-4-4h8l-8 8h8z",  # hourglass
    "M0-4.8 4.6-1.5 2.8 3.9h-5.6L-4.6-1.5z",  # pentagon
)
DASHES = ("", "7 4", "2 4", "10 3 2 3", "5 2", "1 3", "12 4", "6 2 1 2")
_MOST_MARKERS = 16

Sample = tuple[float, float | None] | tuple[float, float | None, float | None, float | None]
Curve = list[tuple[float, float | None, float | None, float | None]]


def check_curve(name: str, samples: Sequence[Sample]) -> Curve:
    """Check one series and sort it by x."""
    curve: Curve = []
    for index, sample in enumerate(samples):
        if len(sample) not in (2, 4):
            raise DataError(
                f"Point {index} of series {name!r} has {len(sample)} fields: give (x, y) or (x, y, low, high)."
            )
        x, y, low, high = sample if len(sample) == 4 else (*sample, None, None)
        for field, value in (("x", x), ("y", y), ("low", low), ("high", high)):
            if value is not None or field == "x":
                check_finite(value, f"The {field} of point {index} in series {name!r}")  # type: ignore[arg-type]
        curve.append((x, y, low, high))
    return sorted(curve, key=lambda sample: sample[0])


def shape_of(style: str) -> int:
    """Index of a style's marker and dash: `s3` and `s3 control` have the third."""
    return int(style[1]) if style[0] == "s" else 0


def draw_curve(
    name: str, curve: Curve, x_axis: Axis, y_axis: Axis, style: str, x_label: str, y_label: str
) -> tuple[Markup, Markup, list[Markup]]:
    """The band and the line for the stretched layer, the markers and hover targets for the other."""
    segments: list[Curve] = [[]]
    for sample in curve:
        if sample[1] is None:
            segments.append([])
        else:
            segments[-1].append(sample)
    bands, lines = [], []
    for segment in filter(None, segments):
        bounds = [(x, low, high) for x, _, low, high in segment if low is not None and high is not None]
        if len(bounds) > 1:
            there = [_place(x_axis.at(x), y_axis.at(high)) for x, _, high in bounds]
            back = [_place(x_axis.at(x), y_axis.at(low)) for x, low, _ in reversed(bounds)]
            bands.append(element("path", d=f"M{' '.join(there + back)}z"))
        spots = [_place(x_axis.at(x), y_axis.at(y)) for x, y, _, _ in segment if y is not None]
        if len(spots) > 1:
            lines.append(element("path", d=f"M{' '.join(spots)}"))
    dash = DASHES[shape_of(style)] or None
    band = element("g", *bands, class_=f"band {style}")
    line = element("g", *lines, class_=f"line {style}", stroke_dasharray=dash)
    stride = max(1, -(-len(curve) // _MOST_MARKERS))
    marks = []
    for index, (x, y, low, high) in enumerate(curve):
        if y is None:
            continue
        value, interval = with_doubt(y, low, high)
        reading = f"{name}\n{x_label or 'x'} {plain(x)} · {y_label or 'y'} {value} {interval}".rstrip()
        inside = [element("title", reading), element("circle", r="9", class_="target")]
        if index % stride == 0 or index == len(curve) - 1:
            inside.append(element("path", d=MARKERS[shape_of(style)]))
        at, height = percent(x_axis.at(x)), percent(1 - y_axis.at(y))
        marks.append(element("svg", *inside, x=at, y=height, overflow="visible", class_=f"marker {style}"))
    return band, line, marks


def _place(x: float, y: float) -> str:
    return f"{coordinate(1000 * x)} {coordinate(1000 * (1 - y))}"


def grid(x_axis: Axis, y_axis: Axis, reference: float | None) -> list[Markup]:
    """Horizontal gridlines, the base line, tick labels of both axes, and the reference line."""
    parts = []
    for value, text in y_axis.ticks:
        at = percent(1 - y_axis.at(value))
        parts.append(element("line", x1="0%", x2="100%", y1=at, y2=at, class_="grid"))
        parts.append(element("text", text, x="0%", y=at, dx="-8", dy="4", text_anchor="end", class_="tick-label"))
    parts.append(element("line", x1="0%", x2="100%", y1="100%", y2="100%", class_="base"))
    for value, text in x_axis.ticks:
        at = percent(x_axis.at(value))
        tick = element("path", d="M0 0v5", class_="tick")
        parts.append(element("svg", tick, x=at, y="100%", overflow="visible"))
        parts.append(element("text", text, x=at, y="100%", dy="18", text_anchor="middle", class_="tick-label"))
    if reference is not None:
        at = percent(1 - y_axis.at(reference))
        parts.append(element("line", x1="0%", x2="100%", y1=at, y2=at, class_="reference"))
    return parts


def frame(
    contents: Sequence[Markup],
    y_axis: Axis,
    x_label: str,
    y_label: str,
    described: str,
    keys: Sequence[tuple[str, str]],
    room: int,
    *,
    keep_keys: bool = False,
) -> Markup:
    """The plot with its axis titles, and its key: always for scatter plots, on narrow screens for direct labels."""
    left = 16 + round(7 * max((len(text) for _, text in y_axis.ticks), default=2))
    svg = element("svg", *contents, width="100%", height=str(HEIGHT), role="img", aria_label=described)
    entries = []
    for name, style in keys:
        parts = [element("path", d=MARKERS[shape_of(style)], transform="translate(13 7)", class_=f"marker {style}")]
        if not (keep_keys and style != "trend"):
            dash = DASHES[shape_of(style)] or None
            parts.insert(0, element("path", d="M0 7h26", class_=f"line {style}", stroke_dasharray=dash))
        sample = element("svg", *parts, width="26", height="14", aria_hidden="true")
        entries.append(element("span", sample, name, class_="legend-sign"))
    key = element("div", *entries, class_=f"legend keys{' always' if keep_keys else ''}") if entries else Markup()
    return element(
        "div",
        element("div", y_label, class_="axis-title y-title") if y_label else Markup(),
        element("div", svg, class_="plot", style=f"--left:{left}px;--room:{room}px"),
        element("div", x_label, class_="axis-title x-title", style=f"--left:{left}px") if x_label else Markup(),
        key,
        class_="chart",
    )


def stretched(layers: Sequence[Markup]) -> Markup:
    """Wrap bands and lines, drawn on 1000 x 1000, so that they fill the plot at any size."""
    return element("svg", *layers, viewBox="0 0 1000 1000", preserveAspectRatio="none", width="100%", height="100%")
