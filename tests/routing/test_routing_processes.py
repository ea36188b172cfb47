"""Two processes train the model that one trains, with weights whole or spread over them."""

import json
from pathlib import Path

import pytest
import torch

from scripts import run_script
from shammie.core import files

SCRIPT = Path(__file__).parents[2] / "examples" / "routing_processes.py"


def launch(place, recipe, output, processes, **environment):
    line = [SCRIPT, recipe, place / "texts.jsonl", place / output, 4, 24]
    run_script(place, *line, processes=processes, CUDA_VISIBLE_DEVICES="", **environment)
    return files.load_tensors(place / output / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("processes")
    lines = [f"line {number} says {'much ' * (number % 5)}of it" for number in range(60)]
    (place / "texts.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return place


def test_two_processes_train_as_one_does(place):
    alone = launch(place, "kmeans", "alone", 1)
    assert any(name.endswith("gate.balance") and tensor.any() for name, tensor in alone.items())
    for output, environment in (("pair", {}), ("sharded", {"ACCELERATE_USE_FSDP": "true"})):
        found = launch(place, "kmeans", output, 2, **environment)
        assert found.keys() == alone.keys()
        for name, tensor in alone.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4, msg=f"{output} {name}")
