"""Run records as tables, figures and one self-contained HTML page; knows no model and imports no torch."""

from shammie.report.blocks import Block, Details, Figure, Numbers, Prose, Table, TextPair
from shammie.report.chapter import Chapter, Context, Record, of_kind
from shammie.report.figures import Point, heat_map, interval_bars, line_chart, scatter, token_strip
from shammie.report.markup import Markup
from shammie.report.numerals import Number, number, sample
from shammie.report.page import MAX_BYTES, Section, render_page
from shammie.report.run_page import run_report

__all__ = [
    "MAX_BYTES",
    "Block",
    "Chapter",
    "Context",
    "Details",
    "Figure",
    "Markup",
    "Number",
    "Numbers",
    "Point",
    "Prose",
    "Record",
    "Section",
    "Table",
    "TextPair",
    "heat_map",
    "interval_bars",
    "line_chart",
    "number",
    "of_kind",
    "render_page",
    "run_report",
    "sample",
    "scatter",
    "token_strip",
]
