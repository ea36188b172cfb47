"""The endpoint backend against a real server: `transformers serve` with the embedded model, on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from shammie.core.backends import EndpointBackend, LocalBackend, backend_for
from shammie.core.errors import BackendError
from shammie.core.generate import GenerationSettings
from shammie.core.model import LanguageModel, load

pytestmark = [pytest.mark.real, pytest.mark.smollm2]

GREEDY = GenerationSettings(max_new_tokens=16)
CHATS = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "system", "content": "Answer in one word."}, {"role": "user", "content": "What is 2 + 2?"}],
]
TEXTS = ["The capital of Italy is", "Water boils at a temperature of"]
PATIENCE = 120  # seconds for the server to come up on a busy machine


@pytest.fixture(scope="module")
def model() -> Iterator[LanguageModel]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two processes whose threads wait for each other are many times slower than one each
    yield load("smollm2-135m")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def endpoint(model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EndpointBackend]:
    folder = tmp_path_factory.mktemp("serve")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model.source)]
    command += ["--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder), "OMP_NUM_THREADS": "1"}
    log = folder / "log"
    with log.open("wb") as stream:
        server = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream)
        try:
            _wait(server, f"http://127.0.0.1:{port}/health", log)
            yield EndpointBackend(f"http://127.0.0.1:{port}/v1", str(model.source), timeout=120)
        finally:
            server.terminate()
            server.wait(30)


def _wait(server: subprocess.Popen[bytes], health: str, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(health, timeout=5):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.2)
    pytest.fail(f"transformers serve did not come up:\n{log.read_text()[-2000:]}")


@pytest.mark.parametrize("prompts", [CHATS, TEXTS], ids=["chat", "text"])
def test_greedy_text_is_that_of_the_model_in_memory(
    endpoint: EndpointBackend, model: LanguageModel, prompts: list
) -> None:
    jobs = [(i, 0) for i in range(len(prompts))]
    here, there = (one.complete(prompts, jobs, GREEDY) for one in (LocalBackend(model), endpoint))
    assert [item.text for item in there] == [item.text for item in here]
    assert [item.finish for item in there] == [item.finish for item in here]


def test_stop_string(endpoint: EndpointBackend, model: LanguageModel) -> None:
    settings = GenerationSettings(max_new_tokens=16, stop=("\n\n",))
    here, there = (one.complete(TEXTS[:1], [(0, 0)], settings)[0] for one in (LocalBackend(model), endpoint))
    assert (there.text, there.finish) == (here.text, here.finish) == (here.text, "stop")


def test_samples_have_their_own_seeds_and_come_again(endpoint: EndpointBackend) -> None:
    settings = GenerationSettings(max_new_tokens=8, temperature=1.0, samples=2)
    first = endpoint.complete(TEXTS, [(0, 0), (0, 1)], settings)
    assert first[0].text != first[1].text
    assert endpoint.complete(TEXTS, [(0, 1), (0, 0)], settings) == first[::-1]


def test_top_k_reaches_the_server(endpoint: EndpointBackend) -> None:
    settings = GenerationSettings(max_new_tokens=8, temperature=1.0, top_k=1)
    greedy = endpoint.complete(TEXTS[:1], [(0, 0)], GenerationSettings(max_new_tokens=8))[0].text
    assert endpoint.complete(TEXTS[:1], [(0, 0)], settings)[0].text == greedy


def test_refusals(endpoint: EndpointBackend) -> None:
    with pytest.raises(BackendError, match="prefill"):
        endpoint.complete(CHATS, [(0, 0)], GenerationSettings(prefill="It is"))
    with pytest.raises(BackendError, match=r"HTTP 400 .*pinned"):
        backend_for(f"{endpoint.url}#another").complete(CHATS, [(0, 0)], GREEDY)
