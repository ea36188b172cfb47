"""Planted truth of the rotate card: recall and false channels in random vocabularies and in models' own.

    python experiments/rotate_planted.py --output-dir runs/rotate_planted [--quick]

Resumable: run it again to go on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shammie.core.model import load
from shammie.core.run import Run
from shammie.core.stats import proportion
from shammie.rotate.evidence import FALSE_DISCOVERIES, Null, held_out_null, significance
from shammie.rotate.neurons import Population, read_rows
from shammie.rotate.planted import Toy, coloured, nulls_for, plant, recovery, token_clusters
from shammie.rotate.pursue import Pursuit
from shammie.rotate.settings import RotateSettings
from shammie.rotate.tokens import token_space

Record = dict[str, Any]
TOYS = {
    "base": Toy(), "small": Toy(tokens=1000, width=64, clusters=50), "large": Toy(tokens=8000, width=256, clusters=400),
    "overlapping": Toy(overlap=0.5), "loose": Toy(tightness=0.6),
}  # fmt: skip
MODELS = {"smollm2-135m": (3, 15, 27), "gemma-3-270m": (9,)}
STRENGTHS = (0.2, 0.25, 0.3, 0.35, 0.4)


@dataclass(frozen=True)
class Plan:
    """How many rows each figure rests on."""

    rows: int = 100
    nulls: int = 200
    models: tuple[str, ...] = tuple(MODELS)


def toy(name: str, plan: Plan) -> Iterator[Record]:
    """Recall and false channels against the number of planted concepts, on both kinds of noise."""
    generator = torch.Generator().manual_seed(0)
    space, directions = TOYS[name].draw(generator)
    width = space.tokens.shape[1]
    for noise, population in (("gaussian", Population.isotropic(width)), ("covariance", coloured(width, generator))):
        settings = RotateSettings(channels=8, null_draws=plan.nulls)
        nulls = nulls_for(space, population, settings)
        for planted in (0, 1, 2, 3, 5):
            strength = min(6.5 / width**0.5, 0.95 / max(1, planted) ** 0.5)
            picked = torch.stack(
                [torch.randperm(len(directions), generator=generator)[:planted] for _ in range(plan.rows)]
            )
            rows = population.draw(plan.rows, generator)
            truth = directions[picked]
            w = plant(rows, truth, strength) if planted else rows
            found = recovery(space, population, w, truth, nulls, settings)
            yield {
                "kind": "toy", "vocabulary": name, "noise": noise, "planted": planted, "strength": round(strength, 3),
                "recall": proportion(found.found, found.planted).as_dict() if planted else None,
                "significant": found.significant,
                "false_among_significant": proportion(found.false, found.significant).as_dict() if found.significant else None,
                "false_among_all": proportion(found.false, plan.rows * settings.channels).as_dict(),
            }  # fmt: skip


def real(name: str, layer: int, solver: str, plan: Plan) -> Iterator[Record]:
    """Directions planted in a model's own unembedding, on Gaussian noise and on noise like the layer's gate rows."""
    model = load(name)
    space = token_space(model, "output")
    population = Population.of(read_rows(model, layer, "gate"))
    few = solver == "fast"
    if name.startswith("gemma"):  # whose rows cost seven times as much
        plan = replace(plan, rows=plan.rows // 2, nulls=plan.nulls // 2)
    settings = RotateSettings(solver=solver, channels=2, null_draws=plan.nulls // 4 if few else plan.nulls)  # type: ignore[arg-type]
    nulls = nulls_for(space, population, settings)
    about = {"model": name, "layer": layer, "solver": solver}
    yield {"kind": "null", **about, **held_out_null([null.evidence for null in nulls])}
    isotropic = Population.isotropic(len(population.mean))
    for noise, source in (("gaussian", isotropic), ("covariance", population)):
        fresh = source.draw(plan.rows, torch.Generator().manual_seed(11))
        p_values, flags = significance(
            nulls, Pursuit(space, source, settings)(fresh, torch.Generator().manual_seed(12)).evidence
        )
        low = int((p_values <= FALSE_DISCOVERIES).sum())
        yield {
            "kind": "false positives", **about, "noise": noise,
            "p_at_most_0.05": proportion(low, p_values.size).as_dict(), "discoveries": int(np.sum(flags)),
        }  # fmt: skip
        for planted in (1, 3):
            for strength in STRENGTHS if solver == "anchored" else (0.3, 0.5, 0.7, 0.9):
                if planted * strength**2 >= 1 or (few and planted > 1):
                    continue
                rows = plan.rows // 4 if few else plan.rows
                generator = torch.Generator().manual_seed(13)
                truth = token_clusters(space, rows, planted, generator)
                w = plant(source.draw(rows, generator), truth, strength)
                deeper = replace(settings, channels=settings.channels + planted - 1)
                chosen = nulls if planted == 1 else [_extended(null, deeper.channels) for null in nulls]
                found = recovery(space, source, w, truth, chosen, deeper)
                yield {
                    "kind": "planted", **about, "noise": noise, "planted": planted, "strength": strength,
                    "recall": proportion(found.found, found.planted).as_dict(), "false": found.false,
                    "significant": found.significant,
                }  # fmt: skip


def _extended(null: Null, channels: int) -> Null:
    """A null for more rounds: later rounds of noise reach less, so the last one serves for them, to the safe side."""
    last = null.evidence[:, -1:].expand(-1, channels - null.evidence.shape[1])
    return Null(torch.cat([null.evidence, last], 1))


def main() -> int:
    """Measure what is pending."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", required=True, type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    plan = Plan(rows=24, nulls=60, models=("smollm2-135m",)) if arguments.quick else Plan()
    tasks = {f"toy/{name}": (toy, (name, plan)) for name in TOYS}
    for name in plan.models:
        for layer in MODELS[name][:1] if arguments.quick else MODELS[name]:
            tasks[f"{name}/{layer}/anchored"] = (real, (name, layer, "anchored", plan))  # type: ignore[assignment]
    if not arguments.quick:
        tasks["smollm2-135m/15/fast"] = (real, ("smollm2-135m", 15, "fast", plan))  # type: ignore[assignment]
    with Run.open("experiments/rotate_planted", plan, arguments.output_dir, resume=True) as run:
        for key in run.items(list(tasks), "rotate planted"):
            measure, given = tasks[key]
            run.record(key, list(measure(*given)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
