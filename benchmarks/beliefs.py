"""Beliefs: Patchscopes over all positions and layers of 20 texts, against decoding one state at a time.

One at a time reads the prompt with the state put in and lets `core.generate` write, as many tokens and up to the same line
break; it is measured on every 16th state, spread over all texts, and its decodes must be the same. Then the same with the logit
lens as a filter: how many of the hits are kept, and how much time is saved. CPU seconds of one thread.
"""

from __future__ import annotations

import sys
import time

import common
import torch

from shammie.beliefs.ask import Asker, beliefs_of
from shammie.beliefs.data import load_cases
from shammie.beliefs.patchscope import IDENTITY
from shammie.beliefs.read import GridReader
from shammie.beliefs.settings import AskSettings, ReadSettings
from shammie.core.batch import encode
from shammie.core.edit import edited, replace
from shammie.core.generate import GenerationSettings, generate
from shammie.core.model import load
from shammie.core.position import Span
from shammie.core.site import residual

MODEL, ITEMS, EVERY, TOKENS, PREFILTER = "smollm2-135m", 20, 16, 6, 50
GROUPS = ("time", "filter")


class Problem:
    """The texts of 20 cases with their states."""

    def __init__(self, items: int) -> None:
        self.model = load(MODEL, dtype="float32")
        self.reader = GridReader(self.model, ReadSettings(decode_tokens=TOKENS))
        self.filtered = GridReader(self.model, ReadSettings(decode_tokens=TOKENS, prefilter=PREFILTER))
        asker = Asker(self.model, AskSettings(max_new_tokens=32))
        self.cases = load_cases("geonames:capital", limit=items).cases
        self.told = asker.ask([(case, "neutral") for case in self.cases])
        self.states = [self.reader.states(told.ids, told.start) for told in self.told]
        self._last = len(encode(self.model, IDENTITY)) - 1
        self.decoded: dict[tuple[int, int, int], str] = {}

    def together(self, item: int) -> None:
        """All states of a text."""
        positions, layers = self.states[item].shape[:2]
        own = torch.tensor(self.reader.layers).repeat(positions)
        for cell, one in enumerate(self.reader.scope.decode(self.states[item].flatten(0, 1), own)):
            self.decoded[item, cell // layers, cell % layers] = one.text

    def alone(self, item: int, row: int, column: int) -> str:
        """One state through the whole prompt."""
        put = replace(
            residual(self.reader.layers[column]),
            self.states[item][row, column],
            positions=Span(self._last, self._last + 1),
        )
        with edited(self.model, [put]):
            made = generate(self.model, [IDENTITY], GenerationSettings(TOKENS))[0]
        text = made.text.lstrip().split("\n")[0].strip()
        return text.removeprefix("->").strip()

    def grid(self, reader: GridReader, item: int) -> torch.Tensor:
        """Hits of the two beliefs in a text."""
        told = self.told[item]
        found = reader.read(told.ids, told.start, beliefs_of(self.cases[item])).hits
        return torch.stack([found["base"], found["counter"]])


def measure_time(report: common.Report, problem: Problem) -> None:
    ours, theirs, same, asked = [], [], 0, 0
    for item, states in enumerate(problem.states):
        start = time.process_time()
        problem.together(item)
        ours.append(time.process_time() - start)
        cells = [(row, column) for row in range(states.shape[0]) for column in range(states.shape[1])]
        chosen = cells[item % EVERY :: EVERY]
        start = time.process_time()
        texts = [problem.alone(item, row, column) for row, column in chosen]
        theirs.append((time.process_time() - start) * len(cells) / max(1, len(chosen)))
        same += sum(problem.decoded[item, *cell] == text for cell, text in zip(chosen, texts, strict=True))
        asked += len(chosen)
        common.progress(f"text {item + 1}/{len(problem.states)}")
    note = f"{sum(s.shape[0] * s.shape[1] for s in problem.states)} states"
    report.add(
        common.Line(
            "all states of a text / one at a time",
            common.ratio(ours, theirs),
            0.1,
            note=note,
            seconds={"ours": ours, "theirs": theirs},
        )
    )
    differ = 1 - same / asked
    report.add(common.Line("decodes that differ", common.Measured(differ, differ, differ, asked), 0.0, ""))


def measure_filter(report: common.Report, problem: Problem) -> None:
    whole, part, kept, hits = [], [], 0, 0
    for item in range(len(problem.states)):
        start = time.process_time()
        every = problem.grid(problem.reader, item)
        whole.append(time.process_time() - start)
        start = time.process_time()
        some = problem.grid(problem.filtered, item)
        part.append(time.process_time() - start)
        kept, hits = kept + int((some & every).sum()), hits + int(every.sum())
        common.progress(f"text {item + 1}/{len(problem.states)}")
    report.add(common.Line(f"decoding the lens's {PREFILTER} likeliest alone / all", common.ratio(part, whole)))
    share = kept / max(1, hits)
    report.add(common.Line("hits that the filter keeps", common.Measured(share, share, share, hits), unit=""))


def main() -> int:
    args = common.arguments(__doc__.splitlines()[0], GROUPS).parse_args()
    torch.set_num_threads(1)
    report = common.Report("beliefs", args, {"model": MODEL, "items": ITEMS, "tokens": TOKENS, "threads": 1})
    problem = Problem(3 if args.quick else ITEMS)
    if "time" in args.only:
        measure_time(report, problem)
    if "filter" in args.only:
        measure_filter(report, problem)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
