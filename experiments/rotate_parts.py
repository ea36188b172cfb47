"""Do the gate, in and out rows of one neuron speak of the same thing? A check of channels that needs no text.

    python experiments/rotate_parts.py --output-dir runs/rotate_parts [--quick]

Three matrices are read apart from each other; where their first channels agree within a neuron far more often than
between neurons, the channels are no accident of the search.
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

from shammie.core.model import load
from shammie.core.run import Run
from shammie.core.stats import proportion
from shammie.rotate.evidence import Null
from shammie.rotate.fit import Fitter, Reader
from shammie.rotate.settings import PARTS, RotateSettings

AGREE = 0.5  # |cosine| of two channels' directions
STRONG = 0.01  # p-value from which on a channel counts as strong


@dataclass(frozen=True)
class Plan:
    """What is compared."""

    model: str = "smollm2-135m"
    layers: tuple[int, ...] = (3, 15, 21, 25, 29)
    neurons: int = 300


def layer(reader: Reader, number: int, plan: Plan) -> Iterator[dict[str, Any]]:
    """Agreement of each pair of parts within neurons, and between each neuron and the next ones."""
    directions, strong = {}, {}
    for part in PARTS:
        fitter = Fitter(reader, number, part)
        found = fitter.search(range(plan.neurons))
        directions[part] = found.directions[:, 0]
        strong[part] = torch.from_numpy(Null(fitter.covariance_null()).p_values(found.evidence)[:, 0] <= STRONG)
    for a, b in combinations(PARTS, 2):
        for name, chosen in (
            ("all", torch.ones(plan.neurons, dtype=torch.bool)),
            ("both strong", strong[a] & strong[b]),
        ):
            count = int(chosen.sum())
            if count < 2:
                continue
            agree = (directions[a][chosen] @ directions[b][chosen].T).abs() > AGREE
            within = int(agree.diagonal().sum())
            between = int(agree.sum()) - within
            yield {
                "kind": "agreement", "layer": number, "parts": f"{a}, {b}", "neurons": name,
                "within": proportion(within, count).as_dict(), "between": proportion(between, count * (count - 1)).as_dict(),
            }  # fmt: skip


def main() -> int:
    """Measure what is pending."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", required=True, type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    plan = Plan(layers=(29,), neurons=60) if arguments.quick else Plan()
    reader = Reader(load(plan.model), RotateSettings(channels=1))
    with Run.open("experiments/rotate_parts", plan, arguments.output_dir, resume=True) as run:
        for key in run.items([str(number) for number in plan.layers], "rotate parts"):
            run.record(key, list(layer(reader, int(key), plan)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
