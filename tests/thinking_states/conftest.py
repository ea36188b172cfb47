"""An empty directory, for the commands."""

import pytest


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("thinking_states")
