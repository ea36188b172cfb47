"""Regenerate the real-model numbers of EMBER's card: every eraser with and without EMBER, then relearning.

    python experiments/ember.py --output runs/ember                  # both shipped packs, both bundled models, 3 seeds
    python experiments/ember.py --output runs/ember --models smollm2-135m --concepts honeybees --seeds 0
    python experiments/ember.py --output runs/quick --quick          # does it run? under two minutes, no figures to quote
    python experiments/ember.py --output runs/ember --table          # only the tables of what is there

A run a (model, concept), one item a (seed, arm); kill it at any time and repeat the command, with more of any if wished.
Strength and cells are chosen on the validation split with seed 0; the other seeds draw factorizations, orders and
erasers' own randomness anew at what was chosen. Copy run.json's neighbour results.jsonl to pass figures on.
"""

import argparse
import os
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from shammie.core.errors import DataError, ShammieError
from shammie.core.model import load
from shammie.core.run import Run, read_run
from shammie.core.stats import mean_interval, paired_difference
from shammie.ember.edit import find_directions, random_directions
from shammie.ember.erasers import ERASERS, cells
from shammie.ember.measure import Bench, answer_records, recorded_answers
from shammie.ember.pack import load_pack, refuse_leaks
from shammie.ember.relearn import relearn
from shammie.ember.settings import EmberSettings, RelearnSettings

EMBER = EmberSettings()
FULL = {
    "deltas": (1.0, 2.0, 5.0, 10.0, 50.0),
    "cells": 2,
    "validation": 20,
    "test": None,
    "paragraphs": 40,
    "epochs": 2,
    "batch_size": 4,
    "rate": 1e-4,
    "precision": "bfloat16",
}
QUICK = FULL | {"deltas": (1.0, 2.0), "cells": 1, "validation": 4, "test": 6, "paragraphs": 4, "epochs": 1}
ARMS = ("untouched", "ember", "random", *(arm for name in ERASERS for arm in (name, f"ember+{name}")))


class Place:
    """One model and concept; arms are carried out seed by seed, each under EMBER's edit where its name says so."""

    def __init__(self, run, size, model, name, concept):
        self.run, self.size, self.model, self.pack = run, size, model, concept
        self.name = f"{name}/{concept.concept}"
        self.validation = Bench(model, concept, ("choice",), 0, size["validation"])
        self.test = Bench(model, concept, ("choice",), 0, size["test"])

    def carry_out(self, seeds, arms):
        for key in self.run.pending(["before"]):
            self.run.record(key, self.before())
        if unknown := [r["unknown"] for r in self.run.results() if r["kind"] == "unknown"]:
            print(unknown[0], flush=True)  # a concept that this model does not know is dropped, and said
            return
        _ = self.validation.readings, self.test.readings
        self.answers = {s: recorded_answers(self.run.results(), "before", s) for s in ("validation", "test")}
        for key in self.run.pending(["strength"]):
            self.run.record(key, self.strengths())
        self.delta = next(r["delta"] for r in self.run.results() if r["kind"] == "strength" and r["chosen"])
        for seed in seeds:
            found = {}  # a seed's directions, found when its first arm needs them
            for key in self.run.items([f"{seed}/{arm}" for arm in arms], f"{self.name} {seed}"):
                self.seed = seed
                self.directions = found.setdefault(seed, find_directions(self.model, self.pack, EMBER, seed))
                arm = key.split("/")[1]
                self.run.record(key, self.here(self.explain() if arm == "explain" else self.arm(arm), seed=seed))

    def here(self, records, **more):
        return [{**record, "place": self.name, **more} for record in records]

    def before(self):
        """Answers of the untouched model, and whether it knows the concept at all."""
        validation, test = self.validation.ask("validation"), self.test.ask("test")
        try:
            known = self.test.known(test)
        except ShammieError as error:
            return self.here([{"kind": "unknown", "unknown": str(error)}])
        answers = [*answer_records(validation, "before", "validation"), *answer_records(test, "before", "test")]
        return self.here([*known, *answers])

    def strengths(self):
        directions = find_directions(self.model, self.pack, EMBER, 0)
        found = []
        for delta in self.size["deltas"]:
            with directions.patch(self.model, delta).applied(self.model):
                found.append({"kind": "strength", "delta": delta, **self.validated()})
        best = max(found, key=lambda r: r["overall"])
        return self.here([r | {"chosen": r is best, "tokens": len(directions.tokens)} for r in found])

    def validated(self):
        after = self.validation.ask("validation")
        return self.validation.outcome("validation", self.answers["validation"], after, "choice", soft=True).record()

    def arm(self, arm):
        ember, _, method = arm.rpartition("+")
        if arm in ("untouched", "ember", "random"):
            ember, method = arm, ""
        with self.edit(ember):
            records, patch = self.erased(arm, method) if method else ([], None)
            with patch.applied(self.model) if patch else nullcontext():
                answers = self.answers["test"] if arm == "untouched" else self.test.ask("test")
                records += answer_records(answers, arm, "test")
                if arm != "untouched":
                    records += self.test.outcomes(self.answers["test"], answers, arm)
                if ember in ("ember", "random"):
                    records += self.test.costs(set(self.directions.tokens.tolist()), arm)
                return records + self.relearned(arm)

    def edit(self, ember):
        if ember not in ("ember", "random"):
            return nullcontext()
        directions = self.directions
        if ember == "random":
            directions = random_directions(self.model, self.pack, EMBER, directions, self.seed)
        return directions.patch(self.model, self.delta).applied(self.model)

    def erased(self, arm, method):
        """The eraser's patch at the cell that does best on the validation split with seed 0."""
        erasers = cells(method, self.size["cells"])
        chosen = [r["cell"] for r in self.run.results() if r["kind"] == "cell" and r["arm"] == arm and r["chosen"]]
        if chosen:
            patch, refused = self.trained(erasers[chosen[0]])
            return ([{"kind": "refused", "arm": arm, "refused": refused}] if refused else []), patch
        found = []
        for number, eraser in enumerate(erasers):
            patch, refused = self.trained(eraser)
            with patch.applied(self.model) if patch else nullcontext():
                line = {"kind": "cell", "arm": arm, "cell": number, "refused": refused, **self.validated()}
            found.append((line, patch))
        best = max(found, key=lambda pair: pair[0]["overall"])
        return [line | {"chosen": line is best[0]} for line, _ in found], best[1]

    def trained(self, eraser):
        """The eraser's patch; none and the reason where it finds nothing to erase, as may happen under EMBER's edit."""
        if hasattr(eraser, "train"):
            settings = replace(eraser.train, precision=self.size["precision"], checkpoint_every=0)
            eraser = replace(eraser, train=settings)
        try:
            return eraser.erase(self.model, self.pack, self.scratch(), self.seed, resume=False), None
        except DataError as error:
            return None, str(error)

    def relearned(self, arm):
        records = []

        def probe(step):
            answers = self.test.ask("test", sets=("questions",))
            records.extend(line | {"split": "relearned", "step": step} for line in answer_records(answers, arm, "test"))

        self.relearn(probe)
        return records

    def relearn(self, probe):
        size = self.size
        settings = RelearnSettings(
            paragraphs=size["paragraphs"], epochs=size["epochs"], batch_size=size["batch_size"],
            learning_rate=size["rate"], points=1, precision=size["precision"],
        )  # fmt: skip
        relearn(self.model, self.pack, "full", settings, self.scratch(), self.seed, probe)

    def explain(self):
        """Which weights carry what relearning brought back to EMBER: each part in turn is put back to what it was."""
        with self.edit("ember"):
            start = {name: parameter.detach().clone() for name, parameter in self.model.module.named_parameters()}
            parts, records = {"nothing": None, **self.parts(start)}, []

            def probe(_step):
                for part, put_back in parts.items():
                    asked = self.asked_without(put_back, start)
                    values = {
                        "accuracy": np.mean([a.hit for a in asked]),
                        "probability": np.mean([a.soft for a in asked]),
                    }
                    records.append({"kind": "put back", "part": part, **{k: float(v) for k, v in values.items()}})

            self.relearn(probe)
        return records

    @torch.no_grad()
    def asked_without(self, put_back, start):
        now = dict(self.model.module.named_parameters())
        learnt = {name: tensor.detach().clone() for name, tensor in now.items()} if put_back else {}
        for name in learnt:
            put_back(name, now[name], start[name])
        asked = self.test.ask("test", sets=("questions",))
        for name, tensor in learnt.items():
            now[name].copy_(tensor)
        return asked

    def parts(self, start):
        """Edited rows, all other embeddings, and each third of the layers; each puts its own weights back."""
        embedding = self.model.anatomy.embedding_weights.parameter
        head = self.model.anatomy.unembedding_weights.parameter
        edited = torch.zeros(len(start[embedding]), dtype=torch.bool)
        edited[self.directions.tokens] = True
        count = len(self.model.anatomy.layers)
        stem = f"{self.model.anatomy.family.body}.{self.model.anatomy.family.layers}."

        def rows(chosen):
            def put_back(name, now, old):
                if name == embedding:
                    now[chosen] = old[chosen]

            return put_back

        def third(number):
            own = range(number * count // 3, (number + 1) * count // 3)
            stems = tuple(f"{stem}{layer}." for layer in own)
            return lambda name, now, old: name.startswith(stems) and now.copy_(old)

        thirds = {f"layers {n * count // 3} to {(n + 1) * count // 3 - 1}": third(n) for n in range(3)}
        output = {"output matrix": lambda name, now, old: name == head and now.copy_(old)} if head in start else {}
        return {"edited rows": rows(edited), "other embeddings": rows(~edited), **output, **thirds}

    def scratch(self):
        place = self.run.artifacts / "scratch"
        shutil.rmtree(place, ignore_errors=True)
        return place


# -- the tables --------------------------------------------------------------------------------------------------------


def tables(records):
    """Markdown: a table a place, then all places together."""
    places = sorted({r["place"] for r in records})
    parts = [f"### {place}\n\n{table([r for r in records if r['place'] == place])}" for place in places]
    return "\n\n".join([*parts, *([f"### All {len(places)} places\n\n{table(records)}"] if len(places) > 1 else [])])


def table(records):
    """Each arm's figures, and what EMBER adds to each eraser, paired by question."""
    chosen = [f"δ = {r['delta']:g}, {r['tokens']} tokens" for r in records if r["kind"] == "strength" and r["chosen"]]
    head = "| arm | seeds | efficacy | specificity | coherence | accuracy | relearned |"
    lines = [*dict.fromkeys(chosen), "", head, "|---|---|---|---|---|---|---|"]
    for arm in ARMS:
        own = [r for r in records if r["kind"] == "outcome" and r["arm"] == arm and r["values"] == "hits"]
        after, relearned = hits(records, arm, "test"), hits(records, arm, "relearned")
        if after:
            shown = [spread([r[name]["value"] for r in own]) for name in ("efficacy", "specificity", "coherence")]
            seeds = len({(place, seed) for place, seed, *_ in after})
            lines.append(f"| {arm} | {seeds} | {' | '.join(shown)} | {interval(after)} | {interval(relearned)} |")
    titles = "concept after erasure | neighbours and general after erasure | concept after relearning"
    lines += ["", f"| added by EMBER to | {titles} |", "|---|---|---|---|"]
    for base in ("untouched", *ERASERS):
        arm = "ember" if base == "untouched" else f"ember+{base}"
        kinds = (("test", ("questions",)), ("test", ("similar", "general")), ("relearned", ("questions",)))
        found = [paired(hits(records, arm, *kind), hits(records, base, *kind)) for kind in kinds]
        if all(found):
            lines.append(f"| {base} | {' | '.join(found)} |")
    back = [r for r in records if r["kind"] == "put back"]
    if back:
        lines += ["", "| after relearning, put back | accuracy | probability of the answer |", "|---|---|---|"]
        for part in dict.fromkeys(r["part"] for r in back):
            own = [r for r in back if r["part"] == part]
            lines.append(
                f"| {part} | {spread([r['accuracy'] for r in own])} | {spread([r['probability'] for r in own])} |"
            )
    return "\n".join(lines)


def hits(records, arm, split, sets=("questions",)):
    """Hits by place, seed, set and question; after relearning, at its end."""
    own = [r for r in records if r["kind"] == "answer" and r["arm"] == arm and r["split"] == split and r["set"] in sets]
    return {(r["place"], r["seed"], r["set"], r["question"]): r["hit"] for r in own}


def clusters(keys):
    """Questions are the units: seeds and models that answer the same one are drawn together."""
    return [f"{name if name == 'general' else place.split('/')[-1] + name}/{q}" for place, _, name, q in keys]


def interval(values):
    return str(mean_interval(list(values.values()), clusters(values), 0)).split(" (")[0] if values else "–"


def paired(ours, theirs):
    keys = sorted(ours.keys() & theirs.keys())
    if not keys:
        return ""
    found = paired_difference([ours[k] for k in keys], [theirs[k] for k in keys], clusters(keys), seed=0)
    return f"{found.difference} p={found.p_value:.3f}"


def spread(values):
    """Mean and range over seeds or places."""
    if not values:
        return "–"
    return f"{np.mean(values):.2f}" + (f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else "")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["smollm2-135m", "gemma-3-270m"])
    parser.add_argument("--concepts", nargs="+", default=["honeybees", "ancient-egypt"], help="shipped names or packs")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="0 chooses, so it comes first")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if not args.table:
        carry_out(args)
    runs = sorted(path.parent for path in args.output.glob("*/run.json"))
    print(tables([record for path in runs for record in read_run(path).results]))


def carry_out(args):
    size, arms = FULL, ARMS
    if args.quick:
        args.models, args.concepts, args.seeds = ["smollm2-135m"], ["honeybees"], [0]
        size, arms = QUICK, ("untouched", "ember", "rmu", "ember+rmu")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    for name in args.models:
        model = load(name, dtype="float32")
        for concept in args.concepts:
            pack = load_pack(concept)
            refuse_leaks(pack, allow=False)
            place = args.output / f"{name.replace('/', '-')}--{pack.concept.replace(' ', '-')}"
            settings = size | {"model": name, "concept": pack.concept}
            inputs = {"model": model.hash, "pack": pack.sha256}
            with Run.open("experiments/ember", settings, place, inputs=inputs, resume=place.exists()) as run:
                run.reopen()
                own = Place(run, size, model, name, pack)
                own.carry_out(sorted(args.seeds), arms)
                if not args.quick:
                    own.carry_out([0], ("explain",))


if __name__ == "__main__":
    main()
