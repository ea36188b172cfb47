"""What the commands trace, settings and intervene do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from shammie.beliefs.ask import Asker, told_apart
from shammie.beliefs.data import Case, CaseSet, load_cases
from shammie.beliefs.evaluate import choice_link, frame_pairs, frame_summary, intervention_summary, paths
from shammie.beliefs.intervene import Intervener, arms
from shammie.beliefs.measure import Record, intervened, traced
from shammie.beliefs.read import GridReader
from shammie.core.errors import DataError
from shammie.core.model import load
from shammie.core.task import Task

if TYPE_CHECKING:
    from shammie.beliefs.config import BeliefsIntervene, BeliefsSettings, BeliefsTrace
    from shammie.core.run import Run

Job = tuple[Case, str]


def prepare_trace(config: BeliefsTrace) -> Task:
    """Check the case and load the model."""
    claim = config.claim or f"{config.question} {config.counter[0]}."
    case = Case("prompt", config.question, config.base, config.counter, claim, config.third)
    asked = CaseSet.of([case], "the prompt")
    model = load(config.model, device=config.device, dtype=config.dtype)
    told_apart(model, [case])
    reader, asker = GridReader(model, config.read), Asker(model, config.ask)

    def execute(run: Run) -> int:
        for key in run.items(["trace"], "beliefs trace"):
            run.record(key, list(traced(asker, reader, [(case, config.frame)], whole=True)))
        return 0

    def estimate() -> dict[str, Any]:
        return {"layers": len(reader.layers), "states": f"at most {config.ask.max_new_tokens * len(reader.layers):,}"}

    return Task({"model": model.hash, "cases": asked.sha256}, estimate, execute)


def prepare_settings(config: BeliefsSettings) -> Task:
    """Load the cases and the model."""
    asked = load_cases(config.cases, limit=config.limit)
    model = load(config.model, device=config.device, dtype=config.dtype)
    reader, asker = GridReader(model, config.read), Asker(model, config.ask)
    cases = [case for case in told_apart(model, asked.cases) if reader.tells_apart(case.base, case.counter)]
    if not cases:
        raise DataError(
            "the lens cannot tell the two beliefs of any case apart, for they begin with the same token; use --reader patchscopes"
        )

    def summarized(records: Sequence[Record]) -> list[Record]:
        left = {"kind": "left out", "cases": len(asked.cases) - len(cases), "why": "beliefs begin with the same token"}
        return [left, *frame_summary(records), *frame_pairs(records), *choice_link(records), *paths(records)]

    def execute(run: Run) -> int:
        _each(run, "settings", cases, config, lambda jobs: traced(asker, reader, jobs), summarized)
        return 0

    def estimate() -> dict[str, Any]:
        texts = len(cases) * len(config.frames)
        states = texts * config.ask.max_new_tokens * len(reader.layers)
        flagged = sum(bool(case.flags) for case in cases)
        return {"cases": len(cases), "flagged": flagged, "texts": texts, "states": f"at most {states:,}"}

    return Task({"model": model.hash, "cases": asked.sha256}, estimate, execute)


def prepare_intervene(config: BeliefsIntervene) -> Task:
    """Load the cases and the model, and read the states of all entities."""
    asked = load_cases(config.cases, limit=config.limit)
    model = load(config.model, device=config.device, dtype=config.dtype)
    cases = told_apart(model, asked.cases)
    layers = config.read.layers(len(model.anatomy.layers))

    def execute(run: Run) -> int:
        intervener = Intervener(Asker(model, config.ask), cases, layers, config.seed)

        def make(jobs: Sequence[Job]) -> Iterator[Record]:
            return intervened(intervener, jobs, config.strengths)

        _each(run, "intervene", cases, config, make, lambda records: list(intervention_summary(records)))
        return 0

    def estimate() -> dict[str, Any]:
        texts = len(cases) * len(config.frames)
        return {
            "cases": len(cases),
            "texts": texts,
            "changes": texts * len(arms(config.strengths)),
            "layers": layers,
        }

    return Task({"model": model.hash, "cases": asked.sha256}, estimate, execute)


def _each(
    run: Run, name: str, cases: Sequence[Case], config: BeliefsSettings | BeliefsIntervene,
    make: Callable[[Sequence[Job]], Iterator[Record]], summarized: Callable[[Sequence[Record]], list[Record]],
) -> None:  # fmt: skip
    """A few cases at a time under all frames, then the summary."""
    parts = {
        f"{name}/{start:05d}": [
            (case, frame) for case in cases[start : start + config.chunk] for frame in config.frames
        ]
        for start in range(0, len(cases), config.chunk)
    }
    for key in run.items(list(parts), f"beliefs {name}"):
        run.record(key, list(make(parts[key])))
    for key in run.pending(["summary"]):
        run.record(key, summarized(run.results()))
