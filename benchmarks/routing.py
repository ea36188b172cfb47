"""Routing: a training step with running means against one with the balancing loss; our block of experts against transformers' own.

Sizes of the block are rows x width x neurons x experts, two experts a token, in float32 and bfloat16, forward and backward, loads
even. Transformers' paths are eager, batched_mm and grouped_mm, where they work; ours is the one that `fastest` finds. Wall
time of one thread unless --threads says more.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import common
import torch
from transformers import OlmoeConfig
from transformers.models.olmoe.modeling_olmoe import OlmoeExperts

from shammie.core.schedule import TrainSettings
from shammie.core.windows import cut_windows
from shammie.routing.experts import Experts, fastest
from shammie.routing.modeling import make_model
from shammie.routing.settings import RECIPES, Shape
from shammie.routing.tokens import byte_tokenizer
from shammie.routing.tour import texts
from shammie.routing.training import train

SIZES = ((4096, 256, 256, 16), (8192, 256, 128, 64), (8192, 512, 256, 64))
CHOSEN, STEPS = 2, 4
GROUPS = ("step", *("x".join(map(str, size)) for size in SIZES))


def measure_step(report: common.Report, rounds: int) -> None:
    """Some steps of the same model, balanced by a loss and by running means."""
    tokenizer = byte_tokenizer()
    windows = cut_windows(tokenizer, texts(), 257)

    def steps(name: str) -> None:
        module = make_model(Shape(), RECIPES[name], tokenizer)
        module.use_path("grouped")
        with tempfile.TemporaryDirectory() as place:
            train(module, windows, TrainSettings(STEPS, 8, 1e-3, checkpoint_every=0), Path(place) / "training")

    seconds = common.interleaved({name: partial(steps, name) for name in ("kmeans", "aux")}, rounds, label="steps")
    measured = common.ratio(seconds["kmeans"], seconds["aux"])
    report.add(common.Line("training step, K-Means / balancing loss", measured, 1.03, seconds=seconds))


class Sides:
    """One size: our block and each of transformers' paths, with the same weights, and what they are given."""

    def __init__(self, size: tuple[int, int, int, int], dtype: torch.dtype) -> None:
        rows, self.width, self.neurons, self.experts = size
        self.dtype, self.tokens = dtype, rows // CHOSEN
        noise = torch.Generator().manual_seed(0)
        self.states, self.wanted = (torch.randn(self.tokens, self.width, generator=noise).to(dtype) for _ in range(2))
        self.index = torch.rand(self.tokens, self.experts, generator=noise).topk(CHOSEN, dim=-1).indices
        self.weights = torch.full((self.tokens, CHOSEN), 1 / CHOSEN, dtype=dtype).requires_grad_()
        self.states.requires_grad_()
        self.ours = Experts(self.width, self.neurons, self.experts).to(dtype)
        with torch.no_grad():
            for weight in self.ours.parameters():
                weight.copy_(0.02 * torch.randn(weight.shape, generator=noise))
        copied = rows * self.neurons * self.width * dtype.itemsize  # by batched_mm, which takes minutes at 2 GiB
        self.paths = ("eager", "batched_mm", "grouped_mm") if copied < 2**31 else ("eager", "grouped_mm")

    def choose(self) -> None:
        """Take the path that is fastest for ours."""
        self.ours.use(fastest(self.tokens, CHOSEN, self.ours.gate_up_proj, self.ours.down_proj, backward=True)[0])

    def theirs(self, path: str) -> OlmoeExperts:
        """Transformers' experts along a path."""
        config = OlmoeConfig(
            hidden_size=self.width, intermediate_size=self.neurons, num_experts=self.experts, num_experts_per_tok=CHOSEN
        )
        config._experts_implementation = path
        made = OlmoeExperts(config).to(self.dtype)
        made.load_state_dict(self.ours.state_dict())
        return made

    def run(self, module: torch.nn.Module) -> None:
        """Forward and backward of one block."""
        learned = [self.states, self.weights, *module.parameters()]
        torch.autograd.grad(module(self.states, self.index, self.weights), learned, self.wanted)


def measure_block(report: common.Report, rounds: int, size: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    """One size: ours, and each of transformers' paths."""
    own = Sides(size, dtype)
    own.choose()
    sides: dict[str, Callable[[], None]] = {"ours": partial(own.run, own.ours)}
    for name in own.paths:
        theirs = own.theirs(name)
        given = (own.states, own.index, own.weights)
        gap = (theirs(*given) - own.ours(*given)).abs().max().item()
        assert gap < (1e-4 if dtype == torch.float32 else 2e-2), f"{name} differs by {gap}"
        sides[name] = partial(own.run, theirs)
    seconds = common.interleaved(sides, rounds, label=f"{size} {dtype}")
    label = f"{'x'.join(map(str, size))} {str(dtype).removeprefix('torch.')}"
    best = min(own.paths, key=lambda name: sorted(seconds[name])[len(seconds[name]) // 2])
    peaks = {}
    if not report.args.no_memory:
        named = {name: f"{label}:{name}:{own.ours.path}" for name in ("ours", *own.paths)}
        found = common.peaks(__file__, list(named.values()))
        peaks = {name: found[side] for name, side in named.items()}
    for name, goal in (("eager", 0.8), (best, 1.05)):
        note = f"{own.ours.path}" + (f", best is {name}" if goal > 1 else "")
        measured = common.ratio(seconds["ours"], seconds[name])
        memory = {"peak": peaks.get("ours"), "peak_other": peaks.get(name)}
        report.add(common.Line(f"{label} / {name}", measured, goal, note=note, seconds=seconds, **memory))


def print_peak(side: str) -> None:
    """In a process of its own: the memory that a side's forward and backward add."""
    label, name, path = side.split(":")
    size, dtype = label.split()
    own = Sides(tuple(map(int, size.split("x"))), getattr(torch, dtype))  # type: ignore[arg-type]
    own.ours.use(path)  # type: ignore[arg-type]
    module = own.ours if name == "ours" else own.theirs(name)
    common.print_peak(partial(own.run, module), [own.ours, module])


def main() -> int:
    args = common.arguments(__doc__.splitlines()[0], GROUPS).parse_args()
    torch.set_num_threads(1)
    if args.peak:
        print_peak(args.peak)
        return 0
    report = common.Report("routing", args, {"threads": 1, "chosen": CHOSEN})
    rounds = 2 if args.quick else max(9, args.repeats)
    if "step" in args.only:
        measure_step(report, rounds)
    for group, size in zip(GROUPS[1:], SIZES[:1] if args.quick else SIZES, strict=False):
        for dtype in (torch.float32, torch.bfloat16) if group in args.only else ():
            measure_block(report, rounds, size, dtype)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
