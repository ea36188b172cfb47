"""Tables and columns of the terminal."""

from hypothesis import given
from hypothesis import strategies as st

from shammie.cli.console import _wide, complain, duration, facts, say, show, side_by_side, size, table

cells = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@given(rows=st.lists(st.tuples(cells, cells, cells), max_size=8), columns=st.integers(40, 120))
def test_tables_fit(rows, columns):
    lines = table(["one", "two", "three"], rows, columns=columns).split("\n")
    assert len(lines) == 2 + len(rows)
    assert all(_wide(line) <= columns for line in lines)


def test_table_aligns_numbers_to_the_right():
    text = table(["name", "value"], [["a", 1], ["b", 1000.0], ["c", None]])
    assert text == "name  value\n────  ─────\na         1\nb      1000\nc         –"


def test_values():
    assert show({"value": 0.5, "low": 0.25, "high": None, "n": 4}) == "0.5 [0.25, ?]"
    assert [show(value) for value in (True, None, 1234567, 0.00001234, "a\nb")] == [
        "yes",
        "–",
        "1,234,567",
        "1.234e-05",
        "a\\nb",
    ]
    assert [size(count) for count in (0, 999, 1.5e6, 2e15)] == ["0 B", "999 B", "1.5 MB", "2e+03 TB"]
    assert [duration(seconds) for seconds in (0.01, 240, 7300)] == ["0.01 s", "4 min", "2.0 h"]
    assert facts({"long_name": 1, "x": "y"}) == "long name  1\nx          y"


def test_side_by_side_wraps_both():
    text = side_by_side(("before", "a " * 40), ("after", "b\nc")).split("\n")
    assert "before" in text[0]
    assert "after" in text[0]
    assert len(side_by_side(("l", "word " * 30), ("r", ""), columns=43).split("\n")) > 5


def test_what_a_model_writes_does_not_steer_the_terminal(capsys):
    say("\x1b[31mred\x07 line\nnext\tone")
    complain("two\nlines \x1b]0;title")
    said = capsys.readouterr()
    assert said.out == "\ufffd[31mred\ufffd line\nnext\tone\n"
    assert said.err == "two lines \ufffd]0;title\n"
