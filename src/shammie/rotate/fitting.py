"""`shammie rotate fit`: shards of neurons and nulls as resumable items, and an artifact for each part of each layer."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shammie.core.artifact import load_artifact, save_artifact
from shammie.core.errors import MissingFileError
from shammie.core.model import LanguageModel, load
from shammie.core.task import Task
from shammie.core.vocabulary import token_text
from shammie.rotate.channels import Channels
from shammie.rotate.evidence import held_out_null, summary_of
from shammie.rotate.fit import Fitter, Reader
from shammie.rotate.neurons import weight_slice
from shammie.rotate.pursue import BYTE_BUDGET, Found
from shammie.rotate.recipes import recipe
from shammie.rotate.settings import PARTS, Part, RotateSettings, parse_numbers, parse_parts

if TYPE_CHECKING:
    from torch import Tensor

    from shammie.core.run import Run
    from shammie.rotate.config import Fit

_PROBE_STEPS = 20  # of the paper's optimizer, to tell what one costs


@dataclass(frozen=True)
class _Place:
    """One part of one layer: the settings it is fitted with and the neurons of each shard."""

    layer: int
    part: Part
    settings: RotateSettings
    shards: tuple[tuple[int, ...], ...]

    @property
    def name(self) -> str:
        return f"layer-{self.layer}.{self.part}"

    @property
    def neurons(self) -> list[int]:
        return [neuron for shard in self.shards for neuron in shard]


def prepare_fit(config: Fit) -> Task:
    """Load the model and check layers, neurons and parts."""
    model = load(config.model, device=config.device, dtype=config.dtype)
    layers = parse_numbers(config.layers, len(model.anatomy.layers), "layer")
    places = []
    for layer in layers:
        for part in parse_parts(config.part):
            weight_slice(model, layer, part)
            neurons = parse_numbers(config.neurons, model.anatomy.neuron_count(layer), "neuron")
            shards = tuple(tuple(neurons[i : i + config.shard]) for i in range(0, len(neurons), config.shard))
            settings = config.settings if config.recipe is None else recipe(config.recipe, layer, part)
            places.append(_Place(layer, part, settings, shards))
    work = _Work(model, places)
    return Task({"model": model.hash}, work.estimate, work.execute)


@dataclass(eq=False)
class _Work:
    model: LanguageModel
    places: Sequence[_Place]
    _readers: dict[RotateSettings, Reader] = field(default_factory=dict)

    def execute(self, run: Run) -> int:
        """Search the pending shards and nulls, then judge each place."""
        texts: list[str] = []
        fitter: Fitter | None = None
        for key in run.items([key for place in self.places for key in _keys(place)], "rotate fit"):
            name, _, item = key.partition("/")
            place = next(place for place in self.places if place.name == name)
            if fitter is None or (fitter.layer, fitter.part) != (place.layer, place.part):
                fitter = Fitter(self._reader(place.settings), place.layer, place.part)
            if item == "channels":
                texts = texts or [token_text(self.model, token) for token in range(len(fitter.space.tokens))]
                run.record(key, self._judge(run, place, fitter, texts))
            else:
                tensors, records = self._search(place, fitter, item)
                save_artifact(_shards(run) / name / item, "rotate_shard", {}, tensors, {}, overwrite=True)
                run.record(key, records)
        shutil.rmtree(_shards(run), ignore_errors=True)
        return 0

    def _reader(self, settings: RotateSettings) -> Reader:
        if settings not in self._readers:
            known = next(iter(self._readers.values()), None)
            self._readers[settings] = known.under(settings) if known else Reader(self.model, settings)
        return self._readers[settings]

    def _search(self, place: _Place, fitter: Fitter, item: str) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        if item == "gaussian":
            return {"evidence": fitter.reader.gaussian_null(fitter.matrix)}, []
        if item == "covariance":
            return {"evidence": fitter.covariance_null()}, []
        shard = place.shards[int(item.removeprefix("neurons-"))]
        found = fitter.search(shard)
        steps = float(found.steps.float().mean())
        searched = {
            "layer": place.layer,
            "part": place.part,
            "first": shard[0],
            "last": shard[-1],
            "neurons": len(shard),
        }
        return dict(vars(found)), [{"kind": "searched", **searched, "steps_a_channel": round(steps, 2)}]

    def _judge(self, run: Run, place: _Place, fitter: Fitter, texts: Sequence[str]) -> list[dict[str, Any]]:
        parts = {
            item: load_artifact(_shards(run) / place.name / item, "rotate_shard").tensors for item in _items(place)
        }
        nulls = [parts.pop(kind)["evidence"] for kind in ("gaussian", "covariance")]
        found = Found.cat([Found(**tensors) for tensors in parts.values()])
        channels = fitter.channels(place.neurons, found, nulls)
        channels.save_pretrained(run.artifacts / place.name, overwrite=True)
        return [layer_record(channels), *channels.records(texts)]

    def estimate(self) -> Mapping[str, Any]:
        """Counts; time from a few neurons searched in short, once for each of the settings in use."""
        neurons = sum(len(place.neurons) for place in self.places)
        kept = sum(len(place.neurons) * place.settings.channels for place in self.places)
        seconds = {place.settings: 0.0 for place in self.places}
        for place in self.places:
            seconds[place.settings] = seconds[place.settings] or self._seconds_a_neuron(place)
        rows = {place: len(place.neurons) + 2 * place.settings.null_draws for place in self.places}
        total = sum(seconds[place.settings] * count for place, count in rows.items())
        bound = "at most" if any(place.settings.solver == "paper" for place in self.places) else "about"
        space = self._reader(self.places[0].settings).space
        table = max(space(self._reader(place.settings).matrix(place.layer)).tokens.numel() for place in self.places) * 4
        return {
            "neurons_and_parts": neurons,
            "noise_rows": sum(rows.values()) - neurons,
            "channels": kept,
            "memory": f"{(table + BYTE_BUDGET) / 2**30:.1f} GB beside the model's weights",
            "disk": f"{kept * 2 * self.model.anatomy.width * 4 / 2**20:.1f} MB",
            "time": f"{bound} {total / 60:.1f} min on {self.model.device}",
        }

    def _seconds_a_neuron(self, place: _Place) -> float:
        """From one channel of a few neurons, the paper's optimizer cut short; it may stop before all its steps."""
        settings = place.settings
        probe = replace(settings, channels=1, max_steps=min(settings.max_steps, _PROBE_STEPS))
        fitter = Fitter(self._reader(settings).under(probe), place.layer, place.part)
        few = list(place.shards[0][:4])
        fitter.search(few)  # what is read once, and memory that is met first, are no part of a neuron's time
        start = time.perf_counter()
        fitter.search(few)
        each = (time.perf_counter() - start) / len(few) * settings.channels
        return each * settings.max_steps / probe.max_steps if settings.solver == "paper" else each


def _items(place: _Place) -> list[str]:
    return ["gaussian", "covariance", *(f"neurons-{index:05d}" for index in range(len(place.shards)))]


def _keys(place: _Place) -> Iterator[str]:
    for item in [*_items(place), "channels"]:
        yield f"{place.name}/{item}"


def _shards(run: Run) -> Path:
    return run.artifacts / "shards"


def layer_record(channels: Channels) -> dict[str, Any]:
    """How many channels of a layer stand out, beside what a null that was held out shows, in words too."""
    place = {"kind": "layer", "layer": channels.layer, "part": channels.part, "neurons": len(channels.neurons)}
    found = summary_of(channels.p_value.double().numpy(), channels.significant.numpy())
    count = int(channels.significant.sum())
    total = channels.significant.numel()
    says = (
        f"{count:,} of {total:,} channels stand out from noise"
        if count
        else f"none of {total:,} channels stands out from noise: what this layer's channels say is not to be trusted"
    )
    return {**place, **found, "null": held_out_null(list(channels.null_evidence)), "says": says}


def load_fit(directory: Path) -> list[Channels]:
    """The artifacts of a fit, by layer and part. Errors: MissingFileError where there are none."""
    found = sorted((directory / "artifacts").glob("layer-*.*"))
    if not found:
        raise MissingFileError(f"{directory} holds no channels; name the --output-dir of a finished shammie rotate fit")
    return sorted((Channels.from_pretrained(path) for path in found), key=lambda c: (c.layer, PARTS.index(c.part)))
