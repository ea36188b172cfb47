"""What users may rely on: the public names, what they import, and that the README says the truth."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import shammie

ROOT = Path(__file__).parents[2]


def test_public_names_are_the_listed_ones():
    listed = (Path(__file__).parent / "public_names.txt").read_text().split()
    assert sorted(shammie.__all__) == listed, "a change of the public surface must change public_names.txt"
    for name in listed:
        assert getattr(shammie, name) is not None


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)


def test_import_brings_no_heavy_library():
    heavy = {"torch", "transformers", "numpy", "jinja2", "tyro", "huggingface_hub"}
    loaded = run("import sys, shammie; print(*{name.split('.')[0] for name in sys.modules})").stdout.split()
    assert heavy.isdisjoint(loaded)


def test_import_has_no_side_effects():
    code = """
    import logging, random, sys
    before = random.getstate(), list(logging.getLogger().handlers), sys.excepthook
    import shammie
    assert (random.getstate(), list(logging.getLogger().handlers), sys.excepthook) == before
    """
    assert run(code).stdout == ""


def readme_example() -> str:
    text = (ROOT / "README.md").read_text()
    return text.split("```python\n", 1)[1].split("```", 1)[0]


@pytest.mark.smollm2
def test_readme_example_runs_as_printed():
    example = readme_example()
    lines = [line for line in example.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) == 5
    shown = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, cwd=ROOT, check=True)
    promised = example.rsplit("# ", 1)[1].strip()
    assert promised in shown.stdout


def test_readme_names_commands_that_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in ("tour", "test"):
        assert f"make {target}" in (ROOT / "README.md").read_text()
        assert f"\n{target}:" in makefile


def test_no_tracked_file_names_a_machine():
    tracked = subprocess.run(
        ["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout.splitlines()
    for name in tracked:
        path = ROOT / name
        if path.is_file() and path.suffix in {".py", ".md", ".toml", ".txt", ".yaml", ".json", ".html", ".css", ""}:
            text = path.read_text(errors="replace")
            for word in ("/" + "root/", "/" + "work/", "pypi" + ".org", "/home" + "/user"):
                assert word not in text, f"{name} holds {word}"
