"""Entity cells: reading 200 names in templates with the moments of all neurons, against the bare forward passes.

The templates are 2 of the 32: the cost is the same for each, and the whole takes minutes a side. Times are CPU seconds. One at
a time is measured on every eighth prompt. Memory: what 32 templates add to 4, for 40 names.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import common
import torch

from shammie.core.batch import encode, pad, plan_batches
from shammie.core.model import LanguageModel, load
from shammie.core.prefix import KeyValues, read
from shammie.entity_cells.data import load_entities
from shammie.entity_cells.read import _TOKENS, Layout, _batches, _common_length, read_names
from shammie.entity_cells.texts import templates

MODEL, NAMES, TEMPLATES, EVERY = "smollm2-135m", 200, 2, 8
GROUPS = ("time", "memory")


class Problem:
    """The model and the prompts."""

    def __init__(self, names: int = NAMES, count: int = TEMPLATES) -> None:
        self.model: LanguageModel = load(MODEL, dtype="float32")
        self.layout = Layout.of(self.model)
        self.names = [entity.name for entity in load_entities("geonames:countries", limit=names).entities]
        self.templates = templates(count, 7)
        self.ids = [[encode(self.model, text.format(name)) for name in self.names] for text in self.templates]

    def ours(self) -> None:
        read_names(self.model, self.layout, self.names, self.templates)

    def same_passes(self) -> None:
        """The same forward passes, shared beginnings read once, nothing kept."""
        for sequences in self.ids:
            shared = _common_length(sequences)
            beginning = KeyValues.empty(1, self.model.device)
            none = torch.zeros(1, dtype=torch.long)
            read(self.model, beginning, torch.tensor([sequences[0][:shared]]), None, none, none)
            for rows in _batches([len(ids) - shared for ids in sequences]):
                zeros = torch.zeros(len(rows), dtype=torch.long)
                read(
                    self.model,
                    beginning.select(zeros),
                    torch.tensor([sequences[i][shared:] for i in rows]),
                    None,
                    zeros,
                    zeros,
                )

    def batched(self) -> None:
        """Every prompt in full, in batches, nothing kept."""
        flat = [ids for sequences in self.ids for ids in sequences]
        for members in plan_batches([len(ids) for ids in flat], tokens=_TOKENS):
            self.forward([flat[i] for i in members])

    def one_by_one(self) -> None:
        """Every eighth prompt, alone."""
        for sequences in self.ids:
            for ids in sequences[::EVERY]:
                self.forward([ids])

    def forward(self, sequences: Sequence[list[int]]) -> None:
        batch = pad(sequences)
        with torch.no_grad():
            self.model.anatomy.body(**batch.inputs(), use_cache=False)


def cpu_rounds(sides: dict[str, common.Run], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each side by round, interleaved, after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for index in range(-1, rounds):
        for name in sides if index % 2 else reversed(sides):
            start = time.process_time()
            sides[name]()
            if index >= 0:
                seconds[name].append(time.process_time() - start)
        common.progress(f"round {index + 1}/{rounds}")
    common.progress("")
    return seconds


def measure_time(report: common.Report, rounds: int) -> None:
    problem = Problem()
    sides: dict[str, common.Run] = {
        "ours": problem.ours, "same passes": problem.same_passes, "batched": problem.batched, "one by one": problem.one_by_one,
    }  # fmt: skip
    seconds = cpu_rounds(sides, rounds)
    ours, alone = seconds["ours"], [EVERY * value for value in seconds["one by one"]]
    prompts = NAMES * TEMPLATES
    note = f"{1000 * sum(ours) / len(ours) / prompts:.1f} ms a prompt"
    report.add(
        common.Line(
            "moments of all neurons / the same forward passes",
            common.ratio(ours, seconds["same passes"]),
            1.3,
            note=note,
            seconds=seconds,
        ),
        common.Line(
            "moments of all neurons / batched passes of whole prompts", common.ratio(ours, seconds["batched"]), 1.3
        ),
        common.Line("moments of all neurons, prefix shared / one prompt at a time", common.ratio(ours, alone), 0.15),
        common.Line(
            "batched passes of whole prompts / one prompt at a time", common.ratio(seconds["batched"], alone), 0.28
        ),
    )


def measure_memory(report: common.Report) -> None:
    found = common.peaks(__file__, ["4", "32"])
    few, many = found["4"], found["32"]
    measured = common.Measured(many / few, many / few, many / few, 1) if few and many else None
    report.add(common.Line("peak memory: 32 templates / 4 templates", measured, 1.0, peak=many, peak_other=few))


def main() -> int:
    args = common.arguments(__doc__.splitlines()[0], GROUPS).parse_args()
    torch.set_num_threads(1)
    if args.peak:
        problem = Problem(40, int(args.peak))
        common.print_peak(problem.ours, [problem.model.module])
        return 0
    report = common.Report("entity_cells", args, {"model": MODEL, "names": NAMES, "templates": TEMPLATES, "threads": 1})
    if "time" in args.only:
        measure_time(report, 1 if args.quick else max(5, args.repeats))
    if "memory" in args.only and not args.no_memory:
        measure_memory(report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
