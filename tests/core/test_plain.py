"""Configs to plain values and back, refused strictly; differences between records."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shammie.core.errors import ShammieError
from shammie.core.run import compare, from_plain, to_plain


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Config:
    model: str
    steps: int = 3
    mode: Literal["fast", "slow"] = "fast"
    verbose: bool = False
    output: Path | None = None
    layers: tuple[int, ...] = (0,)
    span: tuple[int, int] = (0, 1)
    inner: Inner = Inner()
    other: Inner | None = None
    seed: int | str = 0
    extra: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Checked:
    steps: int = 1

    def __post_init__(self):
        if self.steps < 1:
            raise ShammieError(f"steps is {self.steps}; give at least 1")


words = st.text("abc/é ", min_size=1, max_size=5)
finite = st.floats(allow_nan=False, allow_infinity=False)
inners = st.builds(Inner, rate=finite, names=st.lists(words, max_size=3).map(tuple))
configs = st.builds(
    Config,
    model=words,
    steps=st.integers(),
    mode=st.sampled_from(["fast", "slow"]),
    verbose=st.booleans(),
    output=st.none() | words.map(Path),
    layers=st.lists(st.integers(), max_size=3).map(tuple),
    span=st.tuples(st.integers(), st.integers()),
    inner=inners,
    other=st.none() | inners,
    seed=st.integers() | words,
    extra=st.dictionaries(words, finite, max_size=2),
)


@settings(deadline=None)
@given(config=configs)
def test_config_round_trip_through_json(config):
    assert from_plain(Config, json.loads(json.dumps(to_plain(config)))) == config


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"model": "m", "stepz": 4}, r"^Config has no key 'stepz' \(did you mean 'steps'\?\); the keys of Config are"),
        ({"model": "m", "qqq": 4}, r"^Config has no key 'qqq'; the keys"),
        ({"moddel": "m"}, r"has no key 'moddel' \(did you mean 'model'\?\)"),
        ({"model": "m", "inner": {"rat": 1.0}}, r"^Inner has no key 'rat' \(did you mean 'rate'\?\); .* rate, names$"),
        ({}, r"^Config\.model is missing; the keys of Config are"),
        ({"model": 3}, r"^Config\.model must be str, but is 3 \(int\)"),
        ({"model": "m", "steps": "4"}, r"^Config\.steps must be int, but is '4' \(str\)"),
        ({"model": "m", "steps": 4.0}, r"steps must be int, but is 4\.0 \(float\)"),
        ({"model": "m", "steps": True}, r"steps must be int, but is True \(bool\)"),
        ({"model": "m", "verbose": 1}, r"verbose must be bool, but is 1 \(int\)"),
        ({"model": "m", "mode": "warp"}, r"mode must be Literal\['fast', 'slow'\], but is 'warp'"),
        ({"model": "m", "output": 3}, r"output must be pathlib\.Path \| None, but is 3"),
        ({"model": "m", "layers": "12"}, r"layers must be tuple\[int, \.\.\.\], but is '12'"),
        ({"model": "m", "layers": [1, "2"]}, r"layers must be tuple\[int, \.\.\.\], but is \[1, '2'\]"),
        ({"model": "m", "span": [1, 2, 3]}, r"span must be tuple\[int, int\]"),
        ({"model": "m", "inner": {"rate": "1e-4"}}, r"^Config\.inner\.rate must be float, but is '1e-4' \(str\); the"),
        ({"model": "m", "inner": {"names": "abc"}}, r"^Config\.inner\.names must be tuple\[str, \.\.\.\], but is 'abc"),
        ({"model": "m", "inner": 3}, r"^Config\.inner must be Inner, but is 3"),
        ({"model": "m", "other": {"rate": None}}, r"^Config\.other\.rate must be float, but is None"),
        ({"model": "m", "seed": 1.5}, r"seed must be int \| str, but is 1\.5"),
        ({"model": "m", "extra": {"a": "b"}}, r"extra"),
        ([], r"^Config must be Config, but is \[\]"),
    ],
)  # fmt: skip
def test_bad_config_is_one_sentence(mapping, message):
    with pytest.raises(ShammieError, match=message):
        from_plain(Config, mapping)


def test_a_config_refuses_in_its_own_words_and_ints_become_floats():
    with pytest.raises(ShammieError, match=r"^steps is 0; give at least 1$"):
        from_plain(Checked, {"steps": 0})
    rate = from_plain(Inner, {"rate": 1}).rate
    assert (rate, type(rate)) == (1.0, float)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | finite | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)
records = st.lists(st.dictionaries(st.text(max_size=2), plain, max_size=3), max_size=4)


@settings(deadline=None)
@given(left=records, right=records)
def test_compare_is_empty_only_for_equals(left, right):
    assert compare(left, left) == []
    same = json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)
    assert not same or compare(left, right) == []
    assert (compare(left, right) == []) == (compare(right, left) == [])


def test_compare_says_where_and_what():
    left = [{"a": 1.0, "b": {"c": [1, 2]}, "d": True}, {"x": "y"}]
    assert compare(left, [{"a": 1, "b": {"c": [1, 3, 4]}, "d": 1}]) == [
        "record 0, b.c[1]: 2 is not 3",
        "record 0, b.c[2]: nothing is not 4",
        "record 0, d: True is not 1",
        "record 1: {'x': 'y'} is not nothing",
    ]
    near = [{"a": 1.0 + 1e-7, "b": {"c": [1, 2]}, "d": True}, {"x": "y"}]
    assert compare(left, near) == ["record 0, a: 1.0 is not 1.0000001"]
    assert compare(left, near, tolerance=1e-6) == []
