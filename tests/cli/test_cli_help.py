"""Help and version answer at once, and nothing that computes is imported for them or for `import shammie`."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import shammie
from shammie.cli.commands import COMMANDS

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / "src")}
HEAVY = ("torch", "transformers", "numpy", "tyro", "cattrs", "jinja2")


def python(code):
    line = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    return done.stdout


def best_time(line, times=5):
    """Seconds of processor time, which other work on the machine does not lengthen."""
    found = []
    for _ in range(times):
        before = os.times()
        subprocess.run(line, env=ENVIRONMENT, capture_output=True, check=True)
        after = os.times()
        spent = [getattr(after, name) - getattr(before, name) for name in ("children_user", "children_system")]
        found.append(sum(spent))
    return min(found)


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_answers_within_a_third_of_a_second(flag):
    assert best_time([sys.executable, "-m", "shammie.cli.main", flag]) < 0.3


def test_importing_shammie_takes_no_time():
    bare = best_time([sys.executable, "-c", "pass"])
    assert best_time([sys.executable, "-c", "import shammie"]) - bare < 0.1


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"]])
def test_help_imports_nothing_heavy(words):
    code = f"import sys; from shammie.cli.main import main; main({words!r}); print([m for m in {HEAVY} if m in sys.modules])"
    assert python(code).splitlines()[-1] == "[]"


def test_help_of_every_command_imports_no_torch():
    code = f"""
import sys
from shammie.cli.main import main
for name in {list(COMMANDS)!r}:
    assert main([*name.split(), "--help"]) == 0
print([module for module in ("torch", "transformers", "numpy") if module in sys.modules])"""
    out = python(code)
    assert out.splitlines()[-1] == "[]"
    for name in COMMANDS:
        assert f"usage: shammie {name}" in out
    assert out.count("--config FILE") == len(COMMANDS)


def test_help_lists_every_command(capsys):
    from shammie.cli.main import main

    assert main([]) == 0
    out = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"  {name}" in out
        assert command.help in out


def test_import_is_lazy_and_complete():
    assert python(f"import sys, shammie; print([m for m in {HEAVY} if m in sys.modules])").strip() == "[]"
    assert set(shammie.__all__) <= set(dir(shammie))
    for name in shammie.__all__:
        assert getattr(shammie, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'loda'"):
        shammie.loda  # noqa: B018


def test_names_that_type_checkers_see_are_those_that_exist():
    import ast

    tree = ast.parse((ROOT / "src" / "shammie" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert set(seen) | {"__version__"} == set(shammie.__all__)
    assert seen == shammie._HOME


def test_version_is_that_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert shammie.__version__ == project["version"]
    assert project["scripts"]["shammie"] == "shammie.cli.main:main"
