"""The planted world, trained once for all tests, also as a directory with its entities as a CSV."""

import csv

import pytest

from shammie.entity_cells.localize import Localizer
from shammie.entity_cells.planted import SETTINGS, planted_world


@pytest.fixture(scope="session")
def world():
    return planted_world()


@pytest.fixture(scope="session")
def localizer(world):
    return Localizer(world.model, [entity.name for entity in world.entities.entities], SETTINGS)


@pytest.fixture(scope="session")
def cells(localizer):
    return localizer.cells()


@pytest.fixture(scope="session")
def place(world, tmp_path_factory):
    place = tmp_path_factory.mktemp("world")
    world.model.module.save_pretrained(place / "model")
    world.model.tokenizer.save_pretrained(place / "model")
    with (place / "entities.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["entity", "relation", "prompt", "answers", "popularity", "aliases"])
        for entity in world.entities.entities:
            for fact in entity.facts:
                rows.writerow([entity.name, fact.relation, fact.prompt, fact.answers[0], entity.popularity, entity.forms[0][1]])
    return place
