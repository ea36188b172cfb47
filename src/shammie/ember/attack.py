"""Attacks on an erasure, each beside the same attack on the untouched model."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from statistics import fmean
from typing import TYPE_CHECKING, Any

from shammie.core.patch import WeightPatch
from shammie.core.stats import mean_interval, paired_difference, proportion
from shammie.ember.evaluate import Answer, ask
from shammie.ember.measure import Bench, Record, answer_records
from shammie.ember.pack import SETS
from shammie.ember.prompts import DISGUISES, disguised
from shammie.ember.relearn import relearn

if TYPE_CHECKING:
    from shammie.core.run import Run
    from shammie.ember.config import EmberAttack

ARMS = ("untouched", "erased")


def attack_keys(config: EmberAttack) -> list[str]:
    """One item for each model, attack and, where the attack has its own randomness, seed."""
    return [
        f"{arm}/{kind}/{config.seed + number}"
        for arm in ARMS
        for kind in config.kinds
        for number in range(1 if kind in ("paraphrase", "hints") else config.seeds)
    ]


def attack(bench: Bench, patch: WeightPatch, config: EmberAttack, run: Run) -> None:
    """Carry out all attacks, then set the erased model's answers beside the untouched one's."""
    for key in run.items([f"{arm}/none" for arm in ARMS], "before"):
        with patch.applied(bench.model) if key.startswith("erased") else nullcontext():
            run.record(key, _told(bench.ask("test"), key.split("/")[0], "none", 0, 0))
    for key in run.items(attack_keys(config), "attacks"):
        arm, kind, seed = key.split("/")
        with patch.applied(bench.model) if arm == "erased" else nullcontext():
            run.record(key, _attacked(bench, config, run, arm, kind, int(seed)))
    for key in run.pending(["summary"]):
        run.record(key, summary(run.results(), config))


def _attacked(bench: Bench, config: EmberAttack, run: Run, arm: str, kind: str, seed: int) -> list[Record]:
    if kind in DISGUISES:
        prompts = disguised(bench.pack, "test", kind, seed)
        answers = ask(bench.model, bench.pack, "test", ("choice",), limit=bench.limit, sets=SETS[:1], prompt=prompts)
        return _told(answers, arm, kind, seed, 0)
    records: list[Record] = []
    place = run.artifacts / f"{arm}-{kind}-{seed}"

    def probe(step: int) -> None:
        records.extend(_told(bench.ask("test"), arm, kind, seed, step))

    # Answers along the way are records of the item, so an item that was killed starts over.
    shutil.rmtree(place, ignore_errors=True)
    relearn(bench.model, bench.pack, kind, config.attack, place, seed, probe)  # type: ignore[arg-type]
    shutil.rmtree(place)
    return records


def _told(answers: Sequence[Answer], arm: str, kind: str, seed: int, step: int) -> list[Record]:
    """Accuracy of each set, then the answers."""
    head = {"arm": arm, "attack": kind, "seed": seed, "step": step}
    rates = []
    for name in SETS:
        own = [answer for answer in answers if answer.set == name]
        if own:
            found = proportion(int(sum(answer.hit for answer in own)), len(own))
            rates.append({"kind": "answered", **head, "set": name, "accuracy": found.as_dict()})
    return [*rates, *({**line, **head} for line in answer_records(answers, arm, "test"))]


def summary(records: Sequence[Record], config: EmberAttack) -> list[Record]:
    """After each attack: accuracy on the concept of both models, and the paired difference, by question."""
    lines = []
    for kind in ("none", *config.kinds):
        ends: dict[str, dict[tuple[int, int], float]] = {}
        for arm in ARMS:
            own = [r for r in records if r["kind"] == "answer" and r["arm"] == arm and r["attack"] == kind]
            last = max(r["step"] for r in own)
            ends[arm] = {(r["question"], r["seed"]): r["hit"] for r in own if r["step"] == last and r["set"] == SETS[0]}
        keys = sorted(ends["erased"])
        values = {arm: [ends[arm][key] for key in keys] for arm in ARMS}
        questions = [question for question, _ in keys]
        seeds = sorted({seed for _, seed in keys})
        by_seed = [fmean(ends["erased"][key] for key in keys if key[1] == seed) for seed in seeds]
        difference = paired_difference(values["erased"], values["untouched"], questions, seed=config.seed)
        lines.append(
            {
                "kind": "regained", "attack": kind, "by_seed": by_seed,
                **{arm: _mean(values[arm], questions, config.seed) for arm in ARMS}, "difference": difference.as_dict(),
            }
        )  # fmt: skip
    return lines


def _mean(values: Sequence[float], questions: Sequence[int], seed: int) -> dict[str, Any]:
    """Mean over questions and seeds, the interval over questions."""
    return mean_interval(values, questions, seed).as_dict()
