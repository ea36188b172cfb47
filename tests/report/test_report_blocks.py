"""Blocks and figures under arbitrary text and numbers: nothing breaks out, nothing is lost, mistakes are named."""

import math
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shammie.core.errors import DataError, NonFiniteError, ShammieError
from shammie.report import (
    Chapter,
    Details,
    Figure,
    Markup,
    Number,
    Numbers,
    Prose,
    Table,
    TextPair,
    heat_map,
    interval_bars,
    line_chart,
    scatter,
    token_strip,
)
from shammie.report.markup import clean, escape, quoted, shorten, token
from shammie.report.numerals import plain, short, with_doubt

NASTY = st.one_of(
    st.text(st.characters(exclude_categories=())),
    st.sampled_from(
        ["<script>alert(1)</script>", "</td></table>", '" onmouseover="x', "'", "&lt;", "]]>", "<!--", "\x00"]
    ),
    st.text("<>&\"'/= `*abc\n\t\r\u202e\ud800\x1b\ufffe", max_size=30),
)
FINITE = st.floats(-1e6, 1e6)


class Reader(HTMLParser):
    """What a browser would see: text, and names of elements and attributes."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.text, self.names, self.attributes = "", [], set()
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes.update(name for name, _ in attrs)

    def handle_data(self, data):
        self.text += data


def xml(html):
    """The element tree of a fragment; a break-out or a stray character makes this fail."""
    assert isinstance(html, Markup)
    return ElementTree.fromstring(html)


def skeleton(html):
    return [(e.tag, sorted(e.attrib)) for e in xml(html).iter()]


def seen(html):
    reader = Reader(html)
    assert "script" not in reader.names
    assert not any(name.startswith("on") for name in reader.attributes)
    assert "".join(xml(html).itertext()) == reader.text
    return reader.text


@given(NASTY)
def test_escape_keeps_every_legal_character(text):
    assert seen(Markup(f"<p title='{escape(text)}'>{escape(text)}</p>")) == clean(text)
    assert ElementTree.fromstring(f"<p>{escape(text)}</p>").text in (clean(text), None)
    clean(text).encode()


@given(NASTY)
def test_prose_keeps_its_words(text):
    def words(value):
        return "".join(c for c in clean(value) if not c.isspace() and c not in "*`")

    assert words(seen(Prose(text).html())) == words(text)


def test_prose_marks_bold_and_code_and_nothing_else():
    html = Prose("One **two three** `a < b` _x_ <i>y</i>.\n\nNext * not ** bold").html()
    assert "<strong>two three</strong>" in html
    assert "<code>a &lt; b</code>" in html
    assert "&lt;i&gt;" in html
    assert html.count("<p>") == 2
    assert html.count("<strong>") == 1


@given(NASTY, NASTY, NASTY)
def test_table_shows_cells_as_they_are(column, cell, caption):
    html = Table([column, "n"], [[cell, 1], ["x", 2]]).html()
    assert seen(html) == clean(column) + "n" + clean(cell) + "1x2"
    assert skeleton(Table([column], [[cell]], caption).html())[0][0] == "div"


@given(NASTY, NASTY, NASTY, NASTY, NASTY)
def test_text_pair_loses_nothing(before, after, left, right, prompt):
    text = seen(TextPair(before, after, left, right, prompt).html())
    shown = [clean(part) or "(empty)" for part in (before, after)]
    assert text == clean(prompt) + clean(left) + shown[0] + clean(right) + shown[1]


def test_text_pair_marks_what_differs():
    html = TextPair("It is Paris now.", "It is Rome now.").html()
    assert "<mark>Paris</mark>" in html
    assert "<mark>Rome</mark>" in html
    assert "<mark>" not in TextPair("Same.", "Same.").html()
    assert "<mark>" not in TextPair("wholly other", "nothing like it at all").html()


@given(NASTY, NASTY, NASTY)
def test_figure_details_numbers_hold_text(caption, note, label):
    assert skeleton(Figure("plain < text", "c", "n").html())
    seen(Figure(label, caption, note).html())
    seen(Details(caption, [Prose(note)]).html())
    assert clean(label) in seen(Numbers([(label, 0.5, 0.4, 0.6, 10, (label, 0.1, 0.0, 0.2, 10))]).html())


@given(st.lists(NASTY, min_size=1, max_size=4), st.lists(NASTY, min_size=1, max_size=4), NASTY)
@settings(max_examples=60)
def test_figures_hold_any_text_without_changing_shape(rows, columns, text):
    values = [[(i + 1) / (j + 2) for j in range(len(columns))] for i in range(len(rows))]
    words = [[text] * len(columns) for _ in rows]
    tags = {"table", "thead", "tbody", "tr", "td", "th", "bdi", "div", "span", "i"}
    options = {"cell_text": words, "row_title": text, "column_title": text, "value_label": text, "label": text}
    assert {tag for tag, _ in skeleton(heat_map(values, rows, columns, **options))} <= tags
    seen(heat_map(values, rows, columns, **options))
    seen(token_strip(columns, values[0], value_label=text))
    seen(interval_bars([(name, 0.5, 0.2, 0.7, 3, (text, 0.1)) for name in rows], value_label=text))
    seen(line_chart({name: [(1, 2, 1, 3), (2, 3, 2, 4)] for name in rows}, x_label=text, y_label=text))
    seen(scatter([(1.0, 2.0, name, rows[0]) for name in rows], x_label=text, annotate=rows, trend_label=text))


@given(st.lists(st.tuples(FINITE, FINITE, FINITE, FINITE), min_size=1, max_size=12), st.booleans())
@settings(max_examples=80)
def test_figures_hold_any_finite_numbers(samples, log):
    series = {"a": [(abs(x) + 1e-3 if log else x, y, min(a, b), max(a, b)) for x, y, a, b in samples]}
    for html in (
        line_chart(series, log_x=log),
        scatter([(x, y) for x, y, *_ in series["a"]], trend=series["a"], log_x=log),
        interval_bars([("a", y, low, high, 3) for _, y, low, high in series["a"]]),
        heat_map([[y for _, y, *_ in series["a"]]], ["r"], [str(i) for i in range(len(samples))], scale="diverging"),
        token_strip(["t"] * len(samples), [y for _, y, *_ in series["a"]]),
        Numbers([("a", y, low, high, 3) for _, y, low, high in series["a"]]).html(),
    ):
        seen(html)
        assert "nan" not in html
        assert "inf" not in html.replace("infinit", "")


BAD = float("nan")
MISTAKES = [
    (lambda: heat_map([[BAD]], ["12"], [" Paris"]), NonFiniteError, "row '12', column ' Paris'"),
    (lambda: heat_map([[math.inf]], ["0"], ["a"]), NonFiniteError, "inf"),
    (lambda: heat_map([["x"]], ["0"], ["a"]), DataError, "not a number"),
    (lambda: heat_map([[1.0]], ["0", "1"], ["a"]), DataError, "2 row labels"),
    (lambda: heat_map([[1.0, 2.0]], ["0"], ["a"]), DataError, "2 values"),
    (lambda: heat_map([[1.0]], ["0"], ["a"], cell_text=[["x", "y"]]), DataError, "2 cell texts"),
    (lambda: heat_map([[1.0]], ["0"], ["a"], cell_text=[]), DataError, "0 rows of cell texts"),
    (lambda: heat_map([[1.0]], ["0"], ["a"], highlight=[(1, 0)]), DataError, "(1, 0)"),
    (lambda: heat_map([[1.0]], ["0"], ["a"], limits=(1, 0)), DataError, "rising"),
    (lambda: heat_map([[1.0]], ["0"], ["a"], scale="rainbow"), DataError, "rainbow"),
    (lambda: token_strip(["a"], []), DataError, "1 tokens"),
    (lambda: token_strip(["a"], [BAD]), NonFiniteError, "token 0"),
    (lambda: interval_bars([("recall", BAD)]), NonFiniteError, "recall"),
    (lambda: interval_bars([("recall", 0.5, BAD, 1.0)]), NonFiniteError, "low of 'recall'"),
    (lambda: interval_bars([("recall", 0.5, 0.9, 0.1)]), DataError, "interval of 'recall'"),
    (lambda: interval_bars([("recall",)]), DataError, "not a number with its doubt"),
    (lambda: interval_bars([("recall", "high")]), DataError, "'high'"),
    (lambda: interval_bars([("a", 1, 0, 2, 3, ("control", BAD))]), NonFiniteError, "control"),
    (lambda: interval_bars([("a", 1.0)], limits=(3, 2)), DataError, "limits"),
    (lambda: line_chart({"a": [(1, BAD)]}), NonFiniteError, "series 'a'"),
    (lambda: line_chart({"a": [(None, 1)]}), DataError, "None"),
    (lambda: line_chart({"a": [(1, 2, 3)]}), DataError, "3 fields"),
    (lambda: line_chart({"a": [(0, 1)]}, x_label="dose", log_x=True), DataError, "dose"),
    (lambda: line_chart({str(i): [(1, 1)] for i in range(9)}), DataError, "9 series"),
    (lambda: line_chart({"a": [(1, 1)]}, controls=["b"]), DataError, "'b'"),
    (lambda: line_chart({"a": [(1, 1e200)]}), DataError, "logarithm"),
    (lambda: scatter([(1, BAD, "Rome")]), NonFiniteError, "Rome"),
    (lambda: scatter([(1, 1, "", str(i)) for i in range(5)]), DataError, "5 outcomes"),
    (lambda: scatter([(-1, 1)], x_label="population", log_x=True), DataError, "population"),
    (lambda: Table(["a", "b"], [[1]], "Facts").html(), DataError, "Row 0"),
    (lambda: Numbers([("n", BAD)]).html(), NonFiniteError, "'n'"),
    (lambda: Chapter("Two words", "", "", "", iter, list), ShammieError, "slug"),
]


@pytest.mark.parametrize(("make", "error", "words"), MISTAKES)
def test_mistake_is_one_sentence_that_names_the_culprit(make, error, words):
    with pytest.raises(error) as caught:
        make()
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert message.endswith(".")


@pytest.mark.parametrize(
    "html",
    [
        heat_map([], [], []),
        heat_map([[None]], ["0"], ["a"]),
        token_strip([], []),
        token_strip(["a"], [None]),
        interval_bars([]),
        line_chart({}),
        line_chart({"a": []}),
        line_chart({"a": [(1, None)]}),
        scatter([]),
        Numbers([]).html(),
        Table([], []).html(),
        Table(["a"], [], "Facts").html(),
    ],
)
def test_nothing_to_show_is_said(html):
    assert skeleton(html) == [("p", ["class"])]
    assert seen(html).endswith(".")


def test_empty_prose_and_details_are_empty():
    assert seen(Prose("").html()) == ""
    assert seen(Details("s", []).html()) == "s"


def test_heat_map_describes_itself_and_every_cell():
    html = heat_map(
        [[0.25, None]],
        ["7"],
        [" a", "\n"],
        cell_text=[[" Paris", "x" * 60]],
        row_title="layer",
        value_label="probability",
        highlight=[(0, 0)],
        highlight_label="answer",
    )
    tree = xml(html)
    cells = tree.findall(".//tbody/tr/td")
    assert "“ Paris” · probability 0.25" in cells[0].get("title")
    assert "ring" in cells[0].get("class")
    assert "not measured" in cells[1].get("title")
    assert "x" * 60 in cells[1].get("title")
    assert "…" in "".join(cells[1].itertext())
    assert "Heat map of probability: 1 rows (layer)" in tree.find(".//*[@role='region']").get("aria-label")
    assert "answer" in "".join(tree.itertext())


def test_clipped_colours_are_said():
    text = seen(heat_map([[-3.0, 3.0]], ["r"], ["a", "b"], scale="diverging", limits=(-1, 1)))
    assert "≤ −1" in text
    assert "≥ 1" in text


@pytest.mark.parametrize("values", [[0.0, 5e-324], [-1.7e308, 1.7e308], [3.0, 3.0], [0, 0], [-5.0, -5.0]])
def test_extreme_ranges_are_still_shaded(values):
    for scale in ("sequential", "diverging"):
        assert len(xml(heat_map([values], ["r"], ["a", "b"], scale=scale)).findall(".//tbody/tr/td")) == 2


def test_diverging_scale_is_symmetric_about_its_midpoint():
    cells = xml(heat_map([[0.0, 0.5, 1.0]], ["r"], list("abc"), scale="diverging", limits=(0.5, 1.0), midpoint=0.5))
    levels = [int(cell.get("class")[1:]) for cell in cells.findall(".//tbody/tr/td")]
    assert levels[1] == 32
    assert levels[0] + levels[2] == 64


def test_controls_are_told_apart_by_more_than_colour():
    lines = line_chart({"a": [(0, 1), (1, 2)], "c": [(0, 0), (1, 0)]}, controls=["c"])
    assert 'class="line s7 control"' in lines
    assert "stroke-dasharray" in lines
    bars = interval_bars([("a", 0.5, 0.4, 0.6, 9, Number("random", 0.1, 0.0, 0.2, 9))])
    assert "control-dot" in bars
    assert "control: random" in seen(bars)


def test_curves_differ_in_dash_and_marker():
    tree = xml(line_chart({str(i): [(0, i), (1, i)] for i in range(8)}))
    lines = tree.findall(".//*[@class='plot']/svg/svg/g")
    dashes = {g.get("stroke-dasharray") for g in lines if g.get("class").startswith("line")}
    assert len(dashes) == 8


def test_missing_value_breaks_the_curve():
    whole = xml(line_chart({"a": [(0, 0), (1, 1), (2, 2), (3, 3)]}))
    broken = xml(line_chart({"a": [(0, 0), (1, 1), (2, None), (3, 3), (4, 4)]}))
    paths = [len(tree.findall(".//*[@class='line s0']/path")) for tree in (whole, broken)]
    assert paths == [1, 2]


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (0.48, 0.41, 0.55, ("0.48", "[0.41, 0.55]")),
        (0.4812, 0.4797, 0.4827, ("0.4812", "[0.4797, 0.4827]")),
        (-2.13, -2.71, -1.6, ("−2.1", "[−2.7, −1.6]")),
        (51234.4, 50100.0, 52300.0, ("51,234", "[50,100, 52,300]")),
        (0.5, 0.5, 0.5, ("0.50", "[0.50, 0.50]")),
        (0.5, None, None, ("0.5", "")),
        (12, None, None, ("12", "")),
    ],
)
def test_interval_decides_the_digits(value, low, high, text):
    assert with_doubt(value, low, high) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234, "1234"), (12345, "12,345"), (-3, "−3"), (True, "yes"), (None, "–"), (0.0, "0"), (1.5, "1.5"),
        (3.14159, "3.14"), (1e-7, "1e−7"), (BAD, "not a number"), (-math.inf, "−∞"), ("x", "x"), (-1e-9, "−1e−9"),
    ],
)  # fmt: skip
def test_plain_numbers(value, text):
    assert plain(value) == text


@pytest.mark.parametrize(
    ("value", "step", "text"),
    [
        (0.25, 0.25, "0.25"),
        (0.5, 0.1, "0.5"),
        (20000, None, "20k"),
        (1.5e6, None, "1.5M"),
        (0, 0.2, "0.0"),
        (-2, 1, "−2"),
    ],
)
def test_tick_labels(value, step, text):
    assert short(value, step) == text


def test_tokens_are_shown_as_they_are():
    assert Reader(token(" Paris")).text == "·Paris"
    assert Reader(token("\n")).text == "↵"
    assert Reader(token("")).text == "∅"
    assert Reader(token("a b")).text == "a b"
    assert Reader(token("   " * 4)).text == "··…×12"
    assert Reader(token("x" * 40, 10)).text == "x" * 9 + "…"
    assert token("عاصمة").startswith("<bdi>")
    assert quoted("\n\t") == "“\\n\\t”"
    assert shorten("e\u0301" * 5, 4) == "e\u0301…"


def test_an_estimate_without_an_interval_is_its_value_alone():
    one = {"value": 0.25, "low": None, "high": None, "n": 1}
    drawn = str(Table(["share"], [[one], [{"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}]]).html())
    assert ">0.25<" in drawn
    assert "null" not in drawn
    assert "[0.4" in drawn
