"""One thread a process, no network but loopback, and no surprises from the environment."""

import os

# Before torch is imported, and inherited by the subprocesses that tests start: two workers share two cores.
os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TQDM_DISABLE="1")

import logging
import socket

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("shammie", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shammie")


@pytest.fixture(autouse=True, scope="session")
def only_loopback():
    """Any connection that leaves the machine fails the test that makes it."""
    connect = socket.socket.connect

    def guarded(self, address):
        host = address[0] if isinstance(address, tuple) else "localhost"
        if host not in ("localhost", "127.0.0.1", "::1") and self.family in (socket.AF_INET, socket.AF_INET6):
            raise AssertionError(f"a test tried to reach {host}")
        return connect(self, address)

    socket.socket.connect = guarded
    yield
    socket.socket.connect = connect


@pytest.fixture(autouse=True)
def own_logging():
    """What the command line sets up in this process when a test calls it goes with the test."""
    root, ours = logging.getLogger(), logging.getLogger("shammie")
    level = ours.level
    yield
    ours.setLevel(level)
    for handler in [handler for handler in root.handlers if type(handler).__module__.startswith("shammie.")]:
        root.removeHandler(handler)


@pytest.fixture
def shammie(place, monkeypatch, capsys):
    """Types a command in the directory `place` of the module's own fixture; its exit code and what it said."""
    from shammie.cli.main import main

    monkeypatch.chdir(place)

    def run(*words):
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def pytest_collection_modifyitems(items):
    """The tour takes longest, so it begins first and no worker waits for it at the end."""
    items.sort(key=lambda item: "test_tour" not in item.nodeid)
