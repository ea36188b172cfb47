"""Tiny models on disk, and the command line in this process and in its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers.utils.logging import disable_progress_bar

from pico import build
from shammie.cli.main import main
from shammie.core.model import load
from shammie.core.patch import WeightPatch, rows

SOURCE = Path(__file__).parents[2] / "src"


@pytest.fixture(scope="session")
def workplace(tmp_path_factory):
    """A directory with models `llama` and `bare` (no chat template), a patch of llama, texts and prompts."""
    disable_progress_bar()
    place = tmp_path_factory.mktemp("workplace")
    for name, family in (("llama", "llama"), ("bare", "gpt2")):
        model = build(family)
        model.module.save_pretrained(place / name)
        model.tokenizer.save_pretrained(place / name)
    (place / "bare" / "chat_template.jinja").unlink()
    llama = load(place / "llama")
    write = llama.anatomy.mlp_weights(1).write
    WeightPatch.make(llama, [rows(write, [0, 3], torch.ones(2, 32))]).save_pretrained(place / "patch")
    lines = [f"The cat number {number} sat on a mat." for number in range(12)]
    (place / "texts.txt").write_text("\n".join(lines))
    (place / "prompts.jsonl").write_text("".join(f'{{"prompt": "{line[:14]}"}}\n' for line in lines[:6]))
    return place


@pytest.fixture(scope="session")
def shell(workplace):
    """Run `shammie ...` in its own process, warnings being errors."""

    def run(*words, stdin="", env=None):
        return subprocess.run(
            [sys.executable, "-W", "error", "-m", "shammie.cli.main", *map(str, words)],
            cwd=workplace,
            env=os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"} | (env or {}),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture
def shammie(workplace, capsys, monkeypatch):
    """Run `shammie ...` in this process: exit code, standard output, standard error."""
    monkeypatch.chdir(workplace)

    def run(*words):
        code = main(list(map(str, words)))
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def refused(shammie):
    """Run a line that is a mistake and return its one sentence."""

    def run(*words):
        code, _, err = shammie(*words)
        assert code == 2
        assert err.count("\n") == 1
        assert err.startswith("shammie")
        assert "Traceback" not in err
        return err

    return run
