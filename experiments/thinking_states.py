"""The figures of the thinking_states card: how far each way of reasoning carries, what it costs, and what the pieces are for.

    python experiments/thinking_states.py --output-dir runs/thinking [--only lengths reasoning ablations] [--quick]
    python experiments/thinking_states.py --output-dir runs/thinking --only pretrained --model smollm2-135m
    python experiments/thinking_states.py --output-dir runs/thinking --table [--records FILE]
    python experiments/thinking_states.py --masked coin/artifacts/model
    python experiments/thinking_states.py --statements run/artifacts/model

Small decoders from scratch, every method with the same problems, weights, position jumps and steps. Parity and variables are
trained up to N operations, as many tokens a step whatever N, and tested on N to 100: with position jumps, and with
attention that reaches back 12 tokens (`-near`); hops and stories with all five methods. A run a directory, each
`shammie thinking-states train`; run it again to go on. `--masked` prints how many thoughts of a parity model are right after right
ones when its attention reaches back fewer and fewer tokens, `--statements` what a variables model gets right.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import torch

from shammie.cli.running import execute
from shammie.core.batch import pad
from shammie.core.run import read_run
from shammie.core.schedule import TrainSettings
from shammie.core.stats import proportion
from shammie.thinking_states.config import ThinkingCompare, ThinkingTrain
from shammie.thinking_states.methods import Thinking
from shammie.thinking_states.problems import Example
from shammie.thinking_states.running import open_reasoner, tested_problems
from shammie.thinking_states.settings import MethodSettings, Shape, ThinkingSettings
from shammie.thinking_states.tasks import VARIABLES

PARTS = ("lengths", "reasoning", "ablations", "pretrained")
ARMS = ("jumps", "near")
METHODS = ("thinking", "cot", "direct", "icot", "coconut")
STEPS = {"parity": 1_600, "variables": 6_000, "hops": 2_000, "stories": 12_000}
SHAPES = {"hops": Shape(width=128, neurons=352)}
ROWS = {"parity": 160, "variables": 160, "hops": 96, "stories": 48}  # problems a step, times the longest
NEAR = Shape(window=12)  # attention of 12 tokens: two chunks; all that is further back must come by the states
LATENTS = {"hops": (2, 1)}  # Coconut: of a step, and steps that are replaced at most; the chain of two hops has one
CHUNKS = {"parity": 6, "variables": 6, "hops": 4, "stories": 8}
LENGTHS = (10, 20, 40, 100)  # operations that parity and variables are tested on, from the longest trained on (paper)


@dataclass(frozen=True)
class Plan:
    """One training."""

    task: str
    method: str
    seed: int
    operations: int = 4
    thinking: ThinkingSettings = field(default_factory=ThinkingSettings)
    name: str = ""
    model: str | None = None
    near: bool = False

    @property
    def shown(self) -> str:
        """What the run is a run of."""
        return (self.name or self.task) + ("-near" if self.near else "")

    @property
    def place(self) -> str:
        """Its directory."""
        return "--".join([self.shown, self.method, str(self.operations), str(self.seed)])


def plans(args: argparse.Namespace) -> Iterator[Plan]:
    """What is trained, the cheapest parts first."""
    seeds = args.seeds
    if "lengths" in args.only:
        for task, arm, operations, seed in product(("parity", "variables"), args.arms, (10, 20, 40), seeds):
            for method in METHODS[:3]:
                yield Plan(task, method, seed, operations, ThinkingSettings(CHUNKS[task]), near=arm == "near")
    if "reasoning" in args.only:
        for task in ("hops", "stories"):
            for seed in seeds:
                for method in METHODS:
                    yield Plan(task, method, seed, 3, ThinkingSettings(CHUNKS[task]))
    if "ablations" in args.only:
        base = ThinkingSettings(CHUNKS["variables"])
        changed = {
            **{f"chunk-{n}": replace(base, chunk=n) for n in (2, 4, 8, 16)},
            **{f"extract-{n}": replace(base, extract=n) for n in (1, 3)},
            "trivial-end": replace(base, trivial="end"),
        }
        for name, thinking in changed.items():
            yield Plan("variables", "thinking", seeds[0], 10, thinking, name)
    if "pretrained" in args.only:
        for seed in seeds:
            for method in METHODS[:3]:
                yield Plan("stories", method, seed, 3, ThinkingSettings(8), "pretrained", args.model)


def train(args: argparse.Namespace, plan: Plan) -> None:
    """One training, unless it is there."""
    steps = 10 if args.quick else args.steps or STEPS[plan.task]
    own = plan.model is not None
    lengths = {"hops": (), "stories": (3, 6)}.get(plan.task, tuple(n for n in LENGTHS if n >= plan.operations))
    rows = 8 if own or args.quick else ROWS[plan.task] // plan.operations
    training = TrainSettings(
        steps, rows, 5e-5 if own else 2e-3, warmup=0.05, schedule="cosine", floor=0.05,
        checkpoint_every=max(1, steps // 10), seed=plan.seed,
    )  # fmt: skip
    config = ThinkingTrain(
        plan.task, args.output_dir, model=plan.model, operations=plan.operations, check_every=0, jumps=0.0 if plan.near else None,
        lengths=lengths, tested=10 if args.quick else 200,
        shape=NEAR if plan.near else SHAPES.get(plan.task, Shape()), thinking=plan.thinking,
        reasoning=MethodSettings(plan.method, *LATENTS.get(plan.task, (1, 8))), training=training, resume=True,
    )  # fmt: skip
    execute("thinking-states train", config, args.output_dir / plan.place)


def table(directory: Path) -> None:
    """Accuracy by length, means over seeds with their range; thoughts and forward passes beside it."""
    found: dict[tuple[str, int], dict[str, list[float]]] = {}
    for place in sorted(directory.glob("*--*")):
        record = read_run(place)
        if record.status != "finished":
            continue
        name = place.name.rpartition("--")[0]
        for r in record.results:
            if r["kind"] == "accuracy":
                own = found.setdefault((name, r["length"]), {})
                own.setdefault("accuracy", []).append(r["accuracy"]["value"])
                own.setdefault("unread", []).append(r["unread"])
            if r["kind"] == "thoughts":
                for kind in ("forced", "free"):
                    found[name, r["length"]].setdefault(kind, []).append(r[kind]["value"])
    columns = ("accuracy", "unread", "forced", "free")
    print("| run | operations | seeds | " + " | ".join(columns) + " |\n" + "|---" * (3 + len(columns)) + "|")
    for (name, length), own in sorted(found.items()):
        cells = [_cell(own.get(column, [])) for column in columns]
        print(f"| {name} | {length} | {len(own['accuracy'])} | " + " | ".join(cells) + " |")


def keep(directory: Path, path: Path) -> None:
    """Put what finished runs measured into a file of records, a line each, in the place of what it had of them."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for place in sorted(directory.glob("*--*")):
        record = read_run(place)
        if record.status == "finished":
            found = [r for r in record.results if r["kind"] in ("accuracy", "thoughts", "causal", "passes")]
            lines = [line for line in lines if line["run"] != place.name] + [{"run": place.name, **r} for r in found]
    path.write_text("".join(json.dumps(line) + "\n" for line in sorted(lines, key=lambda line: line["run"])))


def masked(model: str, length: int = 100, count: int = 100) -> None:
    """Thoughts after right ones under attention that is cut off, on questions no training saw."""
    print(f"| tokens that attention reaches back | thoughts right, {length} flips |\n|---|---|")
    reasoner, examples = _asked(model, "parity", length, count)
    for window in (max(len(example.question) for example in examples), 300, 120, 60, 30, 15):
        right, real = _right(reasoner, examples, window)
        whole = (right | ~real).all(1)
        print(f"| {window} | {proportion(int(whole.sum()), len(whole))} |", flush=True)


def statements(model: str, length: int = 10, count: int = 150) -> None:
    """Values in thoughts after right ones, by what a statement of the variables task does to the variable that it sets."""
    reasoner, examples = _asked(model, "variables", length, count)
    right, _ = _right(reasoner, examples)
    found: dict[str, list[bool]] = {}
    row = 0
    for example in examples:
        said = iter([part.split() for part in example.problem.question.split(" . ")][len(VARIABLES) - 1 :])
        for thought in example.thoughts:
            for number in range(len(thought) // len(VARIABLES)):
                name, _, *value = next(said)
                kind = "sum or difference" if len(value) > 1 else "constant" if value[0].isdigit() else "copy"
                at = number * len(VARIABLES) + VARIABLES.index(name)
                found.setdefault(kind + (", second in its chunk" if number else ""), []).append(bool(right[row, at]))
            row += 1
    print("| statement | value right |\n|---|---|")
    for kind, values in sorted(found.items()):
        print(f"| {kind} | {proportion(sum(values), len(values))} |")


def _asked(model: str, task: str, length: int, count: int) -> tuple[Thinking, list[Example]]:
    reasoner = open_reasoner(model)
    assert isinstance(reasoner, Thinking)
    return reasoner, [reasoner.layout.encode(problem) for problem in tested_problems(task, length, count, 5)]


def _right(reasoner: Thinking, examples: list[Example], window: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Which tokens of each chunk's thought are right after right thoughts, and which are real; a window of 0 is all."""
    batch = pad([example.question for example in examples])
    token = torch.arange(batch.ids.shape[1])
    back = token[:, None] - token
    near = (back >= 0) & (back < (window or len(token)))
    mask = torch.zeros(near.shape).masked_fill(~near, torch.finfo(torch.float32).min)
    position = token.expand(len(examples), -1)
    own = mask.expand(len(examples), 1, -1, -1) if window else batch.mask
    with torch.no_grad():
        _, hidden = reasoner.forced(examples, batch.ids, own, position)
        states, targets, real = reasoner.thought_states(examples, hidden)
        return reasoner.module.thought_logits(states).argmax(-1) == targets, real


def _cell(values: list[float]) -> str:
    if not values:
        return "–"
    spread = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
    return f"{sum(values) / len(values):.3f}{spread}"


def main() -> int:
    """Train what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/thinking"))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS[:3])
    parser.add_argument("--tasks", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS, help="of the part lengths")
    parser.add_argument("--model", default="smollm2-135m", help="of the part pretrained")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="instead of each task's own")
    parser.add_argument("--masked", metavar="MODEL", help="a trained parity model")
    parser.add_argument("--statements", metavar="MODEL", help="a trained variables model")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--records", type=Path, help="a .jsonl that keeps what is measured")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.masked or args.statements:
        masked(args.masked) if args.masked else statements(args.statements)
        return 0
    if not args.table:
        torch.set_num_threads(1)
        wanted = [plan for plan in plans(args) if plan.task in args.tasks and plan.method in args.methods]
        for plan in wanted:
            print(plan.place, flush=True)
            train(args, plan)
        for shown, operations in dict.fromkeys((plan.shown, plan.operations) for plan in wanted if not plan.name):
            runs = tuple(sorted(args.output_dir.glob(f"{shown}--*--{operations}--*")))
            place = args.output_dir / f"compared-{shown}-{operations}-{len(runs)}"
            execute("thinking-states compare", ThinkingCompare(runs=runs, resume=True), place)
    if args.records:
        keep(args.output_dir, args.records)
    table(args.output_dir)
    return 0


if __name__ == "__main__":
    sys.exit(main())
