"""Grids and strips of shaded tokens: logit lenses, patching maps, attributions over a text."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from shammie.core.errors import DataError
from shammie.report.figures.scales import level_class, ramp_prefix
from shammie.report.markup import Markup, clean, element, empty, join, quoted, shorten, token
from shammie.report.numerals import check_finite, plain

Scale = Literal["sequential", "diverging"]
_MANY_COLUMNS = 14


class _Shade:
    """Maps values to ramp levels: sequential from low to high, diverging symmetric about its midpoint."""

    def __init__(
        self, values: Sequence[float], scale: Scale, limits: tuple[float, float] | None, midpoint: float
    ) -> None:
        level_class(scale, 0)
        self.scale: Scale = scale
        low, high = limits or (min(values), max(values))
        check_finite(low, "The lower limit of the colour scale")
        check_finite(high, "The upper limit of the colour scale")
        if limits and low >= high:
            raise DataError(f"The colour limits {limits} are not in rising order: give (low, high).")
        if scale == "diverging":
            # One reach for both sides: equal distances from the midpoint must look equally strong.
            reach = max(high - midpoint, midpoint - low)
            low, high = midpoint - reach, midpoint + reach
        if high / 2 - low / 2 < 1e-300:
            low, high = (midpoint - 1, midpoint + 1) if scale == "diverging" else (min(low, 0.0), max(high, low + 1.0))
        self.low, self.high, self.midpoint = low, high, midpoint
        self.below, self.above = min(values) < low, max(values) > high

    def css(self, value: float) -> str:
        """The class of a value's colour."""
        half = self.high / 2 - self.low / 2  # the halves do not overflow where the whole might
        return level_class(self.scale, (value / 2 - self.low / 2) / half)

    def legend(self, label: str, extra: Markup) -> Markup:
        """The ramp with its ends named, and what else the figure's signs mean."""
        ends = [
            ("≤ " if self.below else "") + plain(self.low),
            ("≥ " if self.above else "") + plain(self.high),
        ]
        middle = element("span", plain(self.midpoint)) if self.scale == "diverging" else Markup()
        bar = element("span", class_=f"ramp ramp-{ramp_prefix(self.scale)}", aria_hidden="true")
        scale = element("span", bar, element("span", ends[0]), middle, element("span", ends[1]), class_="ramp-scale")
        return element("div", element("span", label, class_="legend-label"), scale, extra, class_="legend")


def heat_map(
    values: Sequence[Sequence[float | None]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    *,
    cell_text: Sequence[Sequence[str | None]] | None = None,
    scale: Scale = "sequential",
    limits: tuple[float, float] | None = None,
    midpoint: float = 0.0,
    row_title: str = "",
    column_title: str = "",
    value_label: str = "value",
    highlight: Collection[tuple[int, int]] = (),
    highlight_label: str = "",
    label: str = "",
) -> Markup:
    """Draw a grid of shaded cells, such as a logit lens (layer x token) or a patching map (layer x position).

    Args:
        values: [rows][columns], drawn from the top; None is hatched as not measured.
        row_labels: one a row; may be raw tokens.
        column_labels: one a column; may be raw tokens.
        cell_text: a token or short text a cell, such as the lens's top token; None leaves the cell bare.
        scale: `sequential` from low to high, or `diverging`, symmetric about the midpoint.
        limits: ends of the colour scale; values beyond them are clipped and the legend says so.
        midpoint: the value of a diverging scale that gets no colour.
        row_title: what rows are, such as "layer".
        column_title: what columns are, such as "token".
        value_label: what the colour is.
        highlight: (row, column) of cells to ring.
        highlight_label: what the ring means; shown in the legend.
        label: description for screen readers; otherwise composed from the titles.

    Raises:
        DataError: shapes that do not agree, or a highlight outside the grid.
        NonFiniteError: a NaN or infinite value; names the cell.
    """
    _check_grid(values, row_labels, column_labels, cell_text, highlight)
    known = [
        check_finite(value, f"The {value_label} at row {row_labels[i]!r}, column {column_labels[j]!r}")
        for i, row in enumerate(values)
        for j, value in enumerate(row)
        if value is not None
    ]
    if not known:
        return empty(f"No {value_label} was measured.")
    shade = _Shade(known, scale, limits, midpoint)
    ringed = set(highlight)
    corner = element("td", row_title, class_="corner")
    columns = [
        element("th", element("span", token(text, 16)), scope="col", title=_full(text, column_title))
        for text in column_labels
    ]
    head = [element("tr", corner, *columns)]
    if column_title:
        title = element("th", column_title, colspan=len(column_labels), class_="axis-title", scope="colgroup")
        head.insert(0, element("tr", element("td", class_="corner"), title))
    body = []
    for i, (name, row) in enumerate(zip(row_labels, values, strict=True)):
        cells = []
        for j, value in enumerate(row):
            text = cell_text[i][j] if cell_text is not None else None
            reading = f"{value_label} {plain(float(value))}" if value is not None else "not measured"
            place = f"{_full(name, row_title)} · {_full(column_labels[j], column_title)}"
            shown = "" if text is None else f"{quoted(text)} · "
            classes = (shade.css(float(value)) if value is not None else "missing") + (
                " ring" if (i, j) in ringed else ""
            )
            inside = token(text, 20) if text is not None else Markup()
            cells.append(element("td", inside, class_=classes, title=f"{shown}{reading}\n{place}"))
        body.append(element("tr", element("th", token(name, 16), scope="row", title=_full(name, row_title)), *cells))
    # Cells with words are wide enough for upright headings; many bare ones are not.
    kind = "worded" if cell_text is not None else "bare many" if len(column_labels) > _MANY_COLUMNS else "bare"
    table = element(
        "table",
        element("thead", *head),
        element("tbody", *body),
        class_=f"heat {kind} {scale}",
        style=f"--columns:{len(column_labels)}",
    )
    described = label or (
        f"Heat map of {value_label}: {len(row_labels)} rows ({row_title or 'rows'}) by {len(column_labels)} columns "
        f"({column_title or 'columns'}), from {plain(min(known))} to {plain(max(known))}."
    )
    signs = []
    if ringed and highlight_label:
        signs.append(element("span", element("i", class_=f"sign ring {scale}"), highlight_label, class_="legend-sign"))
    if any(value is None for row in values for value in row):
        signs.append(element("span", element("i", class_="sign missing"), "not measured", class_="legend-sign"))
    box = element("div", table, class_="scroll", tabindex="0", role="region", aria_label=described)
    return element("div", box, shade.legend(value_label, join(signs)), class_="heat-map")


def _full(text: str, title: str) -> str:
    return f"{title} {text if text.isdecimal() else quoted(text)}".strip()


def _check_grid(
    values: Sequence[Sequence[float | None]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    cell_text: Sequence[Sequence[str | None]] | None,
    highlight: Collection[tuple[int, int]],
) -> None:
    if len(values) != len(row_labels):
        raise DataError(f"The heat map has {len(values)} rows for {len(row_labels)} row labels: give one label a row.")
    for what, grid in (("values", values), ("cell texts", cell_text)):
        if grid is None:
            continue
        if len(grid) != len(row_labels):
            raise DataError(f"The heat map has {len(grid)} rows of {what} for {len(row_labels)} row labels.")
        for name, row in zip(row_labels, grid, strict=True):
            if len(row) != len(column_labels):
                raise DataError(
                    f"Row {shorten(clean(name), 40)!r} of the heat map has {len(row)} {what} "
                    f"for {len(column_labels)} columns."
                )
    for i, j in highlight:
        if not (0 <= i < len(row_labels) and 0 <= j < len(column_labels)):
            raise DataError(
                f"The heat map has no cell ({i}, {j}) to highlight: it is {len(row_labels)} x {len(column_labels)}."
            )


def token_strip(
    tokens: Sequence[str],
    values: Sequence[float | None],
    *,
    scale: Scale = "sequential",
    limits: tuple[float, float] | None = None,
    midpoint: float = 0.0,
    value_label: str = "value",
) -> Markup:
    """Draw a text whose tokens are shaded by a value each; None leaves a token unshaded.

    Raises:
        DataError: other numbers of tokens and values.
        NonFiniteError: a NaN or infinite value; names the token.
    """
    if len(tokens) != len(values):
        raise DataError(f"The strip has {len(tokens)} tokens for {len(values)} values: give one value a token.")
    known = [
        check_finite(value, f"The {value_label} of token {index} ({shorten(clean(text), 30)!r})")
        for index, (text, value) in enumerate(zip(tokens, values, strict=True))
        if value is not None
    ]
    if not known:
        return empty(f"No {value_label} was measured.")
    shade = _Shade(known, scale, limits, midpoint)
    spans: list[Markup] = []
    for text, value in zip(tokens, values, strict=True):
        reading = "not measured" if value is None else f"{value_label} {plain(float(value))}"
        css = "tok" if value is None else f"tok {shade.css(float(value))}"
        spans.append(element("span", _running(text), class_=css, title=f"{quoted(text)} · {reading}"))
        if text.endswith("\n"):
            spans.append(element("br"))
    strip = element("div", *spans, class_="strip", dir="auto")
    return element("div", strip, shade.legend(value_label, Markup()), class_="token-strip")


def _running(text: str) -> Markup:
    """A token inside running text: its spaces stay spaces, line breaks and emptiness become signs."""
    text = clean(text)
    if not text:
        return element("span", "∅", class_="ws")
    return Markup(join(text.split("\n"), "↵") if "\n" in text else join([text]))
