"""Every number of the rotate card: real neurons of three layers and all parts, with nulls, controls and baselines.

    python experiments/rotate.py --texts wiki.jsonl --output-dir runs/rotate [--judge MODEL] [--quick]

Resumable: run it again to go on. `--quick` takes one layer of SmolLM2 and few neurons, in under two minutes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shammie.core.data import TextRecord, load_records
from shammie.core.judge import Judge, JudgePrompt
from shammie.core.model import LanguageModel, load
from shammie.core.run import Run
from shammie.core.stats import mean_interval, paired_difference, permutation_test, proportion
from shammie.rotate import evaluate
from shammie.rotate.channels import Channels
from shammie.rotate.evidence import residual
from shammie.rotate.fit import Fitter, Reader
from shammie.rotate.fitting import layer_record
from shammie.rotate.reading import Reading, read
from shammie.rotate.settings import PARTS, Part, RotateSettings

Record = dict[str, Any]
LAYERS = {"smollm2-135m": (3, 15, 27), "gemma-3-270m": (2, 9, 16)}
SOLVERS = {"smollm2-135m": ("anchored", "fast"), "gemma-3-270m": ("anchored",)}
NAMED = 48  # tokens of any description
CONTEXTS = 4  # of an output ablation
JUDGED_MODEL, JUDGED = "smollm2-135m", 4  # neurons a layer


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    models: tuple[str, ...] = ("smollm2-135m", "gemma-3-270m")
    neurons: int = 20
    """Of each layer: half at random, half those in which single tokens stand out most, in any part."""
    texts: int = 240
    nulls: int = 200
    channels: int = 4

    def settings(self, solver: str, model: str) -> RotateSettings:
        """Gemma's vocabulary makes a row cost seven times as much, and the fast solver's rows five times as much again."""
        if solver == "fast":
            return RotateSettings(solver="fast", channels=min(self.channels, 2), null_draws=min(self.nulls, 48))
        return RotateSettings(
            channels=self.channels, null_draws=min(self.nulls, 100 if model.startswith("gemma") else 200)
        )


QUICK = Plan(("smollm2-135m",), neurons=6, texts=40, nulls=40, channels=2)


class Bench:
    """A model with what is shared between its places."""

    def __init__(self, name: str, plan: Plan, texts: Sequence[str]) -> None:
        self.model: LanguageModel = load(name)
        self.plan, self.texts = plan, texts
        self.readers = {solver: Reader(self.model, plan.settings(solver, name)) for solver in SOLVERS[name]}
        self.layer = -1

    def at(self, layer: int) -> None:
        """Read the texts at a layer: half of them to tune on, half held out."""
        if layer == self.layer:
            return
        self.neurons = self._choose(layer)
        reading = read(self.model, layer, self.neurons, self.texts)
        self.tuning, self.held_out = (reading.part(reading.text % 2 == half) for half in (0, 1))
        self.layer = layer
        self.fitted: dict[Part, tuple[Fitter, Channels]] = {}
        self.probes: dict[int, evaluate.OutputProbe] = {}

    def _choose(self, layer: int) -> list[int]:
        count = self.model.anatomy.neuron_count(layer)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(layer)).tolist()
        peaks = torch.stack([self._peaks(layer, part) for part in PARTS]).max(0).values
        strong = peaks.topk(self.plan.neurons // 2).indices.tolist()
        self.strong = set(strong)
        ordinary = [neuron for neuron in order if neuron not in self.strong]
        return sorted(strong + ordinary[: self.plan.neurons - len(strong)])

    def _peaks(self, layer: int, part: Part) -> torch.Tensor:
        """The largest |evidence| of single tokens in each neuron's row."""
        fitter = Fitter(self.readers["anchored"], layer, part)
        spread = torch.cat([fitter.pursuit.population.spread(rows) for _, rows in fitter.space.blocks()])
        none = torch.zeros(0, fitter.rows.shape[1])
        blocks = []
        for rows in fitter.rows.split(64):
            left = residual(fitter.pursuit.population, rows, none.expand(len(rows), 0, -1))
            scores = fitter.space.centred(left).div_(spread).mul_(fitter.space.ordinary)
            blocks.append(scores.abs().max(-1).values)
        return torch.cat(blocks)

    def anchored(self, layer: int, part: Part) -> tuple[Fitter, Channels]:
        """The anchored fit of a place, made once while the layer is open."""
        self.at(layer)
        if part not in self.fitted:
            fitter = Fitter(self.readers["anchored"], layer, part)
            self.fitted[part] = (fitter, _judged(fitter, self.neurons))
        return self.fitted[part]


def _judged(fitter: Fitter, neurons: Sequence[int]) -> Channels:
    nulls = [fitter.reader.gaussian_null(fitter.matrix), fitter.covariance_null()]
    return fitter.channels(neurons, fitter.search(neurons), nulls)


def place(bench: Bench, layer: int, part: Part, solver: str) -> Iterator[Record]:
    """All measures of one part of one layer under one solver; one record a channel, a neuron, and the layer."""
    bench.at(layer)
    if solver == "anchored":
        fitter, channels = bench.anchored(layer, part)
    else:
        fitter = Fitter(bench.readers[solver], layer, part)
        channels = _judged(fitter, bench.neurons)
    yield {**layer_record(channels), "solver": solver, "objective": float(channels.objective[:, 0].mean())}
    w = fitter.rows[bench.neurons]
    noise = fitter.pursuit.population.draw(len(w), torch.Generator().manual_seed(7))
    noise_found = fitter.pursuit(noise, torch.Generator().manual_seed(8))
    real, null = evaluate.explained(w, channels.vectors), evaluate.explained(noise, noise_found.vectors)
    yield {"kind": "explained", "solver": solver, "real": real.tolist(), "noise": null.tolist()}
    if solver == "fast":
        yield from _stability(bench, fitter, channels)
    components = evaluate.principal_directions(fitter.rows)
    generator = torch.Generator().manual_seed(9)
    for row, neuron in enumerate(bench.neurons):
        named = [channels.tokens[row, channel] for channel in range(channels.tokens.shape[1])]
        for channel, tokens in enumerate(named):
            others = torch.cat([named[other] for other in range(len(named)) if other != channel])
            vector, side = channels.vectors[row, channel], int(channels.side[row, channel])
            control = evaluate.matched_direction(w[row], vector, generator)
            following = evaluate.reads_following(bench.tuning, w[row], tokens, side)
            foreign = evaluate.reads_following(bench.tuning, w[row - 1], tokens, side)
            scores = {}
            for name, direction in (("own", vector), ("control", control)):
                scores[name] = _selectivity(
                    bench, part, (layer, row), following, w[row], direction, side, tokens, others
                )
            yield {
                "kind": "ablation", "solver": solver, "neuron": neuron, "channel": channel,
                "significant": bool(channels.significant[row, channel]), "strong": neuron in bench.strong, **scores,
                "faithfulness": evaluate.faithfulness(bench.held_out, w[row], tokens, side, following),
                "mismatched": evaluate.faithfulness(bench.held_out, w[row - 1], tokens, side, foreign),
            }  # fmt: skip
        yield from _neuron(bench, fitter, channels, row, part, solver, components)


def _selectivity(
    bench: Bench, part: Part, at: tuple[int, int], following: bool, w: torch.Tensor, direction: torch.Tensor, side: int,
    tokens: torch.Tensor, others: torch.Tensor,
) -> float | None:  # fmt: skip
    layer, row = at
    if part != "out":
        own, other = (evaluate.touched(bench.held_out, ids, following) for ids in (tokens, others))
        return evaluate.input_selectivity(bench.held_out, direction, side, own, other)
    if row not in bench.probes:
        bench.probes[row] = evaluate.OutputProbe(bench.model, layer, bench.neurons[row], *_contexts(bench, row))
    return bench.probes[row].selectivity(w, direction, side, tokens, others)


def _contexts(bench: Bench, row: int) -> tuple[list[list[int]], torch.Tensor]:
    """The contexts, of at most 32 tokens, that end where the neuron is most active on the tuning text."""
    activity = bench.tuning.activity[:, row]
    top = activity.abs().topk(CONTEXTS).indices
    contexts = []
    for index in top.tolist():
        text, position = bench.tuning.text[index], bench.tuning.position[index]
        same = (
            (bench.tuning.text == text) & (bench.tuning.position <= position) & (bench.tuning.position > position - 32)
        )
        order = bench.tuning.position[same].argsort()
        contexts.append(bench.tuning.current[same][order].tolist())
    return contexts, activity[top].sign()


def _stability(bench: Bench, fitter: Fitter, found: Channels) -> Iterator[Record]:
    """The same neurons from other starts."""
    reader = fitter.reader.under(replace(fitter.reader.settings, seed=1))
    again = Fitter(reader, fitter.layer, fitter.part).search(bench.neurons)
    for row, neuron in enumerate(bench.neurons):
        tokens = [fitter.space.cosines(f.vectors[row]).abs().topk(50).indices for f in (found, again)]
        match = evaluate.agreement(found.vectors[row], again.vectors[row], *tokens)
        yield {"kind": "stability", "neuron": neuron, "cosine": match.cosine, "jaccard": match.jaccard}


def _neuron(
    bench: Bench, fitter: Fitter, channels: Channels, row: int, part: Part, solver: str, components: torch.Tensor
) -> Iterator[Record]:
    """Completeness, and how well each description foretells where the neuron fires."""
    each = NAMED // channels.tokens.shape[1]

    def listed(at: int) -> torch.Tensor:
        usable = [c for c in range(channels.tokens.shape[1]) if part != "gate" or channels.side[at, c] > 0]
        return channels.tokens[at, usable or [0], :each].flatten()

    own, foreign = listed(row), listed(row - 1)
    complete, base = evaluate.completeness(bench.held_out, bench.held_out.activity[:, row], own)
    w = fitter.rows[bench.neurons[row]]
    lists = {"channels": own, "other neuron's channels": foreign}
    if solver == "anchored":
        lists["projection of w"] = evaluate.projection_tokens(fitter.space, w, NAMED, part)
        lists["components of the layer"] = evaluate.component_tokens(fitter.space, components, w, NAMED, 4)
        lists["top activating tokens"] = evaluate.activating_tokens(bench.tuning, row, NAMED)
    areas = {
        name: evaluate.description_auroc(fitter.space, bench.tuning, bench.held_out, row, tokens)
        for name, tokens in lists.items()
    }
    some = bool(channels.significant[row].any())
    yield {
        "kind": "neuron", "solver": solver, "neuron": bench.neurons[row], "significant": some,
        "strong": bench.neurons[row] in bench.strong, "completeness": complete,
        "named_share_of_text": base, "auroc": areas,
    }  # fmt: skip


def whole(bench: Bench, layer: int) -> Iterator[Record]:
    """The aggregated description (all parts) head to head with the top activating tokens, by AUROC."""
    bench.at(layer)
    parts = {part: bench.anchored(layer, part) for part in PARTS}
    for row, neuron in enumerate(bench.neurons):
        tokens = _aggregate(parts, row)
        space = next(iter(parts.values()))[0].space
        top = evaluate.activating_tokens(bench.tuning, row, len(tokens))
        yield {
            "kind": "whole", "neuron": neuron,
            "significant": any(bool(c.significant[row].any()) for _, c in parts.values()),
            "channels": evaluate.description_auroc(space, bench.tuning, bench.held_out, row, tokens),
            "top activating tokens": evaluate.description_auroc(space, bench.tuning, bench.held_out, row, top),
        }  # fmt: skip


def _aggregate(parts: dict[Part, tuple[Fitter, Channels]], row: int) -> torch.Tensor:
    """Tokens of a neuron's strongest channels over all parts, significant ones first."""
    ranked = sorted(
        (
            (-int(channels.significant[row, c]), -float(channels.evidence[row, c]), channels.tokens[row, c, :12])
            for part, (_, channels) in parts.items()
            for c in range(channels.tokens.shape[1])
            if part != "gate" or channels.side[row, c] > 0
        ),
        key=lambda entry: entry[:2],
    )
    return torch.cat([tokens for _, _, tokens in ranked[:4]])


PROMPT = JudgePrompt(
    "rotate head to head",
    "1",
    """These short passages make one neuron of a language model fire; it fires at the word in [[brackets]].
$passages

Description A of the neuron: $a
Description B of the neuron: $b

Which description fits the passages better? Answer with one letter, A or B.""",
    ("A", "B"),
)


def head_to_head(bench: Bench, layer: int, judge: Judge) -> Iterator[Record]:
    """The same two descriptions before a judge, in both orders; a win in one order alone is a tie."""
    bench.at(layer)
    parts = {part: bench.anchored(layer, part) for part in PARTS}
    decode = bench.model.tokenizer.decode
    for row, neuron in enumerate(bench.neurons[:JUDGED]):
        ours = [decode([token]).strip() for token in _aggregate(parts, row).tolist()]
        theirs = evaluate.activating_tokens(bench.tuning, row, len(ours)).tolist()
        a, b = (", ".join(dict.fromkeys(words)) for words in (ours, [decode([t]).strip() for t in theirs]))
        passages = "\n".join(f"- {text}" for text in _passages(bench, row))
        records = [{"passages": passages, "a": a, "b": b}, {"passages": passages, "a": b, "b": a}]
        first, second = (said.verdict for said in judge.judge(PROMPT, records))
        win = "channels" if (first, second) == ("A", "B") else "activations" if (first, second) == ("B", "A") else "tie"
        yield {"kind": "judged", "neuron": neuron, "first": first, "second": second, "win": win}


def _passages(bench: Bench, row: int) -> Iterator[str]:
    reading: Reading = bench.held_out
    for index in reading.activity[:, row].abs().topk(5).indices.tolist():
        near = (reading.text == reading.text[index]) & ((reading.position - reading.position[index]).abs() <= 8)
        order = reading.position[near].argsort()
        at = int(reading.position[index])
        places, ids = reading.position[near][order].tolist(), reading.current[near][order].tolist()
        words = [bench.model.tokenizer.decode([token]) for token in ids]
        marked = [f"[[{word.strip()}]]" if p == at else word for p, word in zip(places, words, strict=True)]
        yield "".join(marked).replace("\n", " ").strip()


def summary(records: Sequence[Record]) -> Iterator[Record]:
    """The card's table: each measure with interval and control, by model, solver and part or layer."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        if record["kind"] == "ablation":
            for tier in ("significant",) if record["significant"] else ("the rest",):
                groups.setdefault(("ablation", record["model"], record["solver"], record["part"], tier), []).append(
                    record
                )
        if record["kind"] == "neuron":
            tier = "with significant channels" if record["significant"] else "without"
            groups.setdefault(("neuron", record["model"], record["solver"], record["part"], tier), []).append(record)
        if record["kind"] == "whole":
            tier = "with significant channels" if record["significant"] else "without"
            groups.setdefault(("whole", record["model"], tier), []).append(record)
        if record["kind"] in ("stability", "judged"):
            groups.setdefault((record["kind"], record["model"]), []).append(record)
        if record["kind"] == "explained":
            groups.setdefault(("explained", record["model"], record["solver"]), []).append(record)
    for key, rows in groups.items():
        yield {"kind": "summary", "of": " / ".join(key), **_summarized(key[0], rows)}


def _mean(values: Sequence[float | None], rows: Sequence[Record]) -> Record | None:
    kept = [(v, f"{r['layer']}.{r.get('neuron')}") for v, r in zip(values, rows, strict=True) if v is not None]
    return mean_interval([v for v, _ in kept], [c for _, c in kept], seed=0).as_dict() if len(kept) > 1 else None


def _summarized(kind: str, rows: list[Record]) -> Record:
    if kind == "ablation":
        return {name: _mean([r[name] for r in rows], rows) for name in ("own", "control", "faithfulness", "mismatched")}
    if kind == "neuron":
        names = list(dict.fromkeys(name for r in rows for name in r["auroc"]))
        areas = {name: _mean([r["auroc"].get(name) for r in rows], rows) for name in names}
        cover = {name: _mean([r[name] for r in rows], rows) for name in ("completeness", "named_share_of_text")}
        return {**areas, **cover}
    if kind == "share":
        return {"significant": proportion(sum(r["significant"] for r in rows), len(rows)).as_dict()}
    if kind == "stability":
        return {name: _mean([r[name] for r in rows], rows) for name in ("cosine", "jaccard")}
    if kind == "whole":
        ours, theirs = ([r[name] for r in rows] for name in ("channels", "top activating tokens"))
        gap = paired_difference(ours, theirs, seed=0)
        wins = proportion(sum(a > b for a, b in zip(ours, theirs, strict=True)), len(rows))
        return {
            "channels": _mean(ours, rows), "top activating tokens": _mean(theirs, rows),
            "difference": gap.difference.as_dict(), "p": gap.p_value, "wins": wins.as_dict(),
        }  # fmt: skip
    if kind == "judged":
        return {
            win: proportion(sum(r["win"] == win for r in rows), len(rows)).as_dict()
            for win in ("channels", "activations", "tie")
        }
    curves = {name: np.concatenate([np.array(r[name]) for r in rows]) for name in ("real", "noise")}
    last = permutation_test(curves["real"][:, -1], curves["noise"][:, -1], seed=0)
    shown = {name: [round(float(v), 4) for v in curve.mean(0)] for name, curve in curves.items()}
    return {**shown, "difference_at_last": last.difference.as_dict(), "p": last.p_value}


def main() -> int:
    """Measure what is pending, then summarize."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", required=True, help="JSONL with a field text")
    parser.add_argument("--output-dir", required=True, type=Path)
    parser.add_argument("--judge", help="model of the head-to-head; left out without it")
    parser.add_argument("--model", choices=LAYERS, help="only this one")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else Plan()
    plan = replace(plan, models=(arguments.model,)) if arguments.model else plan
    data = load_records(arguments.texts, TextRecord, limit=plan.texts)
    texts = [record.text for record in data.records]
    layers = {name: LAYERS[name][-1:] if arguments.quick else LAYERS[name] for name in plan.models}
    tasks = {}
    for name in plan.models:
        for layer in layers[name]:
            for solver in SOLVERS[name]:
                for part in PARTS:
                    tasks[f"{name}/{layer}/{part}/{solver}"] = (name, layer, part, solver)
            tasks[f"{name}/{layer}/whole"] = (name, layer, None, "whole")
            if arguments.judge and name == JUDGED_MODEL:
                tasks[f"{name}/{layer}/judge"] = (name, layer, None, "judge")
    bench: Bench | None = None
    judge: Judge | None = None
    inputs = {"data": data.sha256, "judge": arguments.judge}
    with Run.open("experiments/rotate", plan, arguments.output_dir, inputs=inputs, resume=True) as run:
        for key in run.items([*tasks, "summary"], "rotate"):
            if key == "summary":
                run.record(key, list(summary(run.results())))
                continue
            name, layer, part, what = tasks[key]
            if bench is None or bench.model.name != name:
                bench = Bench(name, plan, texts)
            if what == "judge" and judge is None:
                judge = Judge(_completer(arguments.judge), run.path("judge"))
            if what == "whole":
                rows = whole(bench, layer)
            elif what == "judge":
                assert judge is not None
                rows = head_to_head(bench, layer, judge)
            else:
                rows = place(bench, layer, part, what)
            about = {"model": name, "layer": layer, "part": part}
            run.record(key, [{**about, **row} for row in rows])
    return 0


def _completer(spec: str) -> Any:
    from shammie.core.backends import BackendCompleter, backend_for
    from shammie.core.decoding import GenerationSettings

    return BackendCompleter(backend_for(spec), GenerationSettings(max_new_tokens=4, temperature=0.0))


if __name__ == "__main__":
    sys.exit(main())
