"""ROTATE: the fast solver against the paper's optimizer at equal objective, in CPU time, FLOP and memory.

64 gate neurons of SmolLM2's layer 12. The paper's optimizer runs on 16 of them, once: at its own settings until its own
stop rule, and at its best learning rate (1e-2, of 8e-4, 2e-3, 5e-3, 1e-2, 2e-2) for as few steps as reach the former's
objective. Times are CPU seconds a neuron.
"""

from __future__ import annotations

import sys
import time

import common
import torch

from shammie.core.model import load
from shammie.rotate import fast, paper
from shammie.rotate.equations import Objective
from shammie.rotate.neurons import Population, read_rows
from shammie.rotate.paper import PaperSettings
from shammie.rotate.pursue import Pursuit
from shammie.rotate.settings import RotateSettings, Solver
from shammie.rotate.solution import Solution
from shammie.rotate.tokens import TokenSpace, token_space

MODEL, LAYER, NEURONS, SUBSAMPLE = "smollm2-135m", 12, 64, 16
BEST_RATE, BEST_STEPS = 1e-2, 600
GEMMA = (262_144, 640)  # tokens and width
GROUPS = ("paper", "best", "floor", "anchored", "memory")


class Problem:
    """The neurons, the token vectors and the starts, the same for every side."""

    def __init__(self) -> None:
        model = load(MODEL, dtype="float32")
        self.space = token_space(model, "output")
        rows = read_rows(model, LAYER, "gate")
        chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:NEURONS]
        self.w = rows[chosen]
        self.start = torch.randn(self.w.shape, generator=torch.Generator().manual_seed(1))
        self.spectrum = self.space.spectrum

    def fast(self, count: int = NEURONS) -> Solution:
        weights = self.space.weights.expand(count, -1).clone()
        w, start = self.w[:count], self.start[:count]
        return fast.solve(w, self.space.tokens, weights, Objective(), start, self.spectrum)

    def paper(self, settings: PaperSettings, count: int = SUBSAMPLE) -> Solution:
        weights = self.space.weights.expand(count, -1).clone()
        return paper.solve(self.w[:count], self.space.tokens, weights, Objective(), self.start[:count], settings)

    def products(self) -> None:
        """The floor: for 64 neurons one product with the vocabulary there and one back, whole."""
        (self.w @ self.space.tokens.T) @ self.space.tokens


def cpu_seconds(work: common.Run) -> tuple[float, object]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def measure_fast(problem: Problem, rounds: int) -> tuple[list[float], Solution]:
    seconds = []
    problem.fast()
    for index in range(rounds):
        taken, result = cpu_seconds(problem.fast)
        seconds.append(taken / NEURONS)
        common.progress(f"fast {index + 1}/{rounds}")
    common.progress("")
    assert isinstance(result, Solution)
    return seconds, result


def against_paper(
    report: common.Report, problem: Problem, ours: list[float], solved: Solution, settings: PaperSettings, goal: float,
    name: str,
) -> None:  # fmt: skip
    taken, result = cpu_seconds(lambda: problem.paper(settings))
    assert isinstance(result, Solution)
    other = taken / SUBSAMPLE
    steps = int(result.steps[0])
    report.add(
        common.Line(
            f"CPU time a neuron: fast / {name}", common.ratio(ours, [other] * len(ours)), goal, "x",
            f"{other:.2f} s in {steps:,} steps against {sum(ours) / len(ours):.3f} s", seconds={"fast": ours, "paper": [other]},
        )
    )  # fmt: skip
    gap = (result.value - solved.value[:SUBSAMPLE]).mean().item()
    worse = f"mean J {solved.value[:SUBSAMPLE].mean():.4f} against {result.value.mean():.4f}"
    report.add(common.Line(f"objective: {name} - fast", common.Measured(gap, gap, gap, SUBSAMPLE), 0.0, "J", worse))


def measure_floor(report: common.Report, problem: Problem, ours: list[float], solved: Solution) -> None:
    """How far the solver is from the products with the vocabulary that its iterations cannot do without."""
    iterations = float(solved.steps.float().mean()) + 1
    seconds = [cpu_seconds(problem.products)[0] / NEURONS for _ in range(6)][1:]
    floor = [iterations * value for value in seconds]
    tokens, width = problem.space.tokens.shape
    flop = iterations * 4 * width * tokens
    traffic = iterations * (2 * width * tokens * 4 / NEURONS + 8 * tokens * 4)
    note = f"{iterations:.1f} iterations, {flop / 1e9:.2f} GFLOP and {traffic / 2**20:.0f} MiB a neuron"
    report.add(common.Line("CPU time: fast / its products alone", common.ratio(ours, floor), None, "x", note))


def measure_anchored(report: common.Report, problem: Problem) -> None:
    """The default solver beside `fast`, each as a fit uses it: one channel with its evidence."""
    population, generator = Population.of(problem.w), torch.Generator()
    sides: list[Solver] = ["anchored", "fast"]
    pursuits = [Pursuit(problem.space, population, RotateSettings(solver=side, channels=1)) for side in sides]
    rounds = [[cpu_seconds(lambda: p(problem.w, generator))[0] / NEURONS for p in pursuits] for _ in range(6)]  # noqa: B023
    ours, other = (list(side) for side in zip(*rounds[1:], strict=True))
    note = f"{sum(ours) / len(ours):.4f} s a neuron and channel against {sum(other) / len(other):.4f} s"
    report.add(common.Line("CPU time: anchored / fast", common.ratio(ours, other), None, "x", note))


def measure_memory(report: common.Report) -> None:
    for side in ("anchored", "fast"):
        peak = common.peaks(__file__, [side])[side]
        measured = None if peak is None else common.Measured(peak / 2**30, peak / 2**30, peak / 2**30, 1)
        what = "1,000 neurons" if side == "anchored" else "two batches of neurons"
        name = f"peak memory, 262,144 tokens of width 640 (token vectors included): {side}, {what}"
        report.add(common.Line(name, measured, 4.0, "GiB"))


def hold(side: str) -> None:
    """A vocabulary of Gemma's size and what a fit does over it; memory does not depend on what the numbers are."""
    generator = torch.Generator().manual_seed(0)
    space = TokenSpace(torch.randn(*GEMMA, generator=generator), torch.ones(GEMMA[0]))
    population = Population.isotropic(GEMMA[1])
    pursuit = Pursuit(space, population, RotateSettings(solver=side, channels=1))  # type: ignore[arg-type]
    rows = 1000 if side == "anchored" else 2 * pursuit.rows
    pursuit(population.draw(rows, generator), generator)


def main() -> int:
    parser = common.arguments(__doc__.splitlines()[0], GROUPS)
    args = parser.parse_args()
    if args.peak:
        common.print_peak(lambda: hold(args.peak), [])
        return 0
    torch.set_num_threads(1)
    report = common.Report("rotate", args, {"model": MODEL, "layer": LAYER, "neurons": NEURONS, "threads": 1})
    problem = Problem()
    ours, solved = measure_fast(problem, max(5, args.repeats))
    if "floor" in args.only:
        measure_floor(report, problem, ours, solved)
    if "anchored" in args.only:
        measure_anchored(report, problem)
    if "best" in args.only:
        settings = PaperSettings(learning_rate=BEST_RATE, max_steps=BEST_STEPS)
        against_paper(report, problem, ours, solved, settings, 1 / 20, "the same optimizer at its best learning rate")
    if "paper" in args.only:
        against_paper(report, problem, ours, solved, PaperSettings(), 1 / 100, "the paper's settings and stop rule")
    if "memory" in args.only and not args.no_memory:
        measure_memory(report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
