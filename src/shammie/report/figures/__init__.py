"""Accessible figures drawn by hand as inline SVG and HTML; they follow the page's theme and need no script."""

from shammie.report.figures.bars import interval_bars
from shammie.report.figures.grid import heat_map, token_strip
from shammie.report.figures.plots import Point, line_chart, scatter

__all__ = ["Point", "heat_map", "interval_bars", "line_chart", "scatter", "token_strip"]
