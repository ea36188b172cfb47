"""Numbers from the records of the room's runs: frames in pairs, dominance against choice, and what changes do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from shammie.core.stats import auroc_interval, mean_interval, paired_difference, proportion

Record = dict[str, Any]
Key = tuple[str, str]  # (case, frame)
_NOTHING = 1e-3  # nats that rounding may move a margin by
SCORES = (
    "base",
    "counter",
    "difference",
    "base_unwritten",
    "counter_unwritten",
    "base_apart",
    "counter_apart",
    "base_density",
    "counter_density",
    "third_density",
)


def by_key(records: Sequence[Record], kind: str) -> dict[Key, Record]:
    """Records of a kind by case and frame."""
    return {(r["case"], r["frame"]): r for r in records if r["kind"] == kind}


def frame_summary(records: Sequence[Record], seed: int = 0) -> Iterator[Record]:
    """Each frame's mean dominance, how often the counter belief is favoured, and how many cases had no position to count."""
    told, read = by_key(records, "told"), by_key(records, "dominance")
    for frame in dict.fromkeys(frame for _, frame in told):
        cases = [case for case, own in told if own == frame]
        favoured = sum(told[case, frame]["favours"] == "counter" for case in cases)
        line: Record = {
            "kind": "frame", "frame": frame, "cases": len(cases), "favours_counter": proportion(favoured, len(cases)).as_dict(),
            "margin": mean_interval([told[case, frame]["margin"] for case in cases], None, seed).as_dict(),
            "uncounted": sum(not read[case, frame]["positions"] for case in cases if (case, frame) in read),
        }  # fmt: skip
        for score in SCORES:
            values = [v for case in cases if (v := read.get((case, frame), {}).get(score)) is not None]
            line[score] = mean_interval(values, None, seed).as_dict() if values else None
        yield line


def frame_pairs(records: Sequence[Record], seed: int = 0) -> Iterator[Record]:
    """Every frame against neutral (or the first), paired by case: dominance of both beliefs, difference, and margin."""
    told, read = by_key(records, "told"), by_key(records, "dominance")
    frames = list(dict.fromkeys(frame for _, frame in told))
    against = "neutral" if "neutral" in frames else frames[0]
    for frame in frames:
        if frame == against:
            continue
        for score in ("base", "counter", "difference", "base_density", "counter_density", "margin"):
            source = told if score == "margin" else read
            pairs = [
                (source[case, frame].get(score), source[case, against].get(score))
                for case, own in source
                if own == frame and (case, against) in source
            ]
            both = [(a, b) for a, b in pairs if a is not None and b is not None]
            if len(both) >= 2:
                a, b = zip(*both, strict=True)
                found = paired_difference(a, b, seed=seed).as_dict()
                yield {
                    "kind": "pair",
                    "frame": frame,
                    "against": against,
                    "score": score,
                    "difference": found,
                    "cases": len(both),
                }


def choice_link(records: Sequence[Record]) -> Iterator[Record]:
    """How well the difference in dominance tells which belief is favoured: AUROC over all frames and within each."""
    told, read = by_key(records, "told"), by_key(records, "dominance")
    groups: dict[str, list[Key]] = {"all frames": list(read)}
    for key in read:
        groups.setdefault(key[1], []).append(key)
    for name, keys in groups.items():
        for score in ("difference", "difference_unwritten", "difference_apart", "density"):
            values = [
                (v, told[key]["favours"] == "base") for key in keys if (v := _score(read[key], score)) is not None
            ]
            if len({label for _, label in values}) == 2:
                scores, labels = zip(*values, strict=True)
                found = auroc_interval(scores, labels).as_dict()
                yield {"kind": "choice", "frames": name, "score": score, "auroc": found}


def _score(record: Mapping[str, Any], name: str) -> float | None:
    suffix = "_density" if name == "density" else name.removeprefix("difference")
    base, counter = (record.get(f"{belief}{suffix}") for belief in ("base", "counter"))
    return None if base is None or counter is None else float(base - counter)


def paths(records: Sequence[Record]) -> Iterator[Record]:
    """Mean share of hits of each belief over generation time, by frame."""
    found: dict[tuple[str, str], list[list[float]]] = {}
    for record in records:
        for belief, values in (record.get("path") or {}).items():
            if record["kind"] == "dominance" and None not in values:
                found.setdefault((record["frame"], belief), []).append(values)
    for (frame, belief), own in found.items():
        yield {
            "kind": "path",
            "frame": frame,
            "belief": belief,
            "cases": len(own),
            "share": [fmean(part) for part in zip(*own, strict=True)],
        }


def intervention_summary(records: Sequence[Record], seed: int = 0) -> Iterator[Record]:
    """Each change: how far the margin moves against what was favoured, how often it moves so, and how often it flips.

    Controls are to be read beside: whatever is put in, another entity, noise or other layers, moves margins too.
    """
    changed = [r for r in records if r["kind"] == "changed"]
    moves: dict[tuple[str, float], dict[Key, float]] = {}
    for r in changed:
        sign = -1.0 if r["favours"] == "counter" else 1.0
        moves.setdefault((r["arm"], r["strength"]), {})[r["case"], r["frame"]] = sign * (r["after"] - r["before"])
    flips = {(r["arm"], r["strength"], r["case"], r["frame"]): r["before"] * r["after"] < 0 for r in changed}
    for (arm, strength), own in moves.items():
        cases = [case for case, _ in own]
        expected = [float(move > _NOTHING) for move in own.values()]
        line: Record = {
            "kind": "intervention", "arm": arm, "strength": strength, "cases": len(own),
            "move": mean_interval(list(own.values()), cases, seed).as_dict(),
            "expected": mean_interval(expected, cases, seed).as_dict(),
            "flips": mean_interval([float(flips[arm, strength, *key]) for key in own], cases, seed).as_dict(),
        }  # fmt: skip
        control = moves.get(("inject another entity", strength)) if arm == "inject" else None
        if control:
            keys = [key for key in own if key in control]
            beside = paired_difference(
                [own[k] for k in keys], [control[k] for k in keys], [k[0] for k in keys], seed=seed
            )
            line["beyond_another_entity"] = beside.as_dict()
        yield line
