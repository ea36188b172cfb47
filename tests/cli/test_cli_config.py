"""One dataclass is command line, YAML file and run record."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tyro.conf import OmitArgPrefixes, Positional

from shammie.cli.commands import COMMANDS, Command, config_class, find, group
from shammie.cli.parsing import UsageError, parse, read_yaml
from shammie.core.errors import DataError, ShammieError
from shammie.core.plain import from_plain, to_plain
from shammie.core.run import read_run


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    """How fast."""
    words: tuple[str, ...] = ()
    """Which words."""

    def __post_init__(self):
        if self.rate <= 0:
            raise ShammieError("rate must be above 0")


@dataclass(frozen=True)
class Outer:
    """A room's command.

    With a second paragraph.
    """

    model: Positional[str]
    """A model."""
    steps: int
    """How many."""
    output_dir: Path = Path("runs")
    """Where."""
    kind: Literal["one", "two"] = "one"
    """Which."""
    limit: int | None = None
    """At most."""
    fast: bool = False
    """Hurry."""
    inner: OmitArgPrefixes[Inner] = field(default_factory=Inner)
    """Details."""

    def __post_init__(self):
        if self.steps < 1:
            raise ShammieError("steps must be at least 1")


def line(*words):
    return parse(Outer, words, "outer")


def test_flags_become_a_config():
    config = line("m", "--steps", "3", "--fast", "--rate", "2", "--words", "a", "b c", "--kind", "two")
    assert config == Outer("m", 3, fast=True, kind="two", inner=Inner(2.0, ("a", "b c")))


def test_a_file_gives_defaults_and_flags_go_first(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("model: m\nsteps: 4\nfast: true\ninner: {rate: 1e-3, words: [x]}\noutput_dir: a/b\n")
    assert line("--config", str(path)) == Outer("m", 4, Path("a/b"), fast=True, inner=Inner(1e-3, ("x",)))
    changed = line("other", f"--config={path}", "--steps", "5", "--rate", "0.5", "--no-fast")
    assert changed == Outer("other", 5, Path("a/b"), inner=Inner(0.5, ("x",)))


def test_a_file_may_leave_required_settings_to_the_line(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("kind: two\n")
    assert line("m", "--steps", "1", "--config", str(path)).kind == "two"
    with pytest.raises(UsageError, match=r"missing (STR|MODEL), --steps INT"):
        line("--config", str(path))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("stepps: 1", "Outer has no key 'stepps' (did you mean 'steps'?)"),
        ("inner: {rat: 1}", "Inner has no key 'rat' (did you mean 'rate'?)"),
        ("steps: many", "Outer.steps must be int, but is 'many'"),
        ("kind: three", "Outer.kind must be"),
        ("steps: 0\nmodel: m", "steps must be at least 1"),
        ("inner: {rate: 0}", "rate must be above 0"),
        ("- a\n- b", "must hold settings as `name: value`, but holds list"),
        ("", "but holds NoneType"),
        ("a: [1\n", "line 2: invalid YAML"),
        ("a: !!python/object:os.system x", "invalid YAML"),
    ],
)
def test_mistakes_in_a_file(text, sentence, tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(ShammieError) as caught:
        line("m", "--config", str(path), "--limit", "3") if "steps" in text else line(
            "m", "--steps", "1", "--config", str(path)
        )
    assert sentence in str(caught.value)


def test_numbers_of_a_file(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("a: 1e-3\nb: -2.5E+4\nc: 1.e3\nd: 3\ne: 1e3x\nf: 12:30:45\n")
    values = read_yaml(path)
    assert [values[name] for name in "abcde"] == [1e-3, -2.5e4, 1e3, 3, "1e3x"]
    path.write_bytes(b"a: \xff\n")
    with pytest.raises(DataError, match="invalid YAML"):
        read_yaml(path)


configs = st.builds(
    Outer,
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1),
    st.integers(1, 10**6),
    st.sampled_from([Path("a"), Path("/b/c d")]),
    st.sampled_from(["one", "two"]),
    st.none() | st.integers(0, 99),
    st.booleans(),
    st.builds(Inner, st.floats(1e-300, 1e300), st.lists(st.text("ab -é'\"", min_size=1)).map(tuple)),
)


@given(config=configs)
def test_config_file_and_record_are_one(config, tmp_path_factory):
    plain = json.loads(json.dumps(to_plain(config)))
    assert from_plain(Outer, plain) == config
    path = tmp_path_factory.getbasetemp() / "round.yaml"
    path.write_text(yaml.safe_dump(plain, allow_unicode=True))
    assert line("--config", str(path)) == config
    path.with_suffix(".json").write_text(json.dumps(plain))
    assert line("--config", str(path.with_suffix(".json"))) == config


def test_a_recorded_config_makes_the_same_run(shammie, tmp_path):
    flags = ("--prompts", "prompts.jsonl", "--max-new-tokens", "3", "--stop", "a", "b c")
    assert shammie("generate", "llama", *flags, "--output-dir", tmp_path / "one")[0] == 0
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(read_run(tmp_path / "one").config))
    words = ("generate", "--config", tmp_path / "settings.yaml", "--output-dir", tmp_path / "two")
    assert shammie(*words)[0] == 0
    for name in ("results.jsonl", "progress.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_every_config_is_a_frozen_dataclass_with_documented_fields():
    import inspect

    for name in COMMANDS:
        cls = config_class(name)
        assert dataclasses.is_dataclass(cls), name
        assert cls.__dataclass_params__.frozen, name
        assert hasattr(cls, "run") or hasattr(cls, "prepare"), name
        source = inspect.getsource(cls)
        for item in dataclasses.fields(cls):
            declared = source.index(f"\n    {item.name}: ")
            following = source[declared + 1 :].split("\n")[1]
            assert following.strip().startswith('"""'), f"{name}: {item.name} has no docstring"
        if hasattr(cls, "prepare"):
            assert {"output_dir", "resume", "dry_run"} <= {item.name for item in dataclasses.fields(cls)}, name


def test_commands_of_two_words(monkeypatch, shammie):
    monkeypatch.setitem(COMMANDS, "basin fit", Command("shammie.cli.show", "Show", "fit it"))
    monkeypatch.setitem(COMMANDS, "basin read", Command("shammie.cli.show", "Show", "read it"))
    assert find(["basin", "fit", "x", "--y"]) == ("basin fit", ["x", "--y"])
    assert group("basin") == ["basin fit", "basin read"]
    for line in (["basin"], ["basin", "--help"]):
        code, out, _ = shammie(*line)
        assert code == 0
        assert "basin fit" in out
        assert "capture" not in out
    code, _, err = shammie("basin", "fitt")
    assert code == 2
    assert "'basin fitt' is no command; did you mean 'basin fit'? (shammie basin --help lists them)" in err
    assert "fit it" in shammie("--help")[1]
    code, _, err = shammie("basin", "fit", "nowhere")
    assert (code, err.split(":")[0]) == (2, "shammie basin fit")
