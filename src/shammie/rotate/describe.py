"""`shammie rotate describe`: what a neuron is about, put together from its channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from shammie.core.errors import ShammieError
from shammie.core.run import read_run
from shammie.core.task import Task
from shammie.rotate.settings import Part, parse_numbers, parse_parts

if TYPE_CHECKING:
    from shammie.core.judge import Completer
    from shammie.core.run import Run
    from shammie.rotate.config import Describe

_SHOWN = 8  # tokens of a channel in a description
_VERBS: dict[tuple[Part, int], str] = {
    ("gate", 1): "opens on", ("gate", -1): "closes on", ("in", 1): "answers to", ("in", -1): "answers inversely to",
    ("out", 1): "promotes", ("out", -1): "holds down",
}  # fmt: skip
_REQUEST = """A neuron of a language model was taken apart into groups of tokens. In one plain sentence of at most 30 words,
say what the neuron is about. Name only what the groups show, and write the sentence alone.

$channels"""

Record = dict[str, Any]


def describe(channels: Sequence[Record]) -> str:
    """One line on a neuron from its channel records, the strongest first; says so where there is nothing to say."""
    if not channels:
        return "nothing that noise does not reach"
    ordered = sorted(channels, key=lambda channel: -channel["evidence"])
    return "; ".join(f"{_VERBS[channel['part'], channel['side']]} {_tokens(channel)}" for channel in ordered)


def in_plain_words(channels: Sequence[Record], completer: Completer) -> str:
    """A model's sentence on a neuron, from the description of its channels alone."""
    lines = describe(channels).replace("; ", "\n")
    return completer.complete([_REQUEST.replace("$channels", lines)])[0].strip()


def _tokens(channel: Record) -> str:
    """A channel's tokens without those that differ only in case and spaces."""
    kept: dict[str, str] = {}
    for token in channel["tokens"]:
        kept.setdefault(token.strip().casefold(), token.strip())
    return ", ".join(repr(token) for token in list(kept.values())[:_SHOWN])


def prepare_describe(config: Describe) -> Task:
    """Read the fit's records and choose among them."""
    record = read_run(config.fit)
    found = [result for result in record.results if result.get("kind") == "channel"]
    if record.command != "rotate fit" or not found:
        raise ShammieError(f"{config.fit} holds no channels; name the --output-dir of a finished shammie rotate fit")
    neurons = _by_neuron(_chosen(config, found), config.insignificant)
    completer = None if config.judge is None else _writer(config.judge)

    def execute(run: Run) -> int:
        for key in run.items(list(neurons), "rotate describe"):
            (layer, neuron), own = neurons[key]
            said: Record = {"kind": "neuron", "layer": layer, "neuron": neuron, "channels": len(own)}
            said["description"] = describe(own)
            if completer is not None and own:
                said["in_plain_words"] = in_plain_words(own, completer)
            run.record(key, [said, *own])
        return 0

    inputs = {"fit": record.inputs, "config": record.config, "judge": completer and completer.identity}
    return Task(inputs, lambda: {"neurons": len(neurons)}, execute)


def _chosen(config: Describe, found: Sequence[Record]) -> list[Record]:
    """The channels of the layer, neurons and parts that are asked for."""
    parts = parse_parts(config.part)
    neurons = set(parse_numbers(config.neurons, max(channel["neuron"] for channel in found) + 1, "neuron"))
    chosen = [
        channel
        for channel in found
        if channel["part"] in parts and channel["neuron"] in neurons and config.layer in (None, channel["layer"])
    ]
    if not chosen:
        raise ShammieError(f"{config.fit} holds no channels of that layer, those neurons and parts; see its run.json")
    return chosen


def _by_neuron(channels: Sequence[Record], insignificant: bool) -> dict[str, tuple[tuple[int, int], list[Record]]]:
    """Each neuron under its key with the channels to show; those that hold the strongest ones first."""
    shown: dict[tuple[int, int], list[Record]] = {(channel["layer"], channel["neuron"]): [] for channel in channels}
    for channel in channels:
        if insignificant or channel["significant"]:
            shown[channel["layer"], channel["neuron"]].append(channel)
    ordered = sorted(shown.items(), key=lambda item: -max((channel["evidence"] for channel in item[1]), default=0.0))
    return {f"{layer}.{neuron}": ((layer, neuron), own) for (layer, neuron), own in ordered}


def _writer(spec: str) -> Completer:
    from shammie.core.backends import BackendCompleter, backend_for
    from shammie.core.decoding import GenerationSettings

    return BackendCompleter(backend_for(spec), GenerationSettings(max_new_tokens=60, temperature=0.0))
