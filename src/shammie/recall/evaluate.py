"""Every number of the report, from the samples of a run: curves, effectiveness, contrasts, and what reaches further."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shammie.core.errors import DataError, ShammieError
from shammie.core.intervals import weighted_bootstrap
from shammie.core.stats import mean_interval, paired_difference, proportion, spearman
from shammie.recall import equations as eq
from shammie.recall.hallucinations import audit, hallucinations, selection
from shammie.recall.samples import Record, Samples
from shammie.recall.settings import Condition

# What each comparison isolates: the first condition less the second.
CONTRASTS: dict[str, tuple[str, str]] = {
    "reasoning": ("on", "off"),
    "being told to reason": ("single", "off"),
    "tokens to compute in": ("dummy", "single"),
    "what is written, beyond its length": ("on", "dummy"),
    "facts in reasoning, beyond their length": ("on-facts", "on-dummy-facts"),
    "facts in the question, beyond their length": ("off-facts", "off-dummy-facts"),
    "facts in the question, beyond nothing": ("off-facts", "off"),
    "these facts, beyond another question's": ("on-facts", "on-irrelevant-facts"),
    "these facts, beyond others on the subject": ("on-facts", "on-subject-facts"),
    "true facts, beyond one that is false": ("on-facts", "on-corrupted-facts"),
    "facts that give the answer away": ("off-all-facts", "off-facts"),
    "what is written, beyond its facts": ("on", "on-facts"),
}  # fmt: skip


def shown_ks(samples: Samples, ks: Sequence[int] = ()) -> list[int]:
    """The k of pass@k that are shown. Errors: ShammieError for a k above the number of samples."""
    if wrong := [k for k in ks if not 1 <= k <= samples.first]:
        raise ShammieError(
            f"pass@{wrong[0]} needs at least {wrong[0]} samples a question, but {samples.label} has {samples.first}; "
            "sample more, or leave that k out"
        )
    powers = [2**power for power in range(samples.first.bit_length()) if 2**power <= samples.first]
    return list(ks) or list(dict.fromkeys([*powers, samples.first]))


def curves(samples: Samples, ks: Sequence[int], seed: int = 0) -> Iterator[Record]:
    """pass@k of each condition, with intervals over questions."""
    for condition in samples.conditions:
        passes = samples.passes(condition, max(ks))
        for k in ks:
            value = mean_interval(passes[:, k - 1], None, seed).as_dict()
            yield {"kind": "curve", "condition": condition, "k": k, "pass": value}


def effectiveness(samples: Samples, seed: int = 0) -> Iterator[Record]:
    """Omega of every condition against off, over all questions; of on also by complexity and relation."""
    everyone = np.ones(len(samples.questions), dtype=bool)
    for condition in samples.conditions:
        if condition != "off":
            yield omega_record(samples, condition, "all questions", everyone, seed)
    groups = {
        "complex questions": [q["complex"] is True for q in samples.questions],
        "simple questions": [q["complex"] is False for q in samples.questions],
        **{name: [q["relation"] == name for q in samples.questions] for name in relations(samples)},
    }
    for name, members in groups.items():
        if 1 < sum(members) < len(members):
            yield omega_record(samples, "on", name, np.array(members), seed)


def relations(samples: Samples, most: int = 12) -> list[str]:
    """Relations of the questions, where there are several but not too many."""
    found = sorted({q["relation"] for q in samples.questions if q["relation"]})
    return found if 1 < len(found) <= most else []


def omega_record(samples: Samples, condition: str, group: str, members: NDArray[np.bool_], seed: int) -> Record:
    """Omega of some questions; without a value, and why, where no question is answered without reasoning."""
    on, off = (torch.from_numpy(samples.passes(name, samples.first)[members]).double() for name in (condition, "off"))
    record = {"kind": "omega", "condition": condition, "group": group, "questions": int(members.sum())}
    dropped = int((off.mean(0) == 0).sum())

    def statistic(weights: NDArray[np.int64]) -> NDArray[np.float64]:
        w = torch.from_numpy(weights).double()
        total = w.sum(1, keepdim=True)
        return np.asarray(eq.omega(w @ on / total, w @ off / total).numpy())

    if dropped == samples.first:
        reason = "no sample without reasoning is correct, so there is nothing to be relative to"
        return record | {"omega": None, "undefined": reason, "ks_dropped": dropped}
    found: Record
    try:
        found = weighted_bootstrap(statistic, len(on), None, seed).as_dict()
    except DataError:
        value = float(eq.omega(on.mean(0), off.mean(0)))  # most resamples have none: no interval
        found = {"value": value, "low": None, "high": None, "n": len(on)}
    return record | {"omega": found, "undefined": None, "ks_dropped": dropped}


def contrasts(samples: Samples, seed: int = 0) -> Iterator[Record]:
    """Differences of accuracy between two conditions, paired by question; of facts over the samples that have some."""
    for name, (one, other) in CONTRASTS.items():
        if not {one, other} <= set(samples.conditions):
            continue
        rows = _compared(samples, one, other)
        if rows is None:
            continue
        a, b, count = rows
        found = paired_difference(a, b, seed=seed).as_dict()
        yield {"kind": "contrast", "name": name, "of": one, "against": other, "difference": found, "samples": count}


def _compared(samples: Samples, one: str, other: str) -> tuple[list[float], list[float], int] | None:
    """Accuracies of each question over the samples that tell two conditions apart, and how many samples those are."""
    holds_facts = any(Condition.parse(name).holds == "facts" for name in (one, other))
    a, b, count = [], [], 0
    for number in range(len(samples.questions)):
        keys = [(number, sample) for sample in range(samples.first)]
        if "on-corrupted-facts" in (one, other):
            keys = [key for key in keys if samples.answers["on-corrupted-facts"][key]["swapped"]]
        elif "off-all-facts" in (one, other):
            keys = [key for key in keys if len(samples.facts.get(key, ())) > len(samples.told(key))]
        elif holds_facts:
            keys = [key for key in keys if samples.told(key)]
        if keys:
            a.append(float(np.mean([samples.answers[one][key]["correct"] for key in keys])))
            b.append(float(np.mean([samples.answers[other][key]["correct"] for key in keys])))
            count += len(keys)
    return (a, b, count) if a else None


def lengths(samples: Samples, seed: int = 0) -> Iterator[Record]:
    """Accuracy by the length of a dummy trace."""
    for condition in samples.conditions:
        parsed = Condition.parse(condition)
        if parsed.holds == "filler" and parsed.tokens:
            value = mean_interval(samples.accuracy(condition), None, seed).as_dict()
            yield {
                "kind": "length",
                "condition": condition,
                "filler": parsed.filler,
                "tokens": parsed.tokens,
                "accuracy": value,
            }


def reach(samples: Samples, seed: int = 0) -> Iterator[Record]:
    """Of the questions that no first sample answers without reasoning: how many do further ones, and ones with reasoning?

    Both get the same number of draws, none of which chose the questions. (pass@k is of the first samples alone: samples
    that are drawn because there was no hit would bias it.)
    """
    fresh = range(samples.first, samples.more)
    off, on = samples.answers.get("off", {}), samples.answers.get("on", {})
    numbers = [n for n in range(len(samples.questions)) if (n, samples.more - 1) in off]
    if not fresh or not numbers or any((n, samples.more - 1) not in on for n in numbers):
        return
    hit = {
        name: [float(any(own[n, s]["correct"] for s in fresh)) for n in numbers]
        for name, own in (("off", off), ("on", on))
    }
    yield {
        "kind": "reach", "questions": len(numbers), "samples": len(fresh),
        "off": proportion(int(sum(hit["off"])), len(numbers)).as_dict(),
        "on": proportion(int(sum(hit["on"])), len(numbers)).as_dict(),
        "difference": paired_difference(hit["on"], hit["off"], seed=seed).as_dict(),
    }  # fmt: skip


def traces(samples: Samples) -> Iterator[Record]:
    """How traces ended, and how often what followed was correct."""
    ends = {"closed": ("stop",), "ended without an answer": ("end",), "cut off": ("length",)}
    own = {key: t for key, t in samples.traces.items() if key[1] < samples.first}
    for name, finishes in ends.items():
        keys = [key for key, trace in own.items() if trace["finish"] in finishes]
        if keys:
            hits = [samples.answers["on"][key]["correct"] for key in keys]
            yield {
                "kind": "traces", "ended": name, "share": proportion(len(keys), len(own)).as_dict(),
                "tokens": float(np.mean([own[key]["tokens"] for key in keys])),
                "accuracy": mean_interval(np.array(hits, dtype=float), [key[0] for key in keys]).as_dict(),
            }  # fmt: skip


def baselines(samples: Samples, seed: int = 0) -> Iterator[Record]:
    """Popularity against accuracy, and one who guesses answers as often as they occur in a relation."""
    popular = [(q["popularity"], n) for n, q in enumerate(samples.questions) if q["popularity"] is not None]
    if len(popular) >= 10:
        numbers = [n for _, n in popular]
        for condition in ("off", "on"):
            accuracy = samples.accuracy(condition)[numbers]
            if accuracy.min() < accuracy.max():
                found = float(spearman([p for p, _ in popular], accuracy))
                yield {"kind": "popularity", "condition": condition, "spearman": found, "questions": len(popular)}
    shares = guessed(samples)
    if shares is not None:
        for k in (1, samples.first):
            value = mean_interval(eq.guessing(torch.tensor(shares), k).numpy(), None, seed).as_dict()
            yield {"kind": "guessing", "k": k, "pass": value}


def guessed(samples: Samples) -> list[float] | None:
    """For each question the share of its relation's other questions that have one of its answers."""
    by_relation: dict[str, list[set[str]]] = {}
    for question in samples.questions:
        if not question["relation"]:
            return None
        by_relation.setdefault(question["relation"], []).append(set(question["answers"]))
    shares = []
    for question in samples.questions:
        own, all_of_it = set(question["answers"]), by_relation[question["relation"]]
        shares.append((sum(bool(own & other) for other in all_of_it) - 1) / max(1, len(all_of_it) - 1))
    return shares


def summary(samples: Samples, ks: Sequence[int] = (), seed: int = 0) -> list[Record]:
    """All that is reported of one run."""
    found: list[Any] = [
        *curves(samples, shown_ks(samples, ks), seed), *effectiveness(samples, seed), *contrasts(samples, seed),
        *lengths(samples, seed), *reach(samples, seed), *traces(samples), *baselines(samples, seed),
        *audit(samples), *hallucinations(samples, seed), *selection(samples, seed),
    ]  # fmt: skip
    return [{"run": samples.label, **record} for record in found]
