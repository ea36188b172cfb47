"""Two processes train the model that one trains, with weights whole or spread over them."""

from pathlib import Path

import torch

from scripts import run_script
from shammie.core import files

SCRIPT = Path(__file__).parents[2] / "examples" / "thinking_states_processes.py"


def launch(place, processes, **environment):
    place.mkdir()
    line = [SCRIPT, "parity", "thinking", place, 3, 0]  # jumps are drawn by process
    run_script(place, *line, processes=processes, CUDA_VISIBLE_DEVICES="", **environment)
    return files.load_tensors(place / "model" / "model.safetensors")


def test_two_processes_train_as_one_does(tmp_path):
    alone = launch(tmp_path / "alone", 1)
    for output, environment in (("pair", {}), ("sharded", {"ACCELERATE_USE_FSDP": "true"})):
        found = launch(tmp_path / output, 2, **environment)
        assert found.keys() == alone.keys()
        for name, tensor in alone.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4, msg=f"{output} {name}")
