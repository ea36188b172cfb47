"""False facts in traces: how often, whether they go with wrong answers, and what selecting traces without them gains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shammie.core.intervals import weighted_bootstrap
from shammie.core.stats import mean_interval, paired_difference
from shammie.recall import equations as eq
from shammie.recall.samples import Record, Samples

POLICIES = ("regular", "only facts", "only correct facts", "only facts known to be true")


def audit(samples: Samples) -> Iterator[Record]:
    """What traces hold: facts, leaks by kind, verdicts, and traces by nature."""
    if not samples.facts:
        return
    own = [fact for (_, s), facts in samples.facts.items() if s < samples.first for fact in facts]
    kept = [fact for fact in own if fact["leak"] is None]
    natures = Counter(samples.nature.flatten().tolist())
    yield {
        "kind": "audit", "traces": samples.nature.size, "facts": len(own),
        "leaks": dict(Counter(f["leak"] for f in own if f["leak"])),
        "leak_rate": None if not own else 1 - len(kept) / len(own), "verdicts": dict(Counter(f["verdict"] for f in kept)),
        "natures": {name: natures[name] for name in ("clean", "false", "none")},
    }  # fmt: skip


def hallucinations(samples: Samples, seed: int = 0) -> Iterator[Record]:
    """Answers after clean traces and after traces with a false fact: pooled, and within questions that have both."""
    if not samples.facts:
        return
    correct, clean, false = samples.correct("on"), samples.nature == "clean", samples.nature == "false"
    if not clean.any() or not false.any():
        yield {"kind": "within", "questions": 0, "reason": "no trace was found clean, or none false"}
        return
    for name, chosen in (("clean", clean), ("false", false)):
        rows = np.nonzero(chosen)[0]
        yield {"kind": "pooled", "traces": name, "accuracy": mean_interval(correct[chosen], rows, seed).as_dict()}
    both = clean.any(1) & false.any(1)
    if both.sum() < 2:
        yield {"kind": "within", "questions": int(both.sum()), "reason": "fewer than two questions have both kinds"}
        return
    x, y = (_within(correct, chosen)[both] for chosen in (clean, false))
    yield {
        "kind": "within", "questions": int(both.sum()), "reason": None,
        "difference": paired_difference(x, y, seed=seed).as_dict(), **_slopes(x, y, seed),
    }  # fmt: skip
    texts = [q["text"] for q, kept in zip(samples.questions, both, strict=True) if kept]
    for text, one, other in zip(texts, x.tolist(), y.tolist(), strict=True):
        yield {"kind": "point", "question": text, "clean": one, "false": other}


def _within(correct: NDArray[np.float64], chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Accuracy of each question over its chosen samples [Q]."""
    return np.asarray((correct * chosen).sum(1) / np.maximum(chosen.sum(1), 1))


def _slopes(x: NDArray[np.float64], y: NDArray[np.float64], seed: int) -> dict[str, Any]:
    """Slope through the origin with its interval, and the line with intercept; None where x does not vary."""
    if not x.any():
        return {"slope": None, "line": None}

    clean, false = torch.from_numpy(x), torch.from_numpy(y)

    def statistic(weights: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(eq.slope_through_origin(clean, false, torch.from_numpy(weights).double()))

    slope = weighted_bootstrap(statistic, len(x), None, seed).as_dict()
    return {"slope": slope, "line": eq.line(clean, false) if x.min() < x.max() else None}


def selection(samples: Samples, seed: int = 0) -> Iterator[Record]:
    """Expected accuracy where the answer comes from eligible traces alone, and its gain over taking any."""
    if not samples.facts:
        return
    correct = torch.from_numpy(samples.correct("on"))
    regular = eq.selected(correct, torch.ones_like(correct)).numpy()
    for policy in POLICIES:
        eligible = eligible_samples(samples, policy)
        found = eq.selected(correct, torch.from_numpy(eligible).double()).numpy()
        gain = paired_difference(found, regular, seed=seed).as_dict()
        yield {
            "kind": "selection", "policy": policy, "accuracy": mean_interval(found, None, seed).as_dict(), "gain": gain,
            "relative_gain": float(found.mean() / regular.mean() - 1) if regular.any() else None,
            "with_eligible": float(eligible.any(1).mean()), "samples": float(eligible.mean()),
        }  # fmt: skip


def eligible_samples(samples: Samples, policy: str) -> NDArray[np.bool_]:
    """Which samples [Q, N] a policy draws from. Facts that nobody could judge do not count as false."""
    nature = samples.nature
    choices = {
        "regular": np.ones_like(samples.strict), "only facts": nature != "none", "only correct facts": nature == "clean",
        "only facts known to be true": samples.strict,
    }  # fmt: skip
    return np.asarray(choices[policy])
