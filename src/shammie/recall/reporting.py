"""What the commands report and select do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from shammie.core.answers import normalize
from shammie.core.errors import DataError
from shammie.core.files import sha256_file
from shammie.core.run import RESULTS
from shammie.core.task import Task
from shammie.recall.evaluate import shown_ks, summary
from shammie.recall.hallucinations import POLICIES, eligible_samples, selection
from shammie.recall.samples import Record, Samples

if TYPE_CHECKING:
    from shammie.core.run import Run
    from shammie.recall.config import RecallReport, RecallSelect

_SHOWN = 40  # questions that a report lists


def prepare_report(config: RecallReport) -> Task:
    """Read the runs and check what is asked of them."""
    runs = [Samples.read(directory) for directory in config.runs]
    counts = Counter(samples.label for samples in runs)
    for samples, directory in zip(runs, config.runs, strict=True):
        if counts[samples.label] > 1:  # two runs of one model go by their directories
            samples.label = directory.name
        shown_ks(samples, config.ks)
    if len({samples.label for samples in runs}) < len(runs):
        raise DataError("two runs have the same model and directory name; rename one, or name each once")

    def execute(run: Run) -> int:
        parts = {samples.label: samples for samples in runs}
        for key in run.items(list(parts), "recall report"):
            samples = parts[key]
            run.record(key, [*summary(samples, config.ks, config.seed), *listed(samples)])
        return 0

    inputs = {"runs": [sha256_file(directory / RESULTS) for directory in config.runs]}
    estimate = {"runs": len(runs), "samples": sum(len(own) for samples in runs for own in samples.answers.values())}
    return Task(inputs, lambda: estimate, execute)


def listed(samples: Samples) -> Iterator[Record]:
    """Questions on which reasoning changes most, with one of their traces and what its facts were found to be."""
    off, on = samples.accuracy("off"), samples.accuracy("on")
    order = sorted(range(len(off)), key=lambda number: (-abs(on[number] - off[number]), number))
    for number in order[:_SHOWN]:
        right = [s for s in range(samples.first) if samples.answers["on"][number, s]["correct"]]
        shown = right[0] if right and on[number] >= off[number] else 0
        trace = samples.traces[number, shown]
        yield {
            "kind": "listed", "run": samples.label, "question": samples.questions[number]["text"],
            "answer": samples.questions[number]["answers"][0], "off": float(off[number]), "on": float(on[number]),
            "trace": trace["text"], "said": samples.answers["on"][number, shown]["answer"],
            "facts": samples.facts.get((number, shown), []),
        }  # fmt: skip


def prepare_select(config: RecallSelect) -> Task:
    """Read the run. Errors: it has no facts, because no condition needed them."""
    samples = Samples.read(config.run)
    if not samples.facts:
        raise DataError(
            f"{config.run} holds no facts to select by; run it with --knowledge, or with a condition of facts"
        )

    def execute(run: Run) -> int:
        for key in run.items(["select"], "recall select"):
            run.record(key, [*selection(samples, config.seed), *voted(samples)])
        return 0

    estimate: dict[str, Any] = {"questions": len(samples.questions), "samples": samples.first}
    return Task({"run": sha256_file(config.run / RESULTS)}, lambda: estimate, execute)


def voted(samples: Samples) -> Iterator[Record]:
    """Each question's answer by vote among the samples of each policy; among all where none is eligible."""
    eligible = {policy: eligible_samples(samples, policy) for policy in POLICIES}
    for number, question in enumerate(samples.questions):
        record: Record = {"kind": "selected", "id": question["id"], "question": question["text"]}
        for policy in POLICIES:
            chosen = [s for s in range(samples.first) if eligible[policy][number, s]] or list(range(samples.first))
            answers = [samples.answers["on"][number, s]["answer"] for s in chosen]
            record[policy] = vote(answers)
        yield record


def vote(answers: list[str]) -> str:
    """The commonest answer, whatever its spelling; of equals the first. Empty where all are."""
    given = [answer for answer in answers if answer.strip()]
    if not given:
        return ""
    winner = Counter(map(normalize, given)).most_common(1)[0][0]
    return next(answer for answer in given if normalize(answer) == winner)
