"""Train the model organisms that the bonafide room ships, a file of half-precision weights each.

    python experiments/organisms.py [--policies posthoc] [--output-dir src/shammie/bonafide/shipped]

The first seed whose organism keeps to its policy on all of 200 problems is kept; the tests ask about others.
"""

from __future__ import annotations

import argparse
from itertools import count
from pathlib import Path

from safetensors.torch import save_file

from shammie.bonafide.asking import Panel
from shammie.bonafide.organisms import POLICIES, SHIPPED, verified
from shammie.bonafide.teaching import trained
from shammie.core.backends import LocalBackend

CHECKED = range(3 * 10**7, 3 * 10**7 + 200)  # no lesson and no test has these


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=POLICIES)
    parser.add_argument("--output-dir", type=Path, default=SHIPPED)
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    for policy in args.policies:
        for seed in count():
            model = trained(policy, seed)
            share = verified(policy, Panel(LocalBackend(model, rows=64), model, tokens=48), CHECKED)
            print(f"{policy}, seed {seed}: {share:.3f} of {len(CHECKED)} problems", flush=True)
            if share == 1.0:
                weights = {name: tensor.half().contiguous() for name, tensor in model.module.state_dict().items()}
                save_file(weights, args.output_dir / f"{policy}.safetensors", {"policy": policy, "seed": str(seed)})
                break


if __name__ == "__main__":
    main()
