"""Two processes teach the student that one teaches, with weights whole or spread over them."""

import json
from pathlib import Path

import pytest
import torch

from pico import build
from scripts import run_script
from shammie.core import files

SCRIPT = Path(__file__).parents[2] / "examples" / "sekd_processes.py"


def launch(place, output, processes, **environment):
    line = [SCRIPT, place / "teacher", place / "student", place / "texts.jsonl", place / output, 4, 24]
    run_script(place, *line, processes=processes, CUDA_VISIBLE_DEVICES="", **environment)
    return files.load_tensors(place / output / "student" / "model.safetensors")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("processes")
    for name, seed in (("teacher", 1), ("student", 2)):
        model = build("llama", seed=seed, tie_word_embeddings=True)
        model.module.save_pretrained(place / name)
        model.tokenizer.save_pretrained(place / name)
    lines = [f"line {number} says {'much ' * (number % 5)}of it" for number in range(30)]
    (place / "texts.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return place


def test_two_processes_teach_as_one_does(place):
    alone = launch(place, "alone", 1)
    for output, environment in (("pair", {}), ("sharded", {"ACCELERATE_USE_FSDP": "true"})):
        found = launch(place, output, 2, **environment)
        assert found.keys() == alone.keys()
        for name, tensor in alone.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5, msg=f"{output} {name}")
