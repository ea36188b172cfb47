"""Every number of the mfa card: density, interpretable fraction, structure, steering, localization, stability on real states.

    shammie mfa harvest MODEL --site "residual:8 residual:15" --texts wiki.jsonl --dtype bfloat16 --output-dir states
    shammie mfa fit states --site residual:15 --components 1000 --output-dir fit-15-1000   (and the other fits)
    python experiments/mfa.py --states states --fits fit-15-1000 fit-15-250 --output-dir runs/mfa [--quick]
    python experiments/mfa.py --output-dir runs/mfa --table      # the tables of what is there

Resumable: run it again to go on. `--quick` takes few tokens and pairs, in about two minutes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from shammie.core.data import TextRecord, load_records
from shammie.core.edit import Edit, add
from shammie.core.errors import DataError
from shammie.core.harvest import Activations, stream
from shammie.core.model import load
from shammie.core.run import Run, read_run
from shammie.core.stats import mean_interval
from shammie.mfa.baselines import Principal, SparseAutoencoder, gaussians, nearest
from shammie.mfa.concepts import CONCEPTS, PLANES, mentions
from shammie.mfa.em import fit_em
from shammie.mfa.equations import Parameters
from shammie.mfa.evaluate import Effect, HeldOut, negative_log_likelihood, squared_error
from shammie.mfa.featurizers import dictionary, matched_autoencoder
from shammie.mfa.fit import best_of
from shammie.mfa.fitting import load_mixture, open_states
from shammie.mfa.interpretable import (
    Corpus,
    autoencoder_reader,
    ends_told_apart,
    interpretable_fraction,
    mixture_reader,
    principal_reader,
)
from shammie.mfa.localize import Exchange, accuracy, learn, prepare
from shammie.mfa.mixture import Mixture, make_mixture
from shammie.mfa.packing import pack
from shammie.mfa.settings import Featurizer, LocalizeSettings, MfaSettings
from shammie.mfa.source import ShardSource, held_out_texts, sample
from shammie.mfa.steer import steer
from shammie.mfa.structure import agreement, geometry, mention_states
from shammie.mfa.tasks import TASKS, Pair, build

Record = dict[str, Any]
PROMPTS = ("I think that", "Yesterday we talked about", "The next one is")
NEUTRAL = (
    ("The river runs through the valley", " and joins the sea a few miles south of the old town."),
    ("She closed the book and", " looked out of the window for a long time before she spoke."),
    ("The machine is cleaned once a week", " so that dust does not settle on the parts that move."),
    ("Most people in the village", " work in the fields or in the small factory near the bridge."),
)  # fmt: skip
PAIRS: dict[tuple[str, str], tuple[list[Pair], list[Pair], Record]] = {}
ALPHAS = (0.1, 0.2, 0.3, 0.4)
NORMS = (0.15, 0.3, 0.5, 0.8)  # of the mean norm of a centred state
COST = 0.5  # nats a token of neutral text that a method may cost where methods are compared


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    tokens: int = 100_000
    """Of which baselines are made and features are judged; the autoencoder reads all."""
    held_out: int = 10_000
    judged: int = 300
    """Held-out tokens whose features are judged interpretable or not."""
    pairs: int = 128
    shards: int | None = None
    """Of the harvest, for what is trained here; None for all."""


QUICK = Plan(20_000, 4000, 60, 32, 2)


class Bench:
    """A fit with the states it was made of and its model."""

    def __init__(self, states: Activations, mixture: Mixture, plan: Plan) -> None:
        self.states, self.mixture, self.plan = states, mixture, plan
        settings = mixture.settings
        self.source = ShardSource(states, mixture.at(), settings.held_out, settings.seed, plan.shards)
        self.model = load(str(states.index["model"]), dtype="float32")
        self._sae: SparseAutoencoder | None = None

    def held(self) -> HeldOut:
        site, parts, texts, have = self.mixture.at(), [], [], 0
        chosen = torch.from_numpy(
            held_out_texts(int(self.states.index["texts"]), self.source.held_out, self.source.seed)
        )
        for shard in self.states:
            own = chosen[shard.text]
            parts.append(shard.states[site][own].float())
            texts.append(shard.text[own])
            have += len(parts[-1])
            if have >= self.plan.held_out:
                break
        return HeldOut(torch.cat(parts)[: self.plan.held_out], torch.cat(texts)[: self.plan.held_out])

    @property
    def numbers(self) -> int:
        """K (R + 1): directions of the mixture."""
        return len(self.mixture.weights) * (self.mixture.loadings.shape[2] + 1)

    def sae(self) -> SparseAutoencoder:
        if self._sae is None:
            self._sae = matched_autoencoder(self.mixture, self.source)
        return self._sae


def density(bench: Bench) -> list[Record]:
    """Held-out density and reconstruction of the mixture and of what has about as many parameters."""
    held, x = bench.held(), sample(bench.source, bench.plan.tokens)
    rank = bench.mixture.loadings.shape[2]
    lines = [_line(held, "mfa", bench.numbers, bench.mixture.parameters, bench.mixture.reconstruct)]
    for dimensions in (rank + 1, 64):
        pca = Principal.fit(x, dimensions)
        lines.append(_line(held, f"pca {dimensions}", dimensions, pca.mixture(), pca.reconstruct))
    lines.append(_line(held, f"top-{rank + 1} autoencoder", bench.numbers, None, bench.sae()))
    return lines


def cells(bench: Bench) -> list[Record]:
    """The same of Gaussians without local directions, as many as have the mixture's number of parameters."""
    held = bench.held()
    centroids, diagonal = (
        gaussians(bench.source, count, noise, passes)  # type: ignore[arg-type]
        for count, noise, passes in ((bench.numbers, "shared", 1), (bench.numbers // 2, "component", 2))
    )
    return [
        _line(held, name, len(found.weights), found, partial(nearest, centres=found.means))
        for name, found in (("k-means", centroids), ("diagonal Gaussians", diagonal))
    ]


def _line(held: HeldOut, name: str, directions: int, mixture: Parameters | None, rebuild: Any) -> Record:
    error = held.mean(squared_error(held, rebuild)).as_dict()
    nll = None
    if mixture is not None:
        nll = held.mean(negative_log_likelihood(held, mixture)).as_dict()
    return {"kind": "density", "method": name, "directions": directions, "nll": nll, "error": error}


def structure(bench: Bench) -> list[Record]:
    """Regions against kinds of things, and the planes of weekdays, months, numbers and places in local coordinates."""
    kept = mentions()
    x = mention_states(bench.model, bench.mixture.at(), kept)
    regions = bench.mixture.regions(x)[0][:, 0]
    kinds = [m.kind for m in kept]
    lines: list[Record] = [{"kind": "kinds", "method": "mfa", **agreement(regions, kinds).as_dict()}]
    own = (x - bench.mixture.means[regions]).square().sum(-1).mean() / (x - x.mean(0)).square().sum(-1).mean()
    lines[0]["left_of_centroid"] = round(float(own), 4)
    for kind in PLANES:
        rows = [i for i, m in enumerate(kept) if m.kind == kind]
        some, states = [kept[i] for i in rows], x[rows]
        home = int(regions[rows].mode().values)
        inside = bench.mixture.latents(states, torch.full((len(rows),), home))
        share = float((regions[rows] == home).float().mean())
        centred = states - states.mean(0)
        leading = torch.linalg.svd(centred, full_matrices=False).Vh[: inside.shape[1]]
        for name, coordinates in (
            ("local coordinates", inside),
            ("principal components of the kind", centred @ leading.T),
        ):
            lines.append(
                {
                    "kind": "geometry",
                    "name": kind,
                    "by": name,
                    "region": home,
                    "in_region": round(share, 3),
                    **asdict(geometry(coordinates, some)),
                }
            )
    return lines


def steering(bench: Bench) -> list[Record]:
    """Each kind promoted by its region, by difference of means and by the best autoencoder feature, over strengths."""
    mixture, model = bench.mixture, bench.model
    kept = mentions()
    x = mention_states(model, mixture.at(), kept)
    regions = mixture.regions(x)[0][:, 0]
    sae, effect = bench.sae(), Effect(model, PROMPTS, NEUTRAL)
    values, features = sae.codes(x)
    table = torch.zeros(len(x), len(sae.decoder)).scatter(1, features, values)
    size = float((x - x.mean(0)).norm(dim=1).mean())
    lines = []
    draw = torch.Generator().manual_seed(0)
    for kind in CONCEPTS:
        own = torch.tensor([m.kind == kind for m in kept])
        home = int(regions[own].mode().values)
        difference = x[own].mean(0) - x[~own].mean(0)
        feature = int((table[own].mean(0) - table[~own].mean(0)).argmax())
        other = int(torch.randint(len(mixture.weights), (1,), generator=draw))
        directions = {"difference of means": difference, "autoencoder feature": sae.decoder[feature]}
        edits: list[tuple[str, float, Edit]] = [("region", a, steer(mixture, home, a)) for a in ALPHAS]
        edits += [("another region", a, steer(mixture, other, a)) for a in ALPHAS]
        for name, direction in directions.items():
            unit = direction / direction.norm()
            edits += [(name, s, add(mixture.at(), unit, strength=s * size)) for s in NORMS]
        for name, strength, edit in edits:
            found = effect(edit, CONCEPTS[kind][:6])
            lines.append({
                "kind": "steering", "name": kind, "method": name, "strength": strength,
                "concept": round(float(found.concept.mean()), 4),
                "fluency": round(float(found.fluency.mean()), 4),
            })  # fmt: skip
    return [*lines, *_compared(lines)]


def _compared(lines: list[Record]) -> list[Record]:
    """For each method the largest rise of each concept among strengths that cost at most COST, averaged over concepts."""
    found = []
    for method in dict.fromkeys(line["method"] for line in lines):
        best = []
        for kind in CONCEPTS:
            own = [
                line["concept"]
                for line in lines
                if (line["method"], line["name"]) == (method, kind) and line["fluency"] >= -COST
            ]
            best.append(max([*own, 0.0]))
        found.append(
            {"kind": "steering at equal cost", "cost": COST, **mean_interval(best, None, 0).as_dict(), "method": method}
        )
    return found


def localization(bench: Bench, task: str) -> list[Record]:
    """Interchange accuracy of each featurizer on pairs that were not learned from."""
    settings = LocalizeSettings(train_pairs=bench.plan.pairs, test_pairs=bench.plan.pairs // 2)
    key = (bench.model.hash, task)
    if key not in PAIRS:  # what a model knows does not depend on the fit
        try:
            PAIRS[key] = build(bench.model, task, settings.train_pairs, settings.test_pairs, settings.seed)
        except DataError as error:
            return [{"kind": "not known", "task": task, "reason": str(error)}]
    train, test, counts = PAIRS[key]
    site = bench.mixture.at()
    learned, scored = prepare(bench.model, site, train), prepare(bench.model, site, test)
    lines = [
        {
            "kind": "interchange",
            "task": task,
            "featurizer": "untouched",
            **accuracy(bench.model, site, scored, None)[0].as_dict(),
            **counts,
        }
    ]
    width = bench.mixture.means.shape[1]
    for kind in get_args(Featurizer):
        features = dictionary(kind, bench.mixture, bench.source, bench.sae() if kind == "sae" else None)
        exchange = Exchange(kind, width, settings, features)
        learn(bench.model, site, learned, exchange, settings)
        found, right = accuracy(bench.model, site, scored, exchange)
        moved = [hit for hit, pair in zip(right, test, strict=True) if pair.expected != pair.base_answer]
        kept = (
            {} if exchange.mask is None else {"kept": int((exchange.mask > 0).sum()), "features": exchange.mask.numel()}
        )
        lines.append(
            {
                "kind": "interchange",
                "task": task,
                "featurizer": kind,
                **found.as_dict(),
                "changed_right": float(np.mean(moved)),
                **kept,
            }
        )
    return lines


def interpretable(bench: Bench) -> list[Record]:
    """Share of a token's mass in features that words tell, of the mixture and of what has about as many parameters."""
    held = bench.held()
    rows = torch.randperm(len(held.x), generator=torch.Generator().manual_seed(0))[: bench.plan.judged]
    some = HeldOut(held.x[rows], held.text[rows])
    corpus = Corpus.of(bench.states, bench.mixture.at(), 3 * bench.plan.tokens)
    principal = Principal.fit(sample(bench.source, bench.plan.tokens), 64)
    readers = {
        "mfa": mixture_reader(bench.mixture), "autoencoder": autoencoder_reader(bench.sae()), "pca 64": principal_reader(principal),
    }  # fmt: skip
    lines = []
    for name, read in readers.items():
        for strongest in (True, False):
            found = interpretable_fraction(read, some, corpus, bench.model, strongest=strongest)
            contexts = "strongest" if strongest else "any"
            lines.append({"kind": "interpretable", **found.as_dict(), "method": name, "contexts": contexts})
    for name, first in (("mfa", len(bench.mixture.weights)), ("pca 64", 0)):
        share, null = ends_told_apart(readers[name], some, corpus, bench.model, first)
        lines.append({"kind": "ends", **share.as_dict(), "method": name, "null": null})
    return lines


def stability(bench: Bench) -> list[Record]:
    """Do seeds and K find the same regions? Information that the assignments of held-out tokens share, fit by fit."""
    x, labels = bench.held().x, dict[tuple[int, int], tuple[torch.Tensor, float | None]]()
    for count, seed in ((100, 0), (100, 1), (250, 0), (250, 1)):
        settings = MfaSettings(count, 10, passes=2, seed=seed, start_tokens=bench.plan.tokens // 2)
        source = ShardSource(bench.states, bench.mixture.at(), seed=0, limit=8)
        found = best_of(fit_em(source, settings))
        own = make_mixture(found.mixture, settings, bench.mixture.at(), {})
        labels[count, seed] = (own.regions(x)[0][:, 0], found.held_out)
    lines = []
    for one, other in (((100, 0), (100, 1)), ((250, 0), (250, 1)), ((100, 0), (250, 0))):
        same = agreement(labels[one][0], [str(int(region)) for region in labels[other][0]])
        lines.append({
            "kind": "stability", "fits": [list(one), list(other)], "held_out": [labels[one][1], labels[other][1]], **same.as_dict(),
        })  # fmt: skip
    return lines


def front(bench: Bench) -> list[Record]:
    """Nats of the first tokens of held-out windows, which no fit has seen, beside those of the rest."""
    config = read_run(bench.states.directory.parents[1]).config
    texts = [record.text for record in load_records(Path(config["texts"]), TextRecord, limit=config["limit"]).records]
    windows = pack(bench.model, texts, int(config["window"]))
    held = np.flatnonzero(held_out_texts(len(windows), bench.source.held_out, bench.source.seed))[:24]
    site, skipped = bench.mixture.at(), int(config["skip_first"])
    values: dict[str, list[tuple[float, int]]] = {"the first token": [], f"the next {skipped - 1}": [], "the rest": []}
    for read in stream(bench.model, [windows[i] for i in held], [site], max_tokens=int(config["window"])):
        x = read[site].float()
        nats = negative_log_likelihood(HeldOut(x, read.row), bench.mixture.parameters)
        for value, position, row in zip(nats.tolist(), read.position.tolist(), read.row.tolist(), strict=True):
            place = 0 if position == 0 else 1 if position < skipped else 2
            values[list(values)[place]].append((value, row))
    return [
        {"kind": "front", "tokens": name, "median": float(np.median([v for v, _ in found])),
         **mean_interval([v for v, _ in found], [r for _, r in found], 0).as_dict()}
        for name, found in values.items()
    ]  # fmt: skip


GROUPS: dict[str, Callable[[Bench], list[Record]]] = {
    "density": density,
    "cells": cells,
    "interpretable": interpretable,
    "structure": structure,
    "steering": steering,
    "stability": stability,
    "front": front,
    **{task: partial(localization, task=task) for task in TASKS},
}


def table(records: list[Record]) -> str:
    """Markdown: a line a fit and method."""
    shown = {
        "density": lambda r: (r["method"], r["nll"] and span(r["nll"]), span(r["error"])),
        "interpretable": lambda r: (r["method"], r["contexts"], span(r), f"{r['share']:.2f} of {r['features']}", r["null"]),
        "ends": lambda r: (r["method"], span(r), r["n"], f"null {r['null']:.3f}"),
        "kinds": lambda r: (f"{r['value']:.2f}", f"null {r['null']:.2f}, 95 % below {r['null_95']:.2f}"),
        "geometry": lambda r: (
            r["name"], r["by"], f"{r['in_region']:.2f} in region", f"plane {r['r_squared']:.2f}", f"line {r['line']:.2f}",
            f"p={r['p_value']:.3f}",
        ),
        "steering at equal cost": lambda r: (r["method"], span(r)),
        "stability": lambda r: (str(r["fits"]), f"{r['value']:.2f}", f"null {r['null']:.2f}"),
        "front": lambda r: (r["tokens"], span(r), f"median {r['median']:.0f}"),
        "interchange": lambda r: (
            r["task"], r["featurizer"], span(r), f"changed {r['changed_right']:.2f}" if "changed_right" in r else "",
            f"{r['kept']} of {r['features']}" if "kept" in r else "",
        ),
    }  # fmt: skip
    lines = []
    for kind, row in shown.items():
        lines += ["", f"### {kind}", ""]
        for r in records:
            if r["kind"] == kind:
                lines.append(f"| {r['model']} {r['site']} K={r['components']} | {' | '.join(str(c) for c in row(r))} |")
    return "\n".join(lines)


def span(r: Record) -> str:
    """Value and interval."""
    return f"{r['value']:.4g} [{r['low']:.4g}, {r['high']:.4g}]"


def main() -> int:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=Path)
    parser.add_argument("--fits", type=Path, nargs="+", default=[])
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=list(GROUPS), choices=list(GROUPS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if not args.table:
        measure(args)
    print(table(read_run(args.output_dir).results))
    return 0


def measure(args: argparse.Namespace) -> None:
    """Carry out what is pending, fit by fit."""
    torch.set_num_threads(1)
    plan, states = QUICK if args.quick else Plan(), open_states(args.states)
    benches: dict[str, Bench] = {}
    with Run.open("experiments mfa", asdict(plan), args.output_dir, resume=True) as run:
        run.reopen()
        for key in run.items([f"{fit.name}/{group}" for fit in args.fits for group in args.only], "mfa"):
            name, group = key.split("/")
            if name not in benches:
                benches = {name: Bench(states, load_mixture(next(fit for fit in args.fits if fit.name == name)), plan)}
            bench = benches[name]
            place = {
                "fit": name, "model": str(states.index["model"]), "site": bench.mixture.site,
                "components": len(bench.mixture.weights), "tokens": states.tokens,
            }  # fmt: skip
            run.record(key, [{**place, **line} for line in GROUPS[group](bench)])


if __name__ == "__main__":
    sys.exit(main())
