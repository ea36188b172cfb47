"""The planted world, trained once for all tests, also as a directory with its entities as a CSV."""

import pytest

from shammie.entity_cells.data import csv_text
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
    (place / "entities.csv").write_text(csv_text(world.entities))
    return place
