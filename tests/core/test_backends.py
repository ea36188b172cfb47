"""Backends: the same completions from a model in memory, a server of OpenAI's protocol and vLLM, and no silent loss."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType, SimpleNamespace

import pytest
import torch

import pico
from shammie.core.backends import (
    Backend,
    BackendCompleter,
    EndpointBackend,
    LocalBackend,
    VllmBackend,
    backend_for,
    seed_of,
)
from shammie.core.errors import BackendError, ShammieError
from shammie.core.generate import GenerationSettings, generate
from shammie.core.judge import Judge, JudgePrompt

CHAT = [{"role": "user", "content": "What is the capital of France?"}]
SAMPLED = GenerationSettings(temperature=1.0, samples=3)
THINKING = GenerationSettings(reasoning_start="<think>", reasoning_end="</think>", stop=("\n\n",))

Answer = Callable[[dict, int], object]  # (request body, how many came before) -> reply, (status, reply) or an act


def chat_reply(content: str | None = "Paris.", finish: str = "stop", used: int = 3, **message: object) -> dict:
    said = {"role": "assistant", "content": content, **message}
    choice = {"index": 0, "message": said, "finish_reason": finish}
    return {"id": "1", "object": "chat.completion", "choices": [choice], "usage": {"completion_tokens": used}}


def text_reply(text: str, finish: str = "stop", **choice: object) -> dict:
    return {"id": "1", "object": "text_completion", "choices": [{"text": text, "finish_reason": finish, **choice}]}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny models gain nothing from threads and wait for each other ten times longer on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Server:
    """A server on loopback that answers as told and remembers what it was asked."""

    def __init__(self) -> None:
        self.answer: Answer = lambda *_: chat_reply()
        self.owner, self.paths, self.asked, self.headers = "me", [], [], []
        self.busy, self.busiest, self.lock = 0, 0, threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                if self.path == "/v1/models":
                    self.reply(200, {"object": "list", "data": [{"id": "m", "owned_by": outer.owner}]})
                elif self.path == "/openapi.json" and outer.paths:
                    self.reply(200, {"paths": {path: {} for path in outer.paths}})
                else:
                    self.reply(404, {"detail": "Not Found"})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with outer.lock:
                    before = len(outer.asked)
                    outer.asked.append((self.path, body))
                    outer.headers.append(self.headers)
                    outer.busy += 1
                    outer.busiest = max(outer.busiest, outer.busy)
                try:
                    answer = outer.answer(body, before)
                finally:  # before the reply leaves: who has it may ask again at once
                    with outer.lock:
                        outer.busy -= 1
                if answer == "drop":
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                status, said = answer if isinstance(answer, tuple) else (200, answer)
                self.reply(status, said)

            def reply(self, status: int, said: object) -> None:
                data = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *_: None  # clients that time out hang up
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def backend(self, **options: object) -> EndpointBackend:
        return EndpointBackend(self.url, "m", **{"timeout": 10.0, "retries": 2, **options})

    def bodies(self) -> list[dict]:
        return [body for _, body in self.asked]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    server = Server()
    yield server
    server.close()


def complain(backend: Backend, prompts: list, settings: GenerationSettings | None = None) -> str:
    with pytest.raises(BackendError) as caught:
        backend.complete(prompts, [(i, 0) for i in range(len(prompts))], settings or GenerationSettings())
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


class TestLocal:
    @pytest.mark.parametrize("settings", [GenerationSettings(max_new_tokens=6), GenerationSettings(6, 0.9, samples=2)])
    def test_equals_generate(self, settings: GenerationSettings) -> None:
        model, prompts = pico.shared("llama"), ["The capital", CHAT, "a longer prompt than the others"]
        made = generate(model, prompts, settings)
        jobs = [(prompt, sample) for prompt in range(3) for sample in range(settings.samples)]
        assert LocalBackend(model).complete(prompts, jobs, settings) == made
        few = LocalBackend(model, rows=2).complete(prompts, jobs[::-1], settings)[::-1]
        assert [replace(item, log_probability=None) for item in few] == [
            replace(item, log_probability=None) for item in made
        ]
        assert LocalBackend(model).complete(prompts, [], settings) == []

    def test_identity_names_weights_in_force(self) -> None:
        model = pico.build("llama", seed=3)
        before = LocalBackend(model).identity
        assert before.endswith(model.stored_hash[:16])
        assert "/" not in before
        model.patches.append("0" * 64)
        assert LocalBackend(model).identity != before


class TestRequests:
    def test_chat(self, server: Server) -> None:
        made = server.backend().complete([CHAT], [(0, 0)], GenerationSettings(max_new_tokens=9))
        path, body = server.asked[0]
        assert path == "/v1/chat/completions"
        assert body == {"model": "m", "messages": CHAT, "temperature": 0.0, "max_completion_tokens": 9}
        item = made[0]
        assert (item.text, item.answer, item.reasoning, item.finish) == ("Paris.", "Paris.", None, "end")
        assert (item.prompt, item.sample, item.tokens, item.log_probability) == (0, 0, (), None)

    def test_text_with_prefill(self, server: Server) -> None:
        server.answer = lambda *_: text_reply(" Paris. It", "length")
        settings = GenerationSettings(prefill=" is", stop=(" It",), max_new_tokens=4, top_k=3)
        made = server.backend().complete(["The capital of France"], [(0, 0)], settings)[0]
        path, body = server.asked[0]
        assert path == "/v1/completions"
        assert body == {
            "model": "m", "prompt": "The capital of France is", "temperature": 0.0, "max_tokens": 4, "stop": [" It"],
        }  # fmt: skip
        assert (made.text, made.answer, made.finish) == (" Paris.", " Paris.", "stop")

    def test_token_ids_go_as_they_are(self, server: Server) -> None:
        server.answer = lambda *_: text_reply(" Lima")
        made = server.backend().complete({7: [5, 6]}, [(7, 3)], GenerationSettings())
        assert server.bodies()[-1]["prompt"] == [5, 6]
        assert (made[0].prompt, made[0].sample, made[0].text) == (7, 3, " Lima")
        with pytest.raises(BackendError, match="put the prefill into it"):
            server.backend().complete([[5, 6]], [(0, 0)], GenerationSettings(prefill="x"))

    @pytest.mark.parametrize(
        ("finish", "stop_reason", "expected"),
        [("length", None, "length"), ("stop", None, "end"), ("stop", "X", "stop"), ("stop", 7, "end")],
    )
    def test_finish(self, server: Server, finish: str, stop_reason: object, expected: str) -> None:
        server.answer = lambda *_: text_reply("a", finish, stop_reason=stop_reason)
        assert server.backend().complete(["p"], [(0, 0)], GenerationSettings(stop=("X",)))[0].finish == expected

    def test_seeds_belong_to_the_sample(self, server: Server) -> None:
        jobs = [(prompt, sample) for prompt in range(4) for sample in range(3)]
        server.backend(concurrency=1).complete([CHAT] * 4, jobs, SAMPLED)
        seeds = [body["seed"] for body in server.bodies()]
        assert seeds == [seed_of(0, *job) for job in jobs]
        assert len(set(seeds)) == len(jobs)
        assert all(0 <= seed < 2**31 for seed in seeds)
        assert seed_of(0, 1, 23) != seed_of(0, 12, 3) != seed_of(1, 12, 3)
        assert seed_of(0, 0, 0) == 622393769  # the same on every machine, for ever

    def test_only_four_stops_are_sent_and_all_are_cut(self, server: Server) -> None:
        server.answer = lambda *_: text_reply("a5b")
        settings = GenerationSettings(stop=("1", "2", "3", "4", "5"))
        assert server.backend().complete(["p"], [(0, 0)], settings)[0].answer == "a"
        assert server.bodies()[0]["stop"] == ["1", "2", "3", "4"]

    def test_order_is_kept_under_concurrency(self, server: Server) -> None:
        def answer(body: dict, before: int) -> dict:
            time.sleep(0.06 if before % 2 else 0.01)
            return text_reply(body["prompt"].upper())

        server.answer = answer
        prompts = [f"prompt {i}" for i in range(12)]
        jobs = [(i, 0) for i in reversed(range(12))]
        made = server.backend(concurrency=4).complete(prompts, jobs, GenerationSettings())
        assert [item.text for item in made] == [f"PROMPT {i}" for i in reversed(range(12))]
        assert [(item.prompt, item.sample) for item in made] == jobs
        assert 2 <= server.busiest <= 4

    def test_no_key_is_needed_here_and_one_that_is_set_is_sent(self, server: Server, monkeypatch) -> None:
        server.backend().complete([CHAT], [(0, 0)], GenerationSettings())
        monkeypatch.setenv("MY_KEY", "secret-value")
        backend = server.backend(api_key_env="MY_KEY")
        backend.complete([CHAT], [(0, 0)], GenerationSettings())
        assert server.headers[-1]["authorization"] == "Bearer secret-value"
        assert backend.identity == f"{server.url}#m"

    def test_proxies_are_not_asked_about_this_machine(self, server: Server, monkeypatch) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        assert server.backend().complete([CHAT], [(0, 0)], GenerationSettings())[0].answer == "Paris."


class TestKnownServers:
    def test_vllm_is_told_what_its_defaults_would_change(self, server: Server) -> None:
        server.owner = "vllm"
        server.backend().complete([CHAT], [(0, 0)], GenerationSettings())
        server.backend().complete(
            [CHAT], [(0, 0)], GenerationSettings(temperature=1.0, top_k=5, reasoning_end="</think>")
        )
        plain, sampled = server.bodies()
        assert (plain["top_k"], plain["min_p"], plain["repetition_penalty"]) == (-1, 0.0, 1.0)
        assert plain["skip_special_tokens"]
        assert (sampled["top_k"], sampled["top_p"], sampled["skip_special_tokens"]) == (5, 1.0, False)

    def test_transformers_serve_is_told_to_sample_and_asked_one_by_one(self, server: Server) -> None:
        server.paths = ["/v1/chat/completions", "/load_model"]
        server.backend().complete([CHAT], [(0, i) for i in range(3)], SAMPLED)
        chosen = json.loads(server.bodies()[0]["generation_config"])
        assert chosen == {"do_sample": True, "top_k": 0, "repetition_penalty": 1.0}
        assert "top_k" not in server.bodies()[0]
        assert server.busiest == 1

    @pytest.mark.parametrize("owner", ["vllm", "sglang"])
    def test_prefilled_chat_goes_on_where_the_server_can(self, server: Server, owner: str) -> None:
        server.owner = owner
        server.answer = lambda *_: chat_reply(" Paris")
        made = server.backend().complete([CHAT], [(0, 0)], GenerationSettings(prefill="It is"))
        body = server.bodies()[0]
        assert body["messages"] == [*CHAT, {"role": "assistant", "content": "It is"}]
        assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
        assert made[0].text == " Paris"

    def test_prefilled_chat_is_refused_elsewhere(self, server: Server) -> None:
        message = complain(server.backend(), [CHAT], GenerationSettings(prefill="It is"))
        assert "prefill" in message
        assert server.url in message
        assert not server.asked


class TestReasoning:
    def ask(self, server: Server, reply: dict, settings: GenerationSettings = THINKING, prompt: object = CHAT):
        server.answer = lambda *_: reply
        return server.backend().complete([prompt], [(0, 0)], settings)[0]

    def test_stop_inside_reasoning_is_not_honoured(self, server: Server) -> None:
        made = self.ask(server, chat_reply("<think>one\n\ntwo</think>Paris\n\nMore", "length"))
        assert (made.reasoning, made.answer, made.finish) == ("one\n\ntwo", "Paris", "stop")
        assert "stop" not in server.bodies()[0]

    def test_truncated_reasoning_is_no_answer(self, server: Server) -> None:
        made = self.ask(server, chat_reply("<think>The capital is Paris", "length"))
        assert (made.reasoning, made.answer, made.finish) == ("The capital is Paris", None, "length")

    @pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
    @pytest.mark.parametrize("settings", [THINKING, GenerationSettings()])
    def test_reasoning_that_the_server_parted(self, server: Server, field: str, settings: GenerationSettings) -> None:
        made = self.ask(server, chat_reply("Paris", **{field: "hm\n\nhm"}), settings)
        assert (made.reasoning, made.answer, made.finish) == ("hm\n\nhm", "Paris", "end")
        for nothing in (None, ""):
            made = self.ask(server, chat_reply(nothing, "length", **{field: "Paris?"}), settings)
            assert (made.reasoning, made.answer, made.finish) == ("Paris?", None, "length")

    def test_stop_is_cut_from_the_answer_that_the_server_parted(self, server: Server) -> None:
        made = self.ask(server, chat_reply("Paris\n\nMore", reasoning="hm"))
        assert (made.answer, made.finish) == ("Paris", "stop")

    def test_stop_string_that_fired_inside_parted_reasoning(self, server: Server) -> None:
        server.answer = lambda *_: chat_reply(None, "stop", reasoning="hm")
        assert "reasoning_end" in complain(server.backend(), [CHAT], GenerationSettings(stop=("\n",)))

    def test_template_that_opens_reasoning_is_found_out(self, server: Server) -> None:
        server.answer = lambda *_: chat_reply("hm</think>Paris")
        assert "reasoning_start" in complain(server.backend(), [CHAT], THINKING)
        made = self.ask(server, chat_reply("hm</think>Paris"), GenerationSettings(reasoning_end="</think>"))
        assert (made.reasoning, made.answer) == ("hm", "Paris")

    def test_prompt_that_opens_reasoning(self, server: Server) -> None:
        made = self.ask(server, text_reply("hm</think>Paris"), THINKING, "Q: capital?\n<think>\n")
        assert (made.reasoning, made.answer) == ("hm", "Paris")
        made = self.ask(server, text_reply("hm</think>Paris"), replace(THINKING, prefill="\n"), "Q: capital? <think>")
        assert (made.reasoning, made.answer) == ("hm", "Paris")
        made = self.ask(server, text_reply("hm", "length"), THINKING, "Q: capital?\n<think>\n")
        assert (made.reasoning, made.answer) == ("hm", None)


class TestFailures:
    @pytest.mark.parametrize("failure", ["drop", (500, {"error": "oops"}), (429, {"error": {"message": "slow down"}})])
    def test_retried_then_whole(self, server: Server, failure: object) -> None:
        tries: Counter[str] = Counter()

        def answer(body: dict, _: int) -> object:
            tries[body["prompt"]] += 1
            return failure if tries[body["prompt"]] == 1 else text_reply(body["prompt"] + "!")

        server.answer = answer
        made = server.backend().complete(["a", "b", "c"], [(0, 0), (1, 0), (2, 0)], GenerationSettings())
        assert [item.text for item in made] == ["a!", "b!", "c!"]
        assert tries == {"a": 2, "b": 2, "c": 2}

    def test_one_lost_request_fails_the_batch(self, server: Server) -> None:
        server.answer = lambda body, _: (503, {}) if body["prompt"] == "b" else text_reply("fine")
        message = complain(server.backend(), ["a", "b", "c"])
        assert "503" in message
        assert "log" in message
        assert server.bodies().count(server.bodies()[-1]) <= 3
        assert sum(body["prompt"] == "b" for body in server.bodies()) == 3  # once and two retries

    def test_waiting_requests_are_given_up_after_a_failure(self, server: Server) -> None:
        server.answer = lambda *_: (400, {"error": {"message": "too long"}})
        complain(server.backend(concurrency=1), [f"{i}" for i in range(50)])
        assert len(server.asked) < 5

    @pytest.mark.parametrize(
        ("status", "reply", "said"),
        [
            (400, {"error": {"message": "prompt is too long"}}, ("prompt is too long", "change what it names")),
            (401, {"error": {"message": "bad key k-123"}}, ("MY_KEY", "***")),
            (404, {"error": {"message": "The model `m` does not exist"}}, ("does not exist", "serves m")),
            (422, {"detail": "Unexpected fields"}, ("Unexpected fields",)),
            (404, b"not json", ("404",)),
            (404, [1], ("404",)),
        ],
    )
    def test_refusal_is_not_repeated(
        self, server: Server, monkeypatch, status: int, reply: object, said: tuple
    ) -> None:
        monkeypatch.setenv("MY_KEY", "k-123")
        server.answer = lambda *_: (status, reply)
        message = complain(server.backend(api_key_env="MY_KEY"), [CHAT])
        assert len(server.asked) == 1
        assert f"{server.url}/chat/completions" in message
        assert all(part in message for part in said)
        assert "k-123" not in message

    def test_server_without_text_completions(self, server: Server) -> None:
        server.answer = lambda *_: (404, {"detail": "Not Found"})
        assert "pass chats" in complain(server.backend(), ["plain"])

    @pytest.mark.parametrize(
        "reply",
        [
            b"{broken", b"", b"<html>hello</html>", [], {}, {"choices": []}, {"choices": [{}]}, {"choices": None},
            {"choices": [{"message": None, "finish_reason": "stop"}]}, chat_reply(None), chat_reply("x", "tool_calls"),
            chat_reply(None, "content_filter"), chat_reply(["x"]), b"null",
        ],
    )  # fmt: skip
    def test_malformed(self, server: Server, reply: object) -> None:
        server.answer = lambda *_: reply
        message = complain(server.backend(), [CHAT])
        assert server.url in message
        assert len(server.asked) == 1

    def test_timeout(self, server: Server) -> None:
        server.answer = lambda *_: time.sleep(0.5) or chat_reply()
        message = complain(server.backend(timeout=0.1, retries=1), [CHAT])
        assert "0.1 s" in message
        assert "timeout" in message
        assert len(server.asked) == 2

    def test_nobody_there(self, monkeypatch) -> None:
        monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
            message = complain(EndpointBackend(url, "m", retries=1), [CHAT])
        assert "cannot reach" in message
        assert url in message

    def test_gone_after_the_first_batch(self, server: Server) -> None:
        backend = server.backend(retries=1)
        backend.complete([CHAT], [(0, 0)], GenerationSettings())
        server.answer = lambda *_: "drop"
        assert "cannot reach" in complain(backend, [CHAT])

    @pytest.mark.parametrize(
        "url",
        [
            "ftp://x/v1",
            "127.0.0.1:8000",
            "http://",
            "http://[::1/v1",
            "http://user:pw@127.0.0.1/v1",
            "http://x/v1?key=1",
        ],
    )
    def test_bad_address(self, url: str) -> None:
        with pytest.raises(BackendError, match="HOST:PORT") as caught:
            EndpointBackend(url, "m")
        assert "pw" not in str(caught.value)

    def test_identity_holds_no_trailing_slash(self) -> None:
        assert EndpointBackend("https://models.example/v1/", "m").identity == "https://models.example/v1#m"

    @pytest.mark.parametrize(("package", "spec"), [("openai", "http://127.0.0.1:1/v1#m"), ("vllm", "vllm:m")])
    def test_package_that_is_not_installed(self, monkeypatch, package: str, spec: str) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(BackendError, match=rf"{package} is not installed; run: pip install 'shammie\["):
            backend_for(spec)


class FakeEngine:
    """vLLM's LLM as far as the backend uses it, with a scripted reply."""

    def __init__(self, model: str, **options: object) -> None:
        if model == "absent":
            raise OSError("no such\nmodel")
        self.options, self.asked = options, []
        self.reply = {"text": "Paris.", "token_ids": [5, 6], "finish_reason": "stop", "stop_reason": None}

    def get_tokenizer(self) -> object:
        return pico.tokenizer()

    def generate(self, prompts: list, sampling_params: list, *, use_tqdm: bool = True) -> list:
        assert not use_tqdm
        self.asked = [
            (prompt["prompt_token_ids"], vars(one)) for prompt, one in zip(prompts, sampling_params, strict=True)
        ]
        if self.reply is None:
            raise ValueError("prompt is longer than max_model_len")
        return [SimpleNamespace(outputs=[SimpleNamespace(cumulative_logprob=-1.5, **self.reply)]) for _ in prompts]


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ModuleType("vllm")
    fake.LLM, fake.SamplingParams = FakeEngine, SimpleNamespace
    monkeypatch.setitem(sys.modules, "vllm", fake)


@pytest.mark.usefixtures("vllm")
class TestVllm:
    def test_requests(self) -> None:
        backend = backend_for("vllm:some/model", tensor_parallel_size=2)
        assert isinstance(backend, VllmBackend)
        assert backend.identity == "vllm:some/model"
        assert backend._engine.options == {"tensor_parallel_size": 2}
        settings = GenerationSettings(7, 0.8, 0.9, samples=2, stop=("X",), prefill="It")
        made = backend.complete([CHAT, "plain"], [(1, 1), (0, 0)], settings)
        (plain, first), (chat, second) = backend._engine.asked
        tokenizer = pico.tokenizer()
        assert tokenizer.decode(plain) == "plainIt"
        assert tokenizer.decode(chat) == "<user>What is the capital of France?\n<assistant>It"
        assert first == {
            "temperature": 0.8, "top_p": 0.9, "top_k": -1, "seed": seed_of(0, 1, 1), "max_tokens": 7, "logprobs": 0,
            "skip_special_tokens": False, "stop": ["X"],
        }  # fmt: skip
        assert second["seed"] == seed_of(0, 0, 0)
        assert [(item.prompt, item.sample) for item in made] == [(1, 1), (0, 0)]
        assert (made[0].text, made[0].tokens, made[0].log_probability, made[0].finish) == (
            "Paris.",
            (5, 6),
            -1.5,
            "end",
        )

    @pytest.mark.parametrize(
        ("reply", "expected"),
        [
            ({"text": "hm\n\nhm</think>Paris\n\nMore", "finish_reason": "length"}, ("hm\n\nhm", "Paris", "stop")),
            ({"text": "hm", "finish_reason": "length"}, ("hm", None, "length")),
        ],
    )
    def test_reasoning_that_the_prefill_opens(self, reply: dict, expected: tuple) -> None:
        backend = VllmBackend("m")
        backend._engine.reply |= reply
        settings = GenerationSettings(
            prefill="<think>", reasoning_start="<think>", reasoning_end="</think>", stop=("\n\n",)
        )
        made = backend.complete([CHAT], [(0, 0)], settings)[0]
        assert (made.reasoning, made.answer, made.finish) == expected
        assert backend._engine.asked[0][1]["stop"] == []
        assert backend._engine.asked[0][1]["seed"] is None

    def test_stop_string(self) -> None:
        backend = VllmBackend("m")
        backend._engine.reply |= {"stop_reason": "X"}
        assert backend.complete(["p"], [(0, 0)], GenerationSettings(stop=("X",)))[0].finish == "stop"

    def test_failures(self) -> None:
        with pytest.raises(BackendError, match="cannot load 'absent': no such model"):
            VllmBackend("absent")
        backend = VllmBackend("m")
        backend._engine.reply |= {"finish_reason": "abort"}
        assert "'abort'" in complain(backend, [CHAT])
        backend._engine.reply = None
        assert "longer than max_model_len" in complain(backend, [CHAT])


class TestCompleter:
    PROMPT = JudgePrompt("right", "1", "Is $response right?", ("YES", "NO"))

    def test_judges_through_an_endpoint(self, server: Server) -> None:
        server.answer = lambda body, _: chat_reply("YES" if "Paris" in body["messages"][0]["content"] else "NO")
        completer = BackendCompleter(server.backend(), GenerationSettings(max_new_tokens=5))
        verdicts = Judge(completer).judge(self.PROMPT, [{"response": "Paris"}, {"response": "Rome"}])
        assert [item.verdict for item in verdicts] == ["YES", "NO"]
        assert completer.identity.startswith(f"{server.url}#m chat ")
        assert completer.identity != BackendCompleter(server.backend()).identity

    def test_unclosed_reasoning_is_no_verdict(self, server: Server) -> None:
        server.answer = lambda *_: chat_reply("<think>YES", "length")
        completer = BackendCompleter(server.backend(), THINKING)
        assert completer.complete(["p"]) == ["<think>YES"]
        assert self.PROMPT.parse("<think>YES") is None

    def test_plain_text_on_a_local_model(self) -> None:
        model = pico.shared("llama")
        settings = GenerationSettings(max_new_tokens=4)
        completer = BackendCompleter(LocalBackend(model), settings, chat=False)
        assert completer.complete(["one", "two"]) == [item.text for item in generate(model, ["one", "two"], settings)]

    def test_one_reply_a_prompt(self) -> None:
        with pytest.raises(ShammieError, match="samples"):
            BackendCompleter(LocalBackend(pico.shared("llama")), SAMPLED)


def test_backend_for(tmp_path) -> None:
    model = pico.shared("llama")
    local = backend_for(model)
    assert isinstance(local, LocalBackend)
    assert local.model is model
    endpoint = backend_for("http://127.0.0.1:9/v1#org/name", concurrency=2)
    assert isinstance(endpoint, EndpointBackend)
    assert (endpoint.model, endpoint.concurrency) == ("org/name", 2)
    with pytest.raises(BackendError, match="#MODEL"):
        backend_for("http://127.0.0.1:9/v1")
    with pytest.raises(ShammieError):
        backend_for(str(tmp_path / "nothing"))
