"""Where texts are generated: in this process, by a server that speaks OpenAI's protocol, or by vLLM.

All give the same `Completion`. A batch is answered whole or not at all, so that a resumed run repeats it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

from shammie.core import files
from shammie.core.batch import Prompt, encode, is_chat
from shammie.core.errors import BackendError, ShammieError
from shammie.core.generate import Completion, GenerationSettings, Numbered, complete, part
from shammie.core.model import LanguageModel, load, load_tokenizer

Jobs = Sequence[tuple[int, int]]  # (prompt index, sample index)
_VLLM_LIKE = ("vllm", "sglang")  # servers that know `continue_final_message` and vLLM's sampling fields


class Backend(Protocol):
    """What continues prompts."""

    @property
    def identity(self) -> str:
        """What goes into a run record: the model, and its hash or where it runs; no secrets."""

    def complete(self, prompts: Numbered[Prompt], jobs: Jobs, settings: GenerationSettings) -> list[Completion]:
        """One completion for each of `jobs`, in their order, or an error."""


class LocalBackend:
    """A loaded model, under whatever edits are in force; `rows` completions at a time."""

    def __init__(self, model: LanguageModel, *, rows: int = 32) -> None:
        self.model, self.rows = model, rows

    @property
    def identity(self) -> str:
        """The model's name and the hash of the weights in force."""
        return f"{_name(self.model.name)}@{self.model.hash[:16]}"

    def complete(self, prompts: Numbered[Prompt], jobs: Jobs, settings: GenerationSettings) -> list[Completion]:
        """As `Backend.complete`."""
        encoded = _encoded(self.model, prompts, jobs, settings.prefill)
        batches = [jobs[i : i + self.rows] for i in range(0, len(jobs), self.rows)]
        return [made for batch in batches for made in complete(self.model, encoded, batch, settings)]


class EndpointBackend:
    """A model behind an OpenAI-compatible server. Chats go to /chat/completions, texts and token ids to /completions.

    vLLM, SGLang and `transformers serve` are recognized and told what their own defaults would otherwise change (top_k,
    penalties). A prefilled chat is given only to the first two, since other servers would open a new turn. Where the
    server's chat template opens reasoning itself, leave `reasoning_start` empty.

    Args:
        base_url: such as http://HOST:PORT/v1; `model` is the name that the server knows it by.
        api_key_env: environment variable that holds the key, where the server asks for one.
        concurrency: requests at once; each is dropped after `timeout` seconds without an answer.
        retries: how often a request is repeated after a dropped connection, a timeout, HTTP 429 or 5xx.
    """

    def __init__(
        self, base_url: str, model: str, *, api_key_env: str = "OPENAI_API_KEY", concurrency: int = 8,
        timeout: float = 600.0, retries: int = 4,
    ) -> None:  # fmt: skip
        self._openai, self._local = files.package("openai", "judge"), _on_this_machine(base_url)
        self.url, self.model, self.api_key_env = base_url.rstrip("/"), model, api_key_env
        self.identity = f"{self.url}#{model}"
        self.concurrency, self.timeout, self.retries = concurrency, timeout, retries
        self._key = os.environ.get(api_key_env, "")
        self._server: str | None = None

    def complete(self, prompts: Numbered[Prompt], jobs: Jobs, settings: GenerationSettings) -> list[Completion]:
        """As `Backend.complete`."""
        # A proxy named in the environment is not asked about servers on this machine.
        with self._openai.OpenAI(
            base_url=self.url, api_key=self._key or "none", timeout=self.timeout, max_retries=self.retries,
            http_client=self._openai.DefaultHttpxClient(trust_env=not self._local),
        ) as client:  # fmt: skip
            self._server = self._recognize(client) if self._server is None else self._server
            # `transformers serve` works one request at a time, and a seed sets its whole process.
            with ThreadPoolExecutor(1 if self._server == "transformers" else max(1, self.concurrency)) as pool:
                return list(pool.map(lambda job: self._ask(client, prompts[job[0]], job, settings), jobs))

    def _recognize(self, client: Any) -> str:
        """Name the server where it must be told more than the protocol's fields; empty for others."""

        def look(url: str, key: str) -> list[Any]:
            try:
                return list(client.get(url, cast_to=object)[key])
            except self._openai.APIConnectionError as error:
                raise self._explain(error, self.url) from None
            except (self._openai.OpenAIError, ValueError, KeyError, TypeError):
                return []  # not every server has it

        if "/load_model" in look(f"{self.url.removesuffix('/v1')}/openapi.json", "paths"):
            return "transformers"
        owners = [card.get("owned_by") for card in look(f"{self.url}/models", "data") if isinstance(card, dict)]
        return str(next((owner for owner in owners if owner in _VLLM_LIKE), ""))

    def _body(self, prompt: Prompt, job: tuple[int, int], settings: GenerationSettings) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model, "temperature": settings.temperature}
        if settings.temperature:
            body |= {"top_p": settings.top_p, "seed": seed_of(settings.seed, *job)}
        if settings.stop and not settings.reasoning_end:  # otherwise they would fire inside reasoning
            body["stop"] = list(settings.stop[:4])  # the protocol takes no more; all are cut off here anyway
        if self._server in _VLLM_LIKE:
            body |= {"top_k": settings.top_k or -1, "min_p": 0.0, "repetition_penalty": 1.0}
            body["skip_special_tokens"] = not settings.reasoning_end  # its markers may be special tokens
        elif self._server == "transformers":  # which would not sample at all unless told so
            chosen = {"do_sample": settings.temperature > 0, "top_k": settings.top_k, "repetition_penalty": 1.0}
            body["generation_config"] = json.dumps(chosen)
        elif settings.top_k and settings.temperature:
            body["top_k"] = settings.top_k
        if isinstance(prompt, str):
            return body | {"prompt": prompt + settings.prefill, "max_tokens": settings.max_new_tokens}
        if not is_chat(prompt):
            if settings.prefill:
                raise BackendError(f"a prompt of token ids goes to {self.url} as it is; put the prefill into it")
            return body | {"prompt": list(prompt), "max_tokens": settings.max_new_tokens}
        messages = [dict(message) for message in prompt]
        if settings.prefill:
            if self._server not in _VLLM_LIKE:
                raise BackendError(
                    f"{self.url} cannot go on from a prefill as vLLM can; pass plain text or leave it out"
                )
            messages.append({"role": "assistant", "content": settings.prefill})
            body |= {"add_generation_prompt": False, "continue_final_message": True}
        return body | {"messages": messages, "max_completion_tokens": settings.max_new_tokens}

    def _ask(self, client: Any, prompt: Prompt, job: tuple[int, int], settings: GenerationSettings) -> Completion:
        body = self._body(prompt, job, settings)
        plain = "prompt" in body
        url = self.url + ("/completions" if plain else "/chat/completions")
        try:
            reply = client.post(url, body=body, cast_to=object)
        except (self._openai.OpenAIError, ValueError) as error:
            raise self._explain(error, url) from None
        try:
            choice = reply["choices"][0]
            said = choice if plain else choice["message"]
            text = said.get("text" if plain else "content")
            reasoning = said.get("reasoning_content") or said.get("reasoning") or None
            finish = choice.get("finish_reason")
        except (AttributeError, IndexError, KeyError, TypeError):
            raise BackendError(f"{url} gave no completion; mend the URL, whose path usually ends in /v1") from None
        if not isinstance(text or "" if reasoning else text, str) or finish not in ("stop", "length"):
            raise BackendError(f"{url} gave no text for prompt {job[0]} (finish {finish!r}); leave that prompt out")
        if reasoning and not text and finish == "stop" and "stop" in body:
            raise BackendError(f"{url} stopped inside reasoning; set reasoning_end, and stop strings are not sent")
        before, text = (prompt if isinstance(prompt, str) else "") + settings.prefill, text or ""
        head, closed, _ = text.partition(settings.reasoning_end or "\0")
        if closed and not before and not reasoning and settings.reasoning_start not in head:
            # Chains that were cut short would show neither marker and pass for answers.
            raise BackendError(f"{url} closed reasoning that its chat template opened; leave reasoning_start empty")
        return _completion(job, text, (finish, choice.get("stop_reason")), settings, before, reasoning)

    def _explain(self, error: Any, url: str) -> BackendError:
        if isinstance(error, self._openai.APITimeoutError):
            return BackendError(f"{url} gave no answer in {self.timeout:g} s; raise timeout or lower concurrency")
        if isinstance(error, self._openai.APIConnectionError):
            return BackendError(f"cannot reach {url} ({error.__cause__ or error}); start the server or mend the URL")
        if not isinstance(error, self._openai.APIStatusError):
            return BackendError(f"{url} answered with broken JSON; mend the URL, whose path usually ends in /v1")
        body = error.body if isinstance(error.body, dict) else {}
        said = _line(body.get("message") or body.get("detail") or "no reason").replace(self._key or "\0", "***")
        status, key = int(error.status_code), f"put the right key into {self.api_key_env}"
        absent = f"check that it serves {self.model}, or pass chats if it takes no plain text"
        remedies = {401: key, 403: key, 404: absent, 429: "lower the concurrency or wait"}
        remedy = remedies.get(status, "look into its log, then resume" if status >= 500 else "change what it names")
        return BackendError(f"{url} answered HTTP {status} ({said}); {remedy}")


class VllmBackend:
    """vLLM in this process (extra `vllm`); `options` go to `vllm.LLM`, such as tensor_parallel_size."""

    def __init__(self, model: str, **options: Any) -> None:
        self._vllm = files.package("vllm", "vllm")
        self.identity = f"vllm:{_name(model)}"
        try:
            self._engine = self._vllm.LLM(model=model, **options)
        except (ValueError, RuntimeError, OSError) as error:
            raise BackendError(f"vLLM cannot load {model!r}: {_line(error)}; check its name and the options") from None
        # Prompts become tokens exactly as for a local model; that asks for name and tokenizer only.
        self.reader = LanguageModel(None, self._engine.get_tokenizer(), model)

    def complete(self, prompts: Numbered[Prompt], jobs: Jobs, settings: GenerationSettings) -> list[Completion]:
        """As `Backend.complete`; log-probabilities are at temperature 1, as is vLLM's default."""
        encoded = _encoded(self.reader, prompts, jobs, settings.prefill)
        asked = [{"prompt_token_ids": encoded[prompt]} for prompt, _ in jobs]
        parameters = [
            self._vllm.SamplingParams(
                temperature=settings.temperature, top_p=settings.top_p, top_k=settings.top_k or -1,
                seed=seed_of(settings.seed, *job) if settings.temperature else None,
                max_tokens=settings.max_new_tokens, logprobs=0, skip_special_tokens=False,
                stop=[] if settings.reasoning_end else list(settings.stop),
            )
            for job in jobs
        ]  # fmt: skip
        try:
            outputs = [reply.outputs[0] for reply in self._engine.generate(asked, parameters, use_tqdm=False)]
        except (ValueError, RuntimeError) as error:
            raise BackendError(f"vLLM failed on {self.identity}: {_line(error)}; mend that, then resume") from None
        return [self._read(job, encoded[job[0]], output, settings) for job, output in zip(jobs, outputs, strict=True)]

    def _read(self, job: tuple[int, int], prompt: list[int], output: Any, settings: GenerationSettings) -> Completion:
        if output.finish_reason not in ("stop", "length"):
            raise BackendError(f"vLLM gave up on prompt {job[0]} (finish {output.finish_reason!r}); resume the run")
        before = str(self.reader.tokenizer.decode(prompt[-16:], skip_special_tokens=False))
        made = _completion(job, output.text, (output.finish_reason, output.stop_reason), settings, before)
        return replace(made, tokens=tuple(output.token_ids), log_probability=output.cumulative_logprob)


class BackendCompleter:
    """A backend as a judge's completer: one text a prompt, each sent as a user's message unless `chat` is off."""

    def __init__(self, backend: Backend, settings: GenerationSettings | None = None, *, chat: bool = True) -> None:
        self.backend, self.settings, self.chat = backend, settings or GenerationSettings(), chat
        if self.settings.samples != 1:
            raise ShammieError("a judge gives one reply a prompt; set samples to 1")
        self.identity = f"{backend.identity} {'chat' if chat else 'text'} {json.dumps(asdict(self.settings))}"

    def complete(self, prompts: Sequence[str]) -> list[str]:
        """Answers in order; where reasoning never closed, an open <think> block, in which no verdict is looked for."""
        asked: list[Prompt] = [[{"role": "user", "content": text}] if self.chat else text for text in prompts]
        made = self.backend.complete(asked, [(index, 0) for index in range(len(asked))], self.settings)
        return [f"<think>{item.reasoning}" if item.answer is None else item.answer for item in made]


def backend_for(spec: str | Path | LanguageModel, **options: Any) -> Backend:
    """URL#MODEL for an endpoint, vllm:MODEL, or what `load` takes; options go to whichever it is."""
    if isinstance(spec, str) and spec.startswith(("http://", "https://")):
        url, _, model = spec.partition("#")
        if not model:
            raise BackendError(f"{url} names no model; write it as {url}#MODEL")
        return EndpointBackend(url, model, **options)
    if isinstance(spec, str) and spec.startswith("vllm:"):
        return VllmBackend(spec.removeprefix("vllm:"), **options)
    return LocalBackend(load(spec, **options))


def open_backend(
    spec: str, tokenizer: str | None, device: str | None, dtype: str, rows: int
) -> tuple[Backend, LanguageModel]:
    """A backend and what its prompts are built with; a server does not hand out its tokenizer, so one must be named."""
    remote = spec.startswith(("http://", "https://"))
    if remote and tokenizer is None:
        raise ShammieError(
            f"{spec.partition('#')[0]} does not hand out its tokenizer; name the model's with --tokenizer"
        )
    local = not remote and not spec.startswith("vllm:")
    backend = backend_for(spec, **({"device": device, "dtype": dtype} if local else {}))
    if isinstance(backend, LocalBackend):
        return LocalBackend(backend.model, rows=rows), backend.model
    if isinstance(backend, VllmBackend):
        return backend, backend.reader
    assert isinstance(backend, EndpointBackend)
    return backend, LanguageModel(None, load_tokenizer(str(tokenizer)), backend.model)


def seed_of(seed: int, prompt: int, sample: int) -> int:
    """A seed in [0, 2^31) that belongs to this sample of this prompt, the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed} {prompt} {sample}".encode()).digest()[:4], "big") >> 1


def _encoded(model: LanguageModel, prompts: Numbered[Prompt], jobs: Jobs, prefill: str) -> dict[int, list[int]]:
    return {number: encode(model, prompts[number], prefill=prefill) for number in dict.fromkeys(n for n, _ in jobs)}


def _completion(
    job: tuple[int, int], text: str, finish: tuple[str, object], settings: GenerationSettings, before: str,
    reasoning: str | None = None,
) -> Completion:  # fmt: skip
    """Part a text as `generate` does; `finish` is reason and stop string, `reasoning` what the server has parted."""
    end = "length" if finish[0] == "length" else "stop" if isinstance(finish[1], str) else "end"
    opened = bool(settings.reasoning_start) and before.rstrip().endswith(settings.reasoning_start)
    if reasoning is None:
        return part(job, text, end, settings, opened=opened)
    made = part(job, text, end, replace(settings, reasoning_start="", reasoning_end=""))
    shown = ("" if opened else settings.reasoning_start) + reasoning + (settings.reasoning_end if text else "")
    return replace(made, text=shown + made.text, reasoning=reasoning, answer=made.answer if text else None)


def _name(model: str) -> str:
    return Path(model).name if Path(model).exists() else model


def _on_this_machine(url: str) -> bool:
    """Whether the server runs here; errors for an address that is none or holds what must not be recorded."""
    match = re.fullmatch(r"https?://([\w.-]+|\[[\da-fA-F:]+\])(:\d+)?(/[^?#\s]*)?", url)
    if match is None:
        raise BackendError("a server's address is written http://HOST:PORT/v1, without user, password or query")
    return re.fullmatch(r"localhost|127(\.\d+){3}|\[::1\]", match[1]) is not None


def _line(error: object) -> str:
    return " ".join(str(error).split())[:200]
