"""The figures of the beliefs card: what states hold under claims, what changing them does, and what the model says of it.

    python experiments/beliefs.py --model smollm2-135m --output-dir runs/beliefs-smollm2 [--quick]
    python experiments/beliefs.py --model qwen2.5-coder-0.5b-instruct.gguf --output-dir runs/beliefs-qwen --without lens

150 capitals under four frames and 60 pairs of sentences with a pronoun: `shammie beliefs settings` with Patchscopes and with the
lens, `intervene`, `monitor` and `report`, and the readers compared on some of the same states. A directory a part; run it again
to go on. Where too few texts of a level are there to show and to ask about, `monitor` says so, and the verdict lacks that claim.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from shammie.beliefs import equations as eq
from shammie.beliefs.ask import Asker, beliefs_of
from shammie.beliefs.config import BeliefsIntervene, BeliefsMonitor, BeliefsReport, BeliefsSettings
from shammie.beliefs.data import load_cases
from shammie.beliefs.read import GridReader
from shammie.beliefs.settings import AskSettings, ReadSettings
from shammie.cli.running import execute, summary
from shammie.core.errors import DataError
from shammie.core.model import load
from shammie.core.run import Run, read_run

TASKS = {
    "capitals": ("geonames:capital", ("none", "neutral", "credible", "non-credible")),
    "pairs": ("winograd:", ("none", "neutral")),
}
READ, ASK = ReadSettings(step=2), AskSettings(max_new_tokens=64)
RANKS = (1, 5, 10, 50)  # at which the lens is compared with Patchscopes
COMPARED = 20  # cases


def readers(model: str, output: Path, limit: int) -> None:
    """Hits of the lens at several ranks against those of Patchscopes, state by state: recall, precision, and balanced accuracy."""
    with Run.open("experiments beliefs readers", {"model": model, "limit": limit}, output, resume=True) as run:
        if not run.pending(["readers"]):
            return
        loaded = load(model, dtype="float32")
        asker, scope = Asker(loaded, ASK), GridReader(loaded, READ)
        cases = load_cases("geonames:capital", limit=limit).cases
        truth: list[bool] = []
        ranks: list[int] = []
        for case in cases:
            told = asker.ask([(case, "neutral")])[0]
            if len(told.ids) == told.start:
                continue
            grid = scope.read(told.ids, told.start, beliefs_of(case))
            firsts = {name: scope.firsts(names) for name, names in beliefs_of(case).items()}
            own = scope.ranks(scope.states(told.ids, told.start), firsts)
            for name in ("base", "counter"):
                truth += grid.hits[name].flatten().tolist()
                ranks += own[name].flatten().tolist()
        hits, places = torch.tensor(truth), torch.tensor(ranks)
        records = []
        for rank in RANKS:
            said = places < rank
            records.append({
                "kind": "reader", "rank": rank, "states": len(hits), "hits": int(hits.sum()),
                "recall": float((said & hits).sum() / hits.sum().clamp(min=1)),
                "precision": float((said & hits).sum() / said.sum().clamp(min=1)),
                "balanced": eq.balanced_accuracy(hits.long(), said.long()), "read": float(said.double().mean()),
            })  # fmt: skip
        run.record("readers", records)


def monitored(told: Path, output: Path) -> bool:
    """Run the monitor; whether there were texts enough for it."""
    try:
        execute("beliefs monitor", BeliefsMonitor(told, output, resume=True), output)
    except DataError as error:
        print(error, flush=True)
        return False
    return True


def main() -> int:
    """Do what is missing, then print the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--without", nargs="+", choices=("lens", "readers"), default=[])
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    limit, ask = (6, replace(ASK, max_new_tokens=16)) if args.quick else (150, ASK)
    for task in args.tasks:
        source, frames = TASKS[task]
        place = args.output_dir / task
        told = BeliefsSettings(
            args.model, place / "settings", source, frames, limit=limit, read=READ, ask=ask, resume=True
        )
        execute("beliefs settings", told, place / "settings")
        if "lens" not in args.without:
            seen = replace(told, output_dir=place / "lens", read=replace(READ, reader="lens", step=1))
            execute("beliefs settings", seen, place / "lens")
        changed = BeliefsIntervene(
            args.model, place / "intervene", source, ("neutral",), limit=limit, read=READ, ask=ask, resume=True
        )
        execute("beliefs intervene", changed, place / "intervene")
        runs = [place / "settings", place / "intervene"]
        if not args.quick and monitored(place / "settings", place / "monitor"):
            runs.append(place / "monitor")
        reports = {"report": runs, **({} if "lens" in args.without else {"report-lens": [place / "lens"]})}
        for name, parts in reports.items():
            execute("beliefs report", BeliefsReport(tuple(parts), resume=True), place / name)
            verdicts = [r for r in read_run(place / name).results if r["kind"] == "verdict"]
            print(f"{task}, {name}\n{summary(verdicts)}\n", flush=True)
    if "readers" not in args.without:
        readers(args.model, args.output_dir / "readers", 2 if args.quick else COMPARED)
        print(summary(read_run(args.output_dir / "readers").results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
