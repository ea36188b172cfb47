"""What a model routes and what that is worth: perplexity, loads over everything and batch by batch, and a training in one line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from shammie.core.model import LanguageModel
from shammie.core.run import RunRecord
from shammie.core.windows import Windows
from shammie.routing import equations as eq
from shammie.routing.coupling import coupling_records
from shammie.routing.geometry import agreement_records
from shammie.routing.reading import Reading, perplexity, read_routing
from shammie.routing.settings import RECIPES, RoutingSettings

Record = dict[str, Any]
CURVE = 120  # points of a recorded curve
_KEPT = 2048  # tokens whose states the measures of a training read


def figures(loads: Tensor) -> Record:
    """The measures of one layer's loads."""
    return {
        "max_violation": eq.max_violation(loads), "variation": eq.variation(loads), "entropy": eq.load_entropy(loads),
        "least": float(loads.min() / loads.mean()), "dead": eq.dead(loads),
    }  # fmt: skip


def load_records(reading: Reading) -> Iterator[Record]:
    """A record a layer: measures of all loads together, and the mean over batches of the batches' own; then means over layers."""
    found: list[Record] = []
    for layer in reading.layers:
        total = torch.stack(layer.loads).sum(0)
        batches = [figures(own) for own in layer.loads]
        found.append({
            "kind": "load", "layer": layer.layer, "loads": [int(n) for n in total], **figures(total),
            "batches": len(batches), "batch": {name: _mean([own[name] for own in batches]) for name in batches[0]},
        })  # fmt: skip
    yield from found
    names = ("max_violation", "variation", "entropy", "least", "dead")
    yield {
        "kind": "load", "layer": None, **{name: _mean([r[name] for r in found]) for name in names},
        "worst_violation": max(r["max_violation"] for r in found),
        "batch": {name: _mean([r["batch"][name] for r in found]) for name in names},
    }  # fmt: skip


def curve(steps: Sequence[Mapping[str, Any]]) -> Iterator[Record]:
    """Steps in at most CURVE groups, each with its means."""
    size = -(-len(steps) // CURVE)
    names = ("token_loss", "max_violation", "worst_violation", "variation", "dead")
    for start in range(0, len(steps), size):
        group = steps[start : start + size]
        means = {name: sum(step[name] for step in group) / len(group) for name in names}
        yield {"kind": "curve", "step": group[-1]["step"], **means}


def measured(model: LanguageModel, held: Windows, seed: int) -> Iterator[Record]:
    """A trained model on held-out windows: perplexity, loads, coupling, geometry."""
    reading = read_routing(model, held, _KEPT)
    yield {"kind": "perplexity", "perplexity": perplexity(reading.losses, seed), "windows": len(held)}
    yield from load_records(reading)
    yield from coupling_records(model, reading, seed)
    yield from agreement_records(reading, seed)


def compared(run: RunRecord) -> Iterator[Record]:
    """A run in one line, and its curve."""
    results, config = run.results, run.config
    name = str(config["recipe"] or named(config["routing"]))
    load_all = next(r for r in results if r["kind"] == "load" and r["layer"] is None)
    similar = [r for r in results if r["kind"] == "similarity"]
    scores = [r["by_token"]["value"] for r in results if r["kind"] == "score"]
    aligned = [r["ratio"]["value"] for r in results if r["kind"] == "alignment" and r["weights"] == "gate"]
    agreed = [r["agreement"]["value"] for r in results if r["kind"] == "agreement"]
    yield {
        "kind": "compared", "name": name, "seed": config["training"]["seed"],
        "perplexity": next(r["perplexity"] for r in results if r["kind"] == "perplexity"),
        **{key: load_all[key] for key in ("max_violation", "variation", "dead")},
        "batch_violation": load_all["batch"]["max_violation"],
        "similarity": _mean([r["absolute"] for r in similar]), "signed": _mean([r["signed"] for r in similar]),
        "score": _mean(scores), "alignment": _mean(aligned), "agreement": _mean(agreed),
    }  # fmt: skip
    for point in (r for r in results if r["kind"] == "curve"):
        yield {**point, "name": name, "seed": config["training"]["seed"]}


def named(routing: Mapping[str, Any]) -> str:
    """The recipe that comes nearest, and what differs from it."""
    default = vars(RoutingSettings())

    def distance(name: str) -> tuple[int, int]:
        recipe = vars(RECIPES[name])
        shared = sum(recipe[key] != default[key] and value != default[key] for key, value in routing.items())
        return sum(recipe[key] != value for key, value in routing.items()), -shared

    name = min(RECIPES, key=distance)
    recipe = vars(RECIPES[name])
    return " ".join([name, *(f"{key}={value}" for key, value in routing.items() if value != recipe[key])])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
