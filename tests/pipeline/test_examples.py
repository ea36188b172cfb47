"""Every example runs as it stands."""

from pathlib import Path

import pytest

from scripts import run_script

ROOT = Path(__file__).parents[2]
LAUNCHED = {
    "sekd_processes.py",
    "routing_processes.py",
    "thinking_states_processes.py",
}  # on several processes, by the rooms' test_*_processes.py
PATHS = [path for path in sorted((ROOT / "examples").glob("*.py")) if path.name not in LAUNCHED]


@pytest.mark.smollm2
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_example_runs(path, tmp_path):
    assert run_script(tmp_path, path).strip()
