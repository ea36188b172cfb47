"""Every example runs as it stands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAUNCHED = {
    "sekd_processes.py",
    "routing_processes.py",
    "thinking_states_processes.py",
}  # on several processes, by the rooms' test_*_processes.py
PATHS = [path for path in sorted((ROOT / "examples").glob("*.py")) if path.name not in LAUNCHED]


@pytest.mark.smollm2
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_example_runs(path):
    done = subprocess.run(
        [sys.executable, path],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
