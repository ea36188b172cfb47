"""Every notebook runs from top to bottom, on a tiny model in place of the embedded one."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from transformers.utils.logging import disable_progress_bar

from pico import build
from shammie.beliefs.planted import cases as belief_cases
from shammie.beliefs.planted import planted_model as belief_world
from shammie.ember.pack import save_pack
from shammie.ember.planted import planted_model
from shammie.entity_cells.data import csv_text
from shammie.entity_cells.planted import entity_world, planted_world

ROOT = Path(__file__).parents[2]
TINY = {
    "ember": """from shammie.ember.settings import FactorizationSettings
factorization = FactorizationSettings(features=24, share=0.06)
MODEL, CONCEPT = "model", "pack.json"
SETTINGS = {"factorizations": 3, "least_keyness": 0.0, "factorization": factorization}""",
    "mfa": 'MODEL, LAYER, REGIONS, RANK, STEP = "model", 1, 4, 2, 24',
    "entity_cells": 'MODEL, ENTITIES, LIMIT, TEMPLATES, NAME = "model", "entities.csv", None, 4, "Entity4"',
    "sekd": 'MODEL, LAYERS, WINDOW, STEPS, RATE = "model", 2, 32, 3, 1e-3',
    "beliefs": 'MODEL, CASES, LIMIT, TOKENS, STEP = "model", "cases.jsonl", None, 4, 1',
    "bonafide": 'MODEL, PROBLEMS, TOKENS = "model", 2, 4',
    "recall": 'MODEL, QUESTIONS, KNOWLEDGE, LIMIT, SAMPLES, TRACE = "model", "geonames:countries", "geonames:", 2, 2, 12',
    "routing": "MODEL, STEPS, WINDOW = None, 3, 32",
    "thinking_states": 'MODEL, STEPS, LENGTH, TESTED = "shipped", 2, 2, 6',
    "rotate": 'MODEL, LAYER, NEURONS, CONCEPT = "model", 1, range(6), "k"',
}


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, monkeypatch, capsys):
    disable_progress_bar()
    model = build("gemma", hidden_size=64, intermediate_size=128)
    if path.stem == "ember":
        model, pack = planted_model()
        save_pack(pack, tmp_path / "pack.json")
    if path.stem == "entity_cells":
        model = planted_world().model
        (tmp_path / "entities.csv").write_text(csv_text(entity_world()))
    if path.stem == "beliefs":
        model = belief_world()
        (tmp_path / "cases.jsonl").write_text("".join(json.dumps(asdict(case)) + "\n" for case in belief_cases()))
    model.module.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    sources = ["".join(cell["source"]) for cell in cells]
    assert sources[0].startswith("MODEL"), "the first cell names the model and the sizes"
    assert not any(cell["outputs"] for cell in cells), "notebooks are kept without outputs"
    names: dict[str, object] = {}
    for number, source in enumerate([TINY[path.stem], *sources[1:]]):
        exec(compile(source, f"{path.name}, cell {number}", "exec"), names)
    assert capsys.readouterr().out
