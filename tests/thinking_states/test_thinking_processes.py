"""Two processes train the model that one trains, with weights whole or spread over them."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from shammie.core import files

SCRIPT = Path(__file__).parents[2] / "examples" / "thinking_states_processes.py"


def launch(place, processes, **environment):
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    line = line if processes > 1 else [sys.executable]
    line += [str(SCRIPT), "parity", "thinking", str(place), "3", "0"]  # jumps are drawn by process
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(line, env=os.environ | environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-9000:]
    return files.load_tensors(place / "model" / "model.safetensors")


def test_two_processes_train_as_one_does(tmp_path):
    alone = launch(tmp_path / "alone", 1)
    for output, environment in (("pair", {}), ("sharded", {"ACCELERATE_USE_FSDP": "true"})):
        found = launch(tmp_path / output, 2, **environment)
        assert found.keys() == alone.keys()
        for name, tensor in alone.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4, msg=f"{output} {name}")
