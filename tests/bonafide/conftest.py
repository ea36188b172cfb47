"""A tiny model that speaks like the examples, as a directory, for the commands."""

import pytest

import pico


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("bonafide")
    model = pico.shared("llama")
    model.module.save_pretrained(place / "model")
    model.tokenizer.save_pretrained(place / "model")
    return place
