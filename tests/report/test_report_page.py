"""The page: alone, within its size, the same every time, legible; and the page of any run."""

import ast
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import report_sample as sample
from hypothesis import given, settings
from hypothesis import strategies as st

import shammie.report
from shammie.core.errors import DataError, ShammieError
from shammie.report import MAX_BYTES, Chapter, Prose, Section, Table, render_page, run_report
from shammie.report.figures.scales import LEVELS, axis, contrast, ink_on, ramp

SOURCE = Path(shammie.report.__file__).parent


class Outline(HTMLParser):
    """Elements with their attributes, and the visible text."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.text, self.closed = [], [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "br", "line", "circle", "path", "input", "img"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data):
        if not self.open or self.open[-1] not in {"script", "style"}:
            self.text.append(data)


@pytest.mark.parametrize("page", [sample.page(), run_report(sample.RUN), render_page("t", "", [], [])])
def test_page_is_balanced_and_asks_the_network_for_nothing(page):
    outline = Outline(page)
    assert outline.open == []
    for tag, attributes in outline.elements:
        for name in ("href", "src", "xlink:href", "action", "data", "poster", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
        assert tag not in {"iframe", "object", "embed", "img", "form", "base"}
        assert not (tag == "script" and "src" in attributes)
        assert not any(name.startswith("on") for name in attributes)
    assert "http:" not in page
    assert "https:" not in page
    assert "url(" not in page
    assert "@import" not in page
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in outline.elements
    identifiers = [attributes["id"] for _, attributes in outline.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    links = {attributes["href"][1:] for tag, attributes in outline.elements if tag == "a"}
    assert links <= set(identifiers)


def test_page_is_the_same_every_time_and_in_every_process():
    assert sample.page() == sample.page()
    code = "import hashlib, report_sample as s; print(hashlib.sha256(s.page().encode()).hexdigest())"
    path = {"PYTHONPATH": f"{SOURCE.parents[1]}:{Path(__file__).parent}"}
    made = {
        subprocess.run(
            [sys.executable, "-c", code], env={**path, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(made) == 1


@given(st.text(st.characters(exclude_categories=())), st.text("<>\"'&`*/ -ab\n", max_size=40))
@settings(max_examples=60)
def test_page_holds_any_text(one, two):
    page = render_page(one, two, [(one, two)], [Section(two, one, two, one, [Prose(one)])], one, eyebrow=two)
    page.encode()
    outline = Outline(page)
    assert outline.open == []
    plain = Outline(render_page("a", "b", [("a", "b")], [Section("b", "a", "b", "a", [Prose("c")])], "a", eyebrow="b"))
    kinds = {tag for tag, _ in plain.elements} | {"code", "strong"}
    assert {tag for tag, _ in outline.elements} <= kinds


def test_page_that_is_too_large_is_refused_by_name():
    huge = Section("lens", "t", "", "", [Prose("x" * (MAX_BYTES + 1))])
    with pytest.raises(ShammieError, match=r"5\.0 MB, over 5 MB, most of it in section 'lens'"):
        render_page("t", "", [], [Section("small", "t", "", "", []), huge])


def test_two_sections_of_one_name_are_refused():
    with pytest.raises(DataError, match="'A'"):
        render_page("t", "", [], [Section("a", "t", "", "", []), Section("A", "t", "", "", [])])


def test_run_report_shows_command_settings_figures_and_records():
    text = " ".join("".join(Outline(run_report(sample.RUN)).text).split())
    for words in (
        'shammie ember erase --model smollm2-135m --concept "Harry Potter"',
        "statuscomplete",
        "0.20 [0.12, 0.29]",
        "0.70 [0.62, 0.77]",
        "Configuration",
        "data.sha256",
        "2.13.0",
        "The first 60 of 80 records",
        "Numeric fields",
    ):
        assert words in text, words
    assert "interval-bars" in run_report(sample.RUN)


def test_run_report_of_odd_records_is_still_a_page():
    odd = [
        {"kind": None, "x": math.nan},
        {"kind": 3, "x": math.inf, "y": {"value": math.nan, "low": 0.0, "high": 1.0}},
        {"kind": 3, "y": {"value": 0.5, "low": 1.0, "high": 0.0}, "text": "<b>" * 500},
        {},
        {"nested": {"a": [1, {"b": None}]}, "x": 10**400, "flag": True},
        {"e": {"value": 10**400, "low": 0, "high": 1}},
        *({"kind": "many", "x": 1e300, "v": i, "w": 10**400} for i in range(50)),
    ]
    text = "".join(Outline(run_report({**sample.RUN, "results": odd})).text)
    assert "not a number" in text
    assert "∞" in text
    for status in ("running", "complete"):
        empty = run_report({**sample.RUN, "results": [], "config": {}, "inputs": {}, "versions": {}, "status": status})
        assert "results" in "".join(Outline(empty).text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(st.dictionaries(st.sampled_from(["kind", "a", "b", "control", "é<"]), VALUES, max_size=4), max_size=16))
@settings(max_examples=60, deadline=None)
def test_run_report_takes_any_json(results):
    outline = Outline(run_report({**sample.RUN, "results": results}))
    assert outline.open == []


@pytest.mark.parametrize("name", ["command", "config", "inputs", "versions", "status", "results"])
def test_run_report_names_the_field_that_is_missing_or_wrong(name):
    with pytest.raises(DataError, match=name):
        run_report({key: value for key, value in sample.RUN.items() if key != name})
    with pytest.raises(DataError, match=name):
        run_report({**sample.RUN, name: 3})
    with pytest.raises(DataError, match="Result 0"):
        run_report({**sample.RUN, "results": ["x"]})


def test_chapter_draws_records_that_went_through_json():
    def measure(context, settings):
        yield {"kind": "fact", "share": 0.5}

    def draw(records):
        return [Table(["share"], [[record["share"]] for record in records])]

    chapter = Chapter("what-it-knows", "What it knows", "Does it?", "shammie tour --only facts", measure, draw)
    records = [json.loads(json.dumps(record)) for record in chapter.measure(None, None)]
    section = Section(chapter.name, chapter.title, chapter.question, chapter.command, chapter.draw(records))
    assert "0.5" in render_page("t", "", [], [section])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_is_legible_on_every_level_of_every_ramp(theme):
    for prefix in ("q", "d"):
        colours = ramp(prefix, theme)
        assert len(colours) == LEVELS
        for colour in colours:
            ink = {"#000": "#000000", "#fff": "#ffffff"}[ink_on(colour)]
            assert contrast(colour, ink) >= 4.5


def test_sequential_ramp_is_ordered_by_brightness():
    for theme, rising in (("light", False), ("dark", True)):
        brightness = [contrast(colour, "#000000") for colour in ramp("q", theme)]
        assert brightness == sorted(brightness, reverse=not rising)


@pytest.mark.parametrize("theme", [0, 1])
def test_theme_colours_have_contrast(theme):
    css = (SOURCE / "templates" / "page.css").read_text()
    blocks = re.findall(r":root \{(.*?)\n\s*\}", css, re.S)
    assert len(blocks) == 2
    colours = dict(re.findall(r"--([\w]+): (#[0-9a-f]{6})", blocks[theme]))
    for ground in ("paper", "surface"):
        for name in ("ink", "soft", "muted", "accent"):
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
        for name in (*(f"s{i}" for i in range(8)), "control", "ring"):
            assert contrast(colours[name], colours[ground]) >= 3, (name, ground)
    for mark in ("mark", "unmark", "sunk"):
        assert contrast(colours["ink"], colours[mark]) >= 4.5


@given(st.floats(-1e90, 1e90), st.floats(-1e90, 1e90), st.booleans(), st.booleans())
def test_axis_holds_its_values_and_has_few_ticks(one, other, log, padded):
    values = [abs(one) + 1e-9, abs(other) + 1e-9] if log else [one, other]
    scale = axis(values, "x", log=log, padded=padded)
    assert 1 <= len(scale.ticks) <= 12
    slack = 1e-6 * (scale.high - scale.low)
    assert scale.low - slack <= min(values) <= max(values) <= scale.high + slack
    fractions = [scale.at(value) for value in sorted(values)]
    assert 0 <= fractions[0] <= fractions[-1] <= 1
    places = [scale.at(value) for value, _ in scale.ticks]
    assert places == sorted(places)
    labels = [text for _, text in scale.ticks]
    assert all(len(text) <= 9 for text in labels), labels


def test_axis_ticks_are_round():
    assert [text for _, text in axis([0.03, 0.97], "x").ticks] == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert [text for _, text in axis([1e4, 3e7], "x", log=True).ticks] == ["10k", "100k", "1M", "10M"]
    assert [text for _, text in axis([20, 300], "x", log=True).ticks] == ["20", "50", "100", "200"]
    assert [text for _, text in axis([-12, 1], "x").ticks] == ["−15", "−10", "−5", "0", "5"]


def test_report_imports_only_what_it_may():
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module]
            for name in names:
                top = name.split(".")[0]
                allowed = top in sys.stdlib_module_names or top == "jinja2"
                assert allowed or name.startswith("shammie.report") or name == "shammie.core.errors", (path, name)
