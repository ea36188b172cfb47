"""The planted model, trained once for all tests, also as a directory with its cases beside it."""

import json
from dataclasses import asdict

import pytest

from shammie.beliefs.planted import cases, planted_model


@pytest.fixture(scope="session")
def world():
    return planted_model()


@pytest.fixture(scope="session")
def place(world, tmp_path_factory):
    place = tmp_path_factory.mktemp("beliefs")
    world.module.save_pretrained(place / "model")
    world.tokenizer.save_pretrained(place / "model")
    (place / "cases.jsonl").write_text("".join(json.dumps(asdict(case)) + "\n" for case in cases(3)))
    return place
