"""The figures of the routing card: the same small sparse decoder trained under every way of routing, and the fronts of two sweeps.

    python experiments/routing.py --texts wiki.jsonl --output-dir runs/routing --steps 800 [--only recipes] [--quick]
    python experiments/routing.py --output-dir runs/routing --table
    python experiments/routing.py --planted

Recipes on three seeds; the weight of the balancing loss, the rate of the bias and the decay of the running means swept on one. A
run a directory, each `shammie routing train`; run it again to go on. `geometry` inspects the first seed's models, with centroids
and chance in the router's place. `--planted` prints how well routers find planted clusters.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shammie.cli.running import execute
from shammie.core.intervals import mean_interval
from shammie.core.run import read_run
from shammie.core.schedule import TrainSettings
from shammie.routing.config import RoutingCompare, RoutingInspect, RoutingTrain
from shammie.routing.evaluate import compared
from shammie.routing.planted import trained
from shammie.routing.settings import RECIPES, RoutingSettings, Shape

SWEPT: dict[str, RoutingSettings] = {
    **{f"aux-{weight:g}": replace(RECIPES["aux"], aux_weight=weight) for weight in (0.001, 0.003, 0.03, 0.1, 0.3)},
    **{f"loss-free-{rate:g}": replace(RECIPES["loss-free"], bias_rate=rate) for rate in (1e-4, 3e-4, 3e-3, 1e-2)},
    **{f"kmeans-{rate:g}": replace(RECIPES["kmeans"], bias_rate=rate) for rate in (1e-4, 3e-4, 3e-3, 1e-2)},
    "kmeans-slow": replace(RECIPES["kmeans"], decay=0.999),
    "kmeans-fast": replace(RECIPES["kmeans"], decay=0.9),
    "kmeans-centred": replace(RECIPES["kmeans"], centred=True),
    "kmeans-detached": replace(RECIPES["kmeans"], detached=True),
    "none-softmax": replace(RECIPES["none"], gate="softmax"),
    "aux-softmax": replace(RECIPES["aux"], gate="softmax"),
}
PARTS = ("recipes", "sweeps", "geometry")
INSPECTED = ("none", "aux", "loss-free", "kmeans", "random")
COLUMNS = (
    "max_violation",
    "batch_violation",
    "variation",
    "dead",
    "similarity",
    "signed",
    "score",
    "alignment",
    "agreement",
)


def train(args: argparse.Namespace, name: str, routing: RoutingSettings, seed: int) -> None:
    """One training, unless it is there."""
    steps = 20 if args.quick else args.steps
    training = TrainSettings(
        steps,
        args.batch_size,
        2e-3,
        warmup=0.05,
        schedule="cosine",
        floor=0.1,
        checkpoint_every=max(1, steps // 6),
        seed=seed,
    )
    shape = Shape(2, 32, 2, 8, 2, 16) if args.quick else Shape()
    config = RoutingTrain(
        texts=args.texts, output_dir=args.output_dir, routing=routing, limit=args.limit, held_out=8 if args.quick else 256,
        experts_path="grouped", shape=shape, training=training, resume=True,
    )  # fmt: skip
    execute("routing train", config, args.output_dir / f"{name}--{seed}")


def table(directory: Path) -> None:
    """Means over seeds, with their range, a line a way of routing."""
    found: dict[str, list[dict[str, Any]]] = {}
    for place in sorted(directory.glob("*--*")):
        record = read_run(place)
        if record.status == "finished":
            found.setdefault(place.name.partition("--")[0], []).append(next(compared(record)))
    print("| routing | seeds | perplexity | " + " | ".join(COLUMNS) + " |\n" + "|---" * (3 + len(COLUMNS)) + "|")
    for name, rows in found.items():
        quality = [row["perplexity"]["value"] for row in rows]
        cells = [_cell(quality), *(_cell([row[column] for row in rows]) for column in COLUMNS)]
        print(f"| {name} | {len(rows)} | " + " | ".join(cells) + " |")
    base = {row["seed"]: row["perplexity"]["value"] for row in found.get("loss-free", [])}
    for name in ("none", "aux", "kmeans", "kmeans-unbiased"):
        ratios = [
            row["perplexity"]["value"] / base[row["seed"]] - 1 for row in found.get(name, []) if row["seed"] in base
        ]
        if len(ratios) > 1:
            print(f"{name}: perplexity against loss-free {mean_interval(np.array(ratios))}")


def coupling(directory: Path) -> None:
    """Score against activation by layer, beside another token's scores; alignment by kind of weights. Means over seeds."""
    for name in RECIPES:
        scores: dict[int, list[tuple[float, float]]] = {}
        aligned: dict[str, list[float]] = {}
        for r in (r for place in sorted(directory.glob(f"{name}--*")) for r in read_run(place).results):
            if r["kind"] == "score":
                scores.setdefault(r["layer"], []).append((r["by_token"]["value"], r["control"]["value"]))
            if r["kind"] == "alignment":
                aligned.setdefault(r["weights"], []).append(r["ratio"]["value"])
        means = [np.mean(pairs, axis=0) for pairs in scores.values()]
        said = ", ".join(f"{own:.2f} ({other:.2f})" for own, other in means)
        ratios = ", ".join(f"{weights} {np.mean(values):.2f}" for weights, values in aligned.items())
        print(f"{name}: score (control) by layer {said}; aligned: {ratios}")


def geometry(args: argparse.Namespace) -> None:
    """Perplexity with the router's choice, centroids' and chance's, and how much of chance's cost centroids undo."""
    print("| trained | own choice | centroids' | chance's | undone, of log perplexity |\n|---|---|---|---|---|")
    for name in INSPECTED:
        place = args.output_dir / f"inspected-{name}"
        model = args.output_dir / f"{name}--{args.seeds[0]}" / "artifacts" / "model"
        execute("routing inspect", RoutingInspect(str(model), args.texts, resume=True), place)
        found = {r["choice"]: r["perplexity"] for r in read_run(place).results if r["kind"] == "replaced"}
        own, fitted, chance = (np.log(found[how]["value"]) for how in ("own", "centroids", "random"))
        cells = [f"{p['value']:.2f} [{p['low']:.2f}, {p['high']:.2f}]" for p in found.values()]
        print(f"| {name} | " + " | ".join(cells) + f" | {(chance - fitted) / (chance - own):.2f} |", flush=True)


def planted(seeds: list[int]) -> None:
    """Routers and experts trained on clusters with a map each: share recovered and largest load less 1, by seed."""
    print("| recipe | share recovered, by seed | largest load less 1 |\n|---|---|---|")
    for name, routing in RECIPES.items():
        found = [trained(routing, 2.0, seed) for seed in seeds]
        cells = [" ".join(f"{pair[column]:.2f}" for pair in found) for column in (0, 1)]
        print(f"| {name} | {cells[0]} | {cells[1]} |", flush=True)


def _cell(values: list[float]) -> str:
    spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
    return f"{sum(values) / len(values):.3f}{spread}"


def main() -> int:
    """Train what is missing, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/routing"))
    parser.add_argument("--planted", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--recipes", nargs="+", choices=[*RECIPES, *SWEPT], default=[*RECIPES, *SWEPT])
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--limit", type=int, help="texts that are read")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.planted:
        planted(args.seeds)
        return 0
    if not args.table:
        torch.set_num_threads(1)
        recipes, swept = (RECIPES if "recipes" in args.only else {}), (SWEPT if "sweeps" in args.only else {})
        wanted = [(name, recipes[name], seed) for seed in args.seeds for name in args.recipes if name in recipes]
        wanted += [(name, swept[name], args.seeds[0]) for name in args.recipes if name in swept]
        for name, routing, seed in wanted:
            print(name, seed, flush=True)
            train(args, name, routing, seed)
        if "geometry" in args.only:
            geometry(args)
        runs = tuple(sorted(args.output_dir.glob("*--*")))
        execute("routing compare", RoutingCompare(runs=runs, resume=True), args.output_dir / f"compared-{len(runs)}")
    table(args.output_dir)
    coupling(args.output_dir)
    return 0


if __name__ == "__main__":
    sys.exit(main())
