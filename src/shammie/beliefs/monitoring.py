"""What the command monitor does: labels by the model itself, by its critics' probes, and under changed states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from shammie.beliefs import equations as eq
from shammie.beliefs.ask import Asker
from shammie.beliefs.data import Case, load_cases
from shammie.beliefs.intervene import Arm, Intervener
from shammie.beliefs.monitor import LEVELS, Item, Monitor, make_items, split_items
from shammie.beliefs.probe import input_features, probe_accuracy
from shammie.beliefs.settings import AskSettings, ReadSettings
from shammie.core.edit import edited
from shammie.core.errors import DataError, MissingFileError
from shammie.core.files import sha256_file
from shammie.core.model import load
from shammie.core.plain import from_plain
from shammie.core.run import RESULTS, read_run
from shammie.core.stats import mean_interval, paired_difference
from shammie.core.task import Task

if TYPE_CHECKING:
    from shammie.beliefs.config import BeliefsMonitor
    from shammie.core.run import Run

Record = dict[str, Any]
FOIL = " I was told so by someone I trust, and I am sure that it is right."
_PROBES = 15  # splits of the critics' probe


def prepare_monitor(config: BeliefsMonitor) -> Task:
    """Read the run of `settings` and load its model. Errors: no such run, other weights, too few texts of a level everywhere."""
    record = read_run(config.run)
    if record.command != "beliefs settings" or record.status != "finished":
        raise MissingFileError(f"{config.run} holds no finished run of shammie beliefs settings; make one first")
    made = record.config
    cases = {case.id: case for case in load_cases(made["cases"], limit=made["limit"]).cases}
    model = load(config.model or made["model"], device=config.device, dtype=made["dtype"])
    if model.hash != record.inputs["model"]:
        raise DataError(f"{model.name} is not the model of {config.run}; name that one with --model")
    frames = tuple(dict.fromkeys(r["frame"] for r in record.results if r["kind"] == "told"))
    names = {case.id: f"{case.subject} {case.base[0]} {case.counter[0]}" for case in cases.values()}
    keys = {f"{frame}/{target}": (frame, target) for frame in frames for target in config.targets}
    items, left_out = sorted_items(record.results, keys, names, config)
    layers = from_plain(ReadSettings, made["read"]).layers(len(model.anatomy.layers))

    def execute(run: Run) -> int:
        intervener = Intervener(Asker(model, AskSettings()), list(cases.values()), layers)
        for key in run.pending(["left out"]):
            run.record(key, left_out)
        for key in run.items([f"{name}/{seed}" for name in items for seed in range(config.seeds)], "beliefs monitor"):
            name, seed = key.rsplit("/", 1)
            reporter = Reporter(intervener, cases, items[name], keys[name], config)
            run.record(key, list(reporter.records(int(seed))))
        for key in run.pending(["probes"]):
            features = {name: input_features(model, [item.names for item in own]) for name, own in items.items()}
            run.record(key, [r for name, own in items.items() for r in probes(own, features[name], keys[name])])
        for key in run.pending(["summary"]):
            run.record(key, list(monitor_summary(run.results())))
        return 0

    estimate = {"frames": len(frames), "texts": sum(map(len, items.values())), "prompts": len(items) * config.seeds * 2}
    return Task({"model": model.hash, "run": sha256_file(Path(config.run) / RESULTS)}, lambda: estimate, execute)


def sorted_items(
    records: Sequence[Record], keys: Mapping[str, tuple[str, str]], names: Mapping[str, str], config: BeliefsMonitor
) -> tuple[dict[str, list[Item]], list[Record]]:
    """The texts of each frame and target in levels, and the frames and targets with too few texts of a level.

    Errors: DataError where no frame and target has enough.
    """
    items: dict[str, list[Item]] = {}
    left_out: list[Record] = []
    for key, (frame, target) in keys.items():
        try:
            own = make_items(records, frame, target, names)
            split_items(own, config.examples, config.held_out, 0)
        except DataError as error:
            left_out.append({"kind": "left out", "frame": frame, "target": target, "why": str(error)})
        else:
            items[key] = own
    if not items:
        raise DataError(left_out[0]["why"])
    return items, left_out


class Reporter:
    """Labels of one frame and target: from true examples, from permuted ones, and under changed states or words."""

    def __init__(
        self, intervener: Intervener, cases: Mapping[str, Case], items: Sequence[Item], key: tuple[str, str], config: BeliefsMonitor
    ) -> None:  # fmt: skip
        self.intervener, self.cases, self.items, self.config = intervener, cases, items, config
        self.frame, self.target = key

    def records(self, seed: int) -> Iterator[Record]:
        """What is said of each held-out text."""
        shown, asked = split_items(self.items, self.config.examples, self.config.held_out, seed)
        truth = [item.level for item in shown]
        order = torch.randperm(len(truth), generator=torch.Generator().manual_seed(seed)).tolist()
        arms = {"examples": truth, "permuted examples": [truth[at] for at in order]}
        for arm, levels in arms.items():
            monitor = Monitor(self.intervener.model, self.target, shown, levels)
            for start in range(0, len(asked), self.config.rows):
                part = asked[start : start + self.config.rows]
                for item, found in zip(part, monitor.levels([item.text for item in part]), strict=True):
                    yield self._record("said", seed, item, found, arm=arm)
            if arm == "examples":
                yield from self._changed(monitor, asked[: self.config.changed], seed)

    def _changed(self, monitor: Monitor, asked: Sequence[Item], seed: int) -> Iterator[Record]:
        """The same texts while the counter belief is put into their states; and, as foil, with words that say so."""
        strength = self.config.strength
        chosen = [
            Arm("none", "other", 0.0), Arm("inject", "other", strength), Arm("inject another entity", "entity", strength),
            Arm("inject at random", "random", strength),
        ]  # fmt: skip
        for item in asked:
            edits = self.intervener.edits(self.cases[item.case], "base", chosen, monitor.start)
            with edited(self.intervener.model, edits):
                found = monitor.levels([item.text] * len(chosen))
            for arm, levels in zip(chosen, found, strict=True):
                yield self._record("changed", seed, item, levels, arm=arm.name)
            yield self._record("changed", seed, item, monitor.levels([item.text + FOIL])[0], arm="words that say so")

    def _record(self, kind: str, seed: int, item: Item, found: torch.Tensor, arm: str) -> Record:
        mean = float((found * torch.arange(LEVELS)).sum())
        return {
            "kind": kind, "frame": self.frame, "target": self.target, "seed": seed, "arm": arm, "case": item.case,
            "level": item.level, "said": int(found.argmax()), "expected": mean,
        }  # fmt: skip


def probes(items: Sequence[Item], features: torch.Tensor, key: tuple[str, str]) -> Iterator[Record]:
    """Balanced accuracy of levels told from embeddings of the names alone, from popularity alone, and by always one level."""
    levels = torch.tensor([item.level for item in items])
    inputs = {"names alone": features}
    if all(item.popularity for item in items):
        inputs["popularity alone"] = torch.tensor([[float(item.popularity or 1)] for item in items]).log()
    for name, x in inputs.items():
        for split in range(_PROBES):
            accuracy = probe_accuracy(x, levels, split)
            yield {
                "kind": "probe",
                "frame": key[0],
                "target": key[1],
                "arm": name,
                "split": split,
                "balanced": accuracy,
            }
    yield {
        "kind": "always one", "frame": key[0], "target": key[1], "accuracy": eq.majority(levels), "balanced": 1 / LEVELS,
        "texts": len(items),
    }  # fmt: skip


def monitor_summary(records: Sequence[Record]) -> Iterator[Record]:
    """Balanced accuracy of each arm over seeds or splits, and how far what is said moves with changed states."""
    groups: dict[tuple[str, str, str, int], list[Record]] = {}
    for r in records:
        if r["kind"] == "said":
            groups.setdefault((r["frame"], r["target"], r["arm"], r["seed"]), []).append(r)
    scores: dict[tuple[str, str, str], list[float]] = {}
    for (frame, target, arm, _), own in groups.items():
        truth, said = (torch.tensor([r[name] for r in own]) for name in ("level", "said"))
        scores.setdefault((frame, target, arm), []).append(eq.balanced_accuracy(truth, said))
    for r in records:
        if r["kind"] == "probe":
            scores.setdefault((r["frame"], r["target"], r["arm"]), []).append(r["balanced"])
    for (frame, target, arm), values in scores.items():
        found = mean_interval(values).as_dict()
        yield {"kind": "balanced", "frame": frame, "target": target, "arm": arm, "accuracy": found}
    yield from _moves(records)


def _moves(records: Sequence[Record]) -> Iterator[Record]:
    """Mean change of the level that is said, by target and arm, paired by text; to be read beside its controls."""
    found: dict[tuple[str, str], dict[tuple[str, str, int], float]] = {}
    for r in records:
        if r["kind"] == "changed":
            found.setdefault((r["target"], r["arm"]), {})[r["case"], r["frame"], r["seed"]] = r["expected"]
    for (target, arm), own in found.items():
        if arm != "none":
            before = found[target, "none"]
            keys = [key for key in own if key in before]
            clusters = [key[0] for key in keys]
            moved = paired_difference([own[k] for k in keys], [before[k] for k in keys], clusters, seed=0).as_dict()
            yield {"kind": "moved", "target": target, "arm": arm, "difference": moved, "texts": len(keys)}
