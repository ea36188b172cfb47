"""MFA: the default trainer against the paper's recipe at equal held-out likelihood, and the E-step against its products.

    python benchmarks/mfa.py --states DIRECTORY [--site residual:15] [--epochs 10]

The first 200,000 tokens of a harvest of SmolLM2 (`shammie mfa harvest`), K=500, R=10, one thread, CPU seconds. The paper's
recipe runs once, on standardized and on raw activations, for `--epochs` (10 as in the goal; a side of that length takes about
half an hour on a free core). The default trainer runs once from its start until it stops.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import common
import torch

from shammie.core.site import Site
from shammie.mfa.em import fit_em, start
from shammie.mfa.equations import Parameters
from shammie.mfa.expectation import Expectation, leading_dimensions
from shammie.mfa.fitting import open_states
from shammie.mfa.paper import fit_paper
from shammie.mfa.settings import MfaSettings
from shammie.mfa.source import TensorSource

TOKENS, BLOCK = 200_000, 8192
COUNTS = (250, 500, 1000, 2000)
GROUPS = ("estep", "scaling", "standardized", "raw", "memory")
Curve = list[tuple[float, float]]  # CPU seconds, held-out nats


def read(directory: Path, site: Site) -> TensorSource:
    """The first tokens of a harvest, in memory, with the text of each."""
    parts, texts, have = [], [], 0
    for shard in open_states(directory):
        parts.append(shard.states[site].float())
        texts.append(shard.text)
        have += len(parts[-1])
        if have >= TOKENS:
            break
    return TensorSource(torch.cat(parts)[:TOKENS], text=torch.cat(texts)[:TOKENS])


def curve(passes: Iterator) -> Curve:
    """CPU seconds and held-out likelihood after the start and after each pass."""
    begun, found = time.process_time(), []
    for one in passes:
        found.append((time.process_time() - begun, one.held_out))
        common.progress(f"pass {one.number}: {one.held_out:.1f} nats after {found[-1][0]:.0f} s")
    common.progress("")
    return found


def seconds_to(found: Curve, nats: float) -> float | None:
    """CPU seconds until a likelihood is reached; None when it never is."""
    return next((taken for taken, value in found if value <= nats), None)


def against_paper(
    report: common.Report, source: TensorSource, ours: Curve, standardize: bool, epochs: int, goal: float
) -> None:
    settings = MfaSettings(500, 10, trainer="paper", passes=epochs, standardize=standardize)
    theirs = curve(fit_paper(source, settings))
    taken, nats = theirs[-1]
    name = "standardized" if standardize else "raw"
    reached = seconds_to(ours, nats)
    share = None if reached is None else reached / taken
    measured = None if share is None else common.Measured(share, share, share, 1)
    note = f"{nats:.1f} nats after {epochs} epochs in {taken:.0f} s" + (
        "" if reached is None else f"; ours {reached:.1f} s"
    )
    report.add(common.Line(f"CPU time: default / the paper's recipe, {name} activations", measured, goal, "x", note))
    gap = min(value for _, value in ours) - min(value for _, value in theirs)
    report.add(
        common.Line(f"final held-out nats: default - paper, {name}", common.Measured(gap, gap, gap, 1), 0.0, "nats")
    )


def estep(report: common.Report, source: TensorSource, mixture: Parameters, rounds: int) -> None:
    """Both E-steps beside a matrix product of the same operations: B x D by D x K (R + 1)."""
    x = source.x[:BLOCK]
    count, width, rank = mixture.loadings.shape
    other = torch.randn(width, count * (rank + 1))
    dense, screened = Expectation(mixture, None, 8), Expectation(mixture, leading_dimensions(mixture, 64), 8)
    sides = {"product": lambda: x @ other, "dense": lambda: dense.dense(x), "screened": lambda: screened.posterior(x)}
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            begun = time.process_time()
            side()
            if number:
                taken[name].append(time.process_time() - begun)
    flop = 2 * width * count * (rank + 1)
    note = f"{flop / 1e6:.2f} MFLOP a token"
    report.add(
        common.Line(
            "E-step, all in full / its product", common.ratio(taken["dense"], taken["product"]), 1.25, "x", note
        )
    )
    report.add(
        common.Line("E-step, screened / that product", common.ratio(taken["screened"], taken["product"]), 1.0, "x")
    )
    lost = dense.dense(x).logsumexp(-1) - screened.posterior(x).log_density
    report.check("mean density that the screen loses, nats a token", float(lost.double().mean()), 0.5)


def scaling(report: common.Report, source: TensorSource, rounds: int) -> None:
    for count in COUNTS:
        mixture = start(source, MfaSettings(count, 10, start_tokens=50_000, iterations=3))
        step = Expectation(mixture, leading_dimensions(mixture, 64), 8)
        x, rates = source.x[:BLOCK], []
        for _ in range(rounds):
            begun = time.process_time()
            step.posterior(x)
            rates.append(BLOCK / (time.process_time() - begun) / 1000)
        report.add(common.Line(f"E-step, K={count}", common.median(rates), None, "thousand tokens/s"))


def main() -> int:
    parser = common.arguments(__doc__.splitlines()[0], GROUPS)
    parser.add_argument("--states", type=Path, required=True, help="directory of a harvest of SmolLM2")
    parser.add_argument("--site", default="residual:15")
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(1)
    source = read(args.states, Site.parse(args.site))
    if args.peak:
        common.print_peak(lambda: list(fit_em(source, MfaSettings(500, 10, passes=2))), [])
        return 0
    report = common.Report("mfa", args, {"site": args.site, "tokens": len(source.x), "K": 500, "R": 10, "threads": 1})
    rounds = max(5, args.repeats)
    if {"standardized", "raw", "estep"} & set(args.only):
        settings = MfaSettings(500, 10)
        if "estep" in args.only:
            estep(report, source, start(source, settings), rounds)
        if {"standardized", "raw"} & set(args.only):
            ours = curve(fit_em(source, settings))
            for name, goal in (("standardized", 1 / 20), ("raw", 1 / 50)):
                if name in args.only:
                    against_paper(report, source, ours, name == "standardized", args.epochs, goal)
    if "scaling" in args.only:
        scaling(report, source, rounds)
    if "memory" in args.only and not args.no_memory:
        peak = common.peaks(__file__, ["fit"], ["--states", str(args.states)])["fit"]
        measured = None if peak is None else common.Measured(peak / 2**30, peak / 2**30, peak / 2**30, 1)
        report.add(common.Line("peak memory of two passes beside the 200,000 tokens", measured, 2.0, "GiB"))
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
