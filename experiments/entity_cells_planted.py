"""How far a unique cell must stand out: power and false positives of the trust filter on the planted world, by threshold.

    python experiments/entity_cells_planted.py --output-dir runs/uniqueness

The world's twelve wired entities pass through one neuron each, the other twelve through none. Noise is added to what wired
neurons read (`--levels`, as a multiple of what they read of their entity). A wired entity counts when the planted neuron is
found and trusted; a spread entity that is trusted is a false positive, and so is any entity trusted with another's cell.
Resumable: run it again to go on.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from shammie.core import files
from shammie.core.run import Run
from shammie.core.stats import proportion
from shammie.entity_cells.evaluate import Readings, trust
from shammie.entity_cells.intervene import Bench
from shammie.entity_cells.localize import Localizer
from shammie.entity_cells.planted import CELL_LAYER, leak, planted_world
from shammie.entity_cells.settings import CausalSettings, LocalizeSettings, TrustSettings

SCALE = -1.0
Record = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is tried."""

    thresholds: tuple[float, ...] = (1.0, 1.25, 1.5, 2.0, 3.0, 5.0)
    levels: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    seeds: int = 10


def verdicts(threshold: float, level: float, seed: int) -> list[Record]:
    """What becomes of every entity of the world."""
    world = planted_world()
    up = world.model.anatomy.mlp_weights(CELL_LAYER).read.view(world.model.module)
    noise = leak(level, seed)
    own = (slice(len(noise)), slice(noise.shape[1]))
    former = up[own].clone()
    names = [entity.name for entity in world.entities.entities]
    settings = LocalizeSettings(uniqueness=threshold, templates=4, anonymous=12, group=1, seed=seed)
    with torch.no_grad():
        up[own] += noise
        try:
            cells = Localizer(world.model, names, settings).cells()
            bench = Bench(world.model, world.entities, cells, CausalSettings(scales=(SCALE,), group=0, seed=seed))
            found = [number for number in range(len(names)) if cells.found(number)]
            readings = Readings([*bench.untouched(found), *bench.ablated(bench.facts(found))])
        finally:
            up[own] = former
    trusted, swapped = (trust(readings, TrustSettings(), "unique", SCALE, arm=arm) for arm in ("own", "other"))
    return [
        {
            "kind": "verdict", "threshold": threshold, "level": level, "seed": seed, "entity": name,
            "wired": world.neurons[number] is not None, "trusted": trusted.get(name, False),
            "planted": (int(cells.layer[number]), int(cells.neuron[number])) == (CELL_LAYER, world.neurons[number]),
            "given_another": swapped.get(name, False),
        }
        for number, name in enumerate(names)
    ]  # fmt: skip


def summary(records: list[Record]) -> list[Record]:
    """Power and both kinds of false positives of each threshold and level, and over all levels."""
    lines = []
    for threshold in sorted({r["threshold"] for r in records}):
        for level in (*sorted({r["level"] for r in records}), None):
            own = [r for r in records if r["threshold"] == threshold and level in (r["level"], None)]
            wired, spread = ([r for r in own if r["wired"] is wired] for wired in (True, False))
            shares = {
                "power": (sum(r["trusted"] and r["planted"] for r in wired), len(wired)),
                "spread_trusted": (sum(r["trusted"] for r in spread), len(spread)),
                "given_another_trusted": (sum(r["given_another"] for r in own), len(own)),
            }
            found = {name: proportion(*counts).as_dict() for name, counts in shares.items()}
            lines.append({"kind": "uniqueness", "threshold": threshold, "level": level, **found})
    return lines


def main() -> int:
    """Measure what is pending."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", required=True, type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    plan = Plan((1.0, 2.0), (1.0,), 1) if arguments.quick else Plan()
    keys = {f"{t}/{n}/{s}": (t, n, s) for s in range(plan.seeds) for t in plan.thresholds for n in plan.levels}
    with Run.open("experiments/entity_cells_planted", asdict(plan), arguments.output_dir, resume=True) as run:
        for key in run.items(list(keys), "uniqueness"):
            run.record(key, verdicts(*keys[key]))
        lines = summary(run.results())
        files.write_atomic(run.path("summary.jsonl"), "".join(files.to_json(r, "summary") + "\n" for r in lines))
    for r in lines:
        shares = "  ".join(f"{k} {r[k]['value']:.2f}" for k in ("power", "spread_trusted", "given_another_trusted"))
        print(f"threshold {r['threshold']}  level {r['level']}  {shares}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
