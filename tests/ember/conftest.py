"""The planted model: trained once a session, in memory and on disk with its pack."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ember_planted import SETTINGS

from shammie.ember.edit import find_directions
from shammie.ember.measure import Bench
from shammie.ember.pack import save_pack
from shammie.ember.planted import planted_model

torch.set_num_threads(1)
SOURCE = Path(__file__).parents[2] / "src"


@pytest.fixture(scope="session")
def planted():
    return planted_model(0)


@pytest.fixture(scope="session")
def model(planted):
    return planted[0]


@pytest.fixture(scope="session")
def pack(planted):
    return planted[1]


@pytest.fixture(scope="session")
def directions(model, pack):
    return find_directions(model, pack, SETTINGS, 0)


@pytest.fixture(scope="session")
def bench(model, pack):
    found = Bench(model, pack, ("choice",), 0)
    _ = found.readings
    return found


@pytest.fixture(scope="session")
def before(bench):
    return {split: bench.ask(split) for split in ("validation", "test")}


@pytest.fixture(scope="session")
def place(tmp_path_factory, model, pack):
    """A directory with `model` and `pack.json`."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    directory = tmp_path_factory.mktemp("ember")
    model.module.save_pretrained(directory / "model")
    model.tokenizer.save_pretrained(directory / "model")
    save_pack(pack, directory / "pack.json")
    return directory


@pytest.fixture(scope="session")
def shell(place):
    """Run `shammie ember ...` in its own process."""

    def run(*words, **options):
        return subprocess.run(
            [sys.executable, "-m", "shammie.cli.main", "ember", *map(str, words)],
            cwd=place,
            env=os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **options,
        )

    return run
