"""The paper's optimizer and the fast solver on the same neurons: objective, channels and top tokens.

    python experiments/rotate_solvers.py --output-dir runs/rotate_solvers [--quick]

Two seeds of the paper's optimizer say how far apart its own channels lie; the fast solver must lie no further. 32 gate
neurons of SmolLM2's layer 12, one channel each; on one core the whole takes half an hour. Resumable.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cosine_similarity

from shammie.core.model import load
from shammie.core.run import Run
from shammie.core.stats import mean_interval
from shammie.rotate import fast, paper
from shammie.rotate.equations import Objective
from shammie.rotate.fast import FastSettings
from shammie.rotate.neurons import read_rows
from shammie.rotate.paper import PaperSettings
from shammie.rotate.tokens import token_space

MODEL, LAYER, TOP = "smollm2-135m", 12, 50


@dataclass(frozen=True)
class Plan:
    """How many neurons, and how long the paper's optimizer may take."""

    neurons: int = 32
    max_steps: int = 10_000


def solve(side: str, seed: int, plan: Plan) -> dict[str, Any]:
    """Channels of one solver from one seed: objective and top tokens of each neuron, and the channels themselves."""
    model = load(MODEL, dtype="float32")
    space = token_space(model, "output")
    rows = read_rows(model, LAYER, "gate")
    w = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[: plan.neurons]]
    start = torch.randn(w.shape, generator=torch.Generator().manual_seed(seed))
    weights = space.weights.expand(len(w), -1).clone()
    if side == "paper":
        found = paper.solve(w, space.tokens, weights, Objective(), start, PaperSettings(max_steps=plan.max_steps))
    else:
        # "straight" goes without the approach that chooses the paper's hill.
        settings = FastSettings(approach=0) if side == "straight" else FastSettings()
        found = fast.solve(w, space.tokens, weights, Objective(), start, space.spectrum, settings)
    top = ((found.channels @ space.tokens.T) * weights).topk(TOP).indices
    return {
        "kind": "solved", "solver": side, "seed": seed, "steps": int(found.steps.max()),
        "objective": [round(value, 5) for value in found.value.tolist()],
        "J": mean_interval(found.value.tolist(), None, 0).as_dict(), "top": top.tolist(),
        "channels": [[round(x, 5) for x in row] for row in found.channels.tolist()],
    }  # fmt: skip


def compare(records: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Cosine and Jaccard of the top tokens, neuron by neuron, of every two solutions."""
    solved = [record for record in records if record["kind"] == "solved"]
    for a, b in combinations(solved, 2):
        cosines = cosine_similarity(torch.tensor(a["channels"]), torch.tensor(b["channels"])).tolist()
        shares = [len(set(x) & set(y)) / len(set(x) | set(y)) for x, y in zip(a["top"], b["top"], strict=True)]
        yield {
            "kind": "compared", "a": f"{a['solver']} {a['seed']}", "b": f"{b['solver']} {b['seed']}",
            "cosine": mean_interval(cosines, None, 0).as_dict(), "jaccard": mean_interval(shares, None, 0).as_dict(),
        }  # fmt: skip


def main() -> int:
    """Measure what is pending."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", required=True, type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    plan = Plan(neurons=4, max_steps=200) if arguments.quick else Plan()
    sides = [f"{side}/{seed}" for side in ("fast", "straight", "paper") for seed in (0, 1)]
    with Run.open("experiments/rotate_solvers", plan, arguments.output_dir, resume=True) as run:
        for key in run.items([*sides, "compared"], "rotate solvers"):
            side, _, seed = key.partition("/")
            run.record(key, list(compare(run.results())) if key == "compared" else solve(side, int(seed), plan))
    return 0


if __name__ == "__main__":
    sys.exit(main())
