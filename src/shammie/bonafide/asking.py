"""Asks models what metrics want to know: all asks of all metrics together, equal ones once, shared beginnings read once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shammie.bonafide.metrics import metric_named
from shammie.bonafide.metrics.base import Ask, Replied, Scores, Subject, Unlearning
from shammie.bonafide.parsing import parse_reply
from shammie.bonafide.prompts import ANSWER_PREFIX
from shammie.bonafide.unlearn import UnlearnSettings, unlearned
from shammie.core.backends import Backend, LocalBackend
from shammie.core.batch import encode
from shammie.core.decoding import GenerationSettings
from shammie.core.errors import ShammieError
from shammie.core.judge import Completer
from shammie.core.model import LanguageModel
from shammie.core.score import Scored, score_tokens

_FORCED_TOKENS, _SCORED, _TEMPERATURE = 32, 64, 0.7
_CLOSED = '"}'


@dataclass(eq=False)
class Panel:
    """Who is asked: the model that wrote the chains, a weaker one, a judge.

    Args:
        reader: tokenizes and renders for `model`; the same as a local model.
        tokens: that the model may write where it goes on reasoning.
    """

    model: Backend
    reader: LanguageModel
    simulator: LocalBackend | None = None
    judge: Completer | None = None
    tokens: int = 320
    unlearn: UnlearnSettings = field(default_factory=UnlearnSettings)

    def score(self, names: Sequence[str], subjects: Sequence[Subject]) -> dict[str, list[Scores]]:
        """What each metric makes of each chain. Errors: ShammieError for a metric that needs somebody who is not there."""
        metrics = {name: metric_named(name) for name in names}
        wanted = {(name, at): metric.asks(s) for name, metric in metrics.items() for at, s in enumerate(subjects)}
        replies = self.replies(ask for asks in wanted.values() for ask in asks)
        return {
            name: [
                metric.scores(subject, {ask.key: replies[identity(ask)] for ask in wanted[name, at]})
                for at, subject in enumerate(subjects)
            ]
            for name, metric in metrics.items()
        }

    def replies(self, asks: Iterable[Ask]) -> dict[Any, Replied]:
        """The reply to each ask, by what makes asks equal."""
        distinct = {identity(ask): ask for ask in asks}
        found: dict[Any, Replied] = {}
        for by in ("model", "simulator", "judge"):
            own = {key: ask for key, ask in distinct.items() if ask.by == by}
            if own and by == "judge":
                found |= self._judged(own)
            elif own:
                backend, reader = self._who(by)
                scored = {key: ask for key, ask in own.items() if ask.target}
                found |= _scored(backend, scored) if scored else {}
                found |= self._unlearned({key: ask for key, ask in own.items() if ask.unlearning})
                written = {key: ask for key, ask in own.items() if not ask.target and not ask.unlearning}
                found |= self._written(backend, reader, written)
        return found

    def _who(self, by: str) -> tuple[Backend, LanguageModel]:
        if by == "model":
            return self.model, self.reader
        if self.simulator is None:
            raise ShammieError("simulatability needs a weaker model; name it with --simulator")
        return self.simulator, self.simulator.model

    def _unlearned(self, asks: Mapping[Any, Ask]) -> dict[Any, Replied]:
        """Replies after unlearning, one sentence after another; the model is as it was afterwards."""
        found: dict[Any, Replied] = {}
        for key, ask in asks.items():
            assert ask.unlearning is not None
            model = _local(self.model, "unlearns nothing").model
            settings = GenerationSettings(self.tokens, _TEMPERATURE, samples=ask.samples, stop=(_CLOSED,))
            prompt = {0: encode(model, list(ask.messages), prefill=ask.prefill)}
            with unlearned(model, ask.unlearning, self.unlearn):
                made = self.model.complete(prompt, [(0, sample) for sample in range(ask.samples)], settings)
            texts = [one.text + (_CLOSED if one.finish == "stop" else "") for one in made]
            found[key] = Replied(tuple(parse_reply(text).answer for text in texts), texts[0])
        return found

    def _judged(self, asks: Mapping[Any, Ask]) -> dict[Any, Replied]:
        if self.judge is None:
            raise ShammieError("a metric asks a judge; name one with --judge")
        texts = self.judge.complete([str(ask.messages[-1]["content"]) for ask in asks.values()])
        return {key: Replied(text=text) for key, text in zip(asks, texts, strict=True)}

    def _written(self, backend: Backend, reader: LanguageModel, asks: Mapping[Any, Ask]) -> dict[Any, Replied]:
        """Forced answers, and the rest, each in one go, chain after chain, so that what they share is read once."""
        found: dict[Any, Replied] = {}
        for forced in (True, False):
            own = {key: ask for key, ask in asks.items() if ask.forced == forced}
            prompts = {n: encode(reader, list(ask.messages), prefill=ask.prefill) for n, ask in enumerate(own.values())}
            settings = GenerationSettings(
                _FORCED_TOKENS if forced else self.tokens, stop=('"', "\n") if forced else (_CLOSED,)
            )
            made = backend.complete(prompts, [(n, 0) for n in prompts], settings) if prompts else []
            for key, completion in zip(own, made, strict=True):
                ended = completion.finish == "stop"
                text = completion.text + (_CLOSED if ended else "")
                answer = parse_reply(ANSWER_PREFIX + text if forced else text, "").answer
                found[key] = Replied((answer,), completion.text)
        return found


def identity(ask: Ask) -> Any:
    """What makes two asks equal."""
    messages = tuple((message["role"], message["content"]) for message in ask.messages)
    return ask.by, messages, ask.prefill, ask.forced, ask.target, ask.unlearning and _what(ask.unlearning), ask.samples


def _what(unlearning: Unlearning) -> tuple[str, str, str]:
    return str(unlearning.messages[-1]["content"]), unlearning.before, unlearning.sentence


def _local(backend: Backend, lack: str) -> LocalBackend:
    if not isinstance(backend, LocalBackend):
        raise ShammieError(f"{backend.identity} {lack}; the metric needs a local model")
    return backend


def _scored(backend: Backend, asks: Mapping[Any, Ask]) -> dict[Any, Replied]:
    model, pairs = _local(backend, "gives no probabilities of a text").model, []
    for ask in asks.values():
        target = list(model.tokenizer(ask.target, add_special_tokens=False)["input_ids"])
        pairs.append((encode(model, list(ask.messages), prefill=ask.prefill), target))
    scored: list[Scored] = []
    for start in range(0, len(pairs), _SCORED):  # what is shared is held for as many at once
        scored += score_tokens(model, pairs[start : start + _SCORED])
    return {key: Replied(log_probabilities=one.token_log_probabilities) for key, one in zip(asks, scored, strict=True)}
