"""Regenerate the real-model numbers of EMBER's card: every eraser with and without EMBER, then relearning.

    python experiments/ember.py --output runs/ember                  # both shipped packs, both bundled models, 3 seeds
    python experiments/ember.py --output runs/ember --models smollm2-135m --concepts honeybees --seeds 0
    python experiments/ember.py --output runs/quick --quick          # does it run? under two minutes, no figures to quote
    python experiments/ember.py --output runs/ember --explain        # which weights carry what relearning brings back
    python experiments/ember.py --output runs/ember --table          # only the table of what is there

A run a (model, concept, seed), one item an arm; kill it at any time and repeat the command, with more of any if wished.
"""

import argparse
import os
import shutil
from contextlib import nullcontext
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from shammie.core.errors import ShammieError
from shammie.core.model import load
from shammie.core.run import Run, read_run
from shammie.core.stats import mean_interval, paired_difference
from shammie.ember.config import EmberSettings, FactorizationSettings, RelearnSettings
from shammie.ember.edit import find_directions, random_directions
from shammie.ember.erasers import ERASERS, cells
from shammie.ember.measure import Bench, answer_records, recorded_answers
from shammie.ember.pack import load_pack, refuse_leaks
from shammie.ember.relearn import relearn

EMBER = EmberSettings(votes=0.5, factorization=FactorizationSettings(patience=8, tolerance=1e-3))
DELTAS = (1.0, 2.0, 5.0, 10.0, 50.0)
FULL = {
    "deltas": DELTAS,
    "cells": 2,
    "validation": 20,
    "test": None,
    "paragraphs": 40,
    "epochs": 2,
    "batch_size": 2,
    "rate": 5e-5,
}
QUICK = {
    "deltas": DELTAS[:2],
    "cells": 1,
    "validation": 4,
    "test": 6,
    "paragraphs": 4,
    "epochs": 1,
    "batch_size": 2,
    "rate": 5e-5,
}
ARMS = ("ember", "random", *(arm for name in ERASERS for arm in (name, f"ember+{name}")))


class Setting:
    """One model, concept and seed, with EMBER's edit at its chosen strength."""

    def __init__(self, run, size, model, name, concept, seed):
        self.run, self.size, self.model, self.seed = run, size, model, seed
        self.stem = f"{name}/{concept.concept}/{seed}"
        self.pack = concept
        self.validation = Bench(model, concept, ("choice",), seed, size["validation"])
        self.test = Bench(model, concept, ("choice",), seed, size["test"])

    def carry_out(self, arms):
        for key in self.run.pending([f"{self.stem}/untouched"]):
            self.run.record(key, self.untouched())
        records = self.run.results()
        own = [r for r in records if r["place"] == self.stem]
        if unknown := [r["unknown"] for r in own if r["kind"] == "unknown"]:
            print(unknown[0], flush=True)  # a concept that this model does not know is dropped, and said
            return
        self.before = {split: recorded_answers(own, "untouched", split) for split in ("validation", "test")}
        _ = self.validation.readings, self.test.readings
        self.directions = find_directions(self.model, self.pack, EMBER, self.seed)
        self.delta = next(r["delta"] for r in own if r["kind"] == "strength_chosen")
        for key in self.run.items([f"{self.stem}/{arm}" for arm in arms], self.stem):
            self.run.record(key, self.arm(key.rsplit("/", 1)[1]))
            print(key, flush=True)

    def here(self, records, **more):
        return [{**record, "place": self.stem, **more} for record in records]

    def untouched(self):
        validation, test = self.validation.ask("validation"), self.test.ask("test")
        _ = self.validation.readings, self.test.readings
        try:
            known = self.test.known(test)
        except ShammieError as error:
            return self.here([{"kind": "unknown", "unknown": str(error)}])
        records = [
            *known,
            *answer_records(validation, "untouched", "validation"),
            *answer_records(test, "untouched", "test"),
        ]
        directions = find_directions(self.model, self.pack, EMBER, self.seed)
        strengths = []
        for delta in self.size["deltas"]:
            with directions.patch(self.model, delta).applied(self.model):
                found = self.outcome(validation, soft=True)
            strengths.append({"kind": "strength", "delta": delta, **found.record()})
        best = max(strengths, key=lambda r: r["overall"])
        records += [*strengths, {"kind": "strength_chosen", "delta": best["delta"], "tokens": len(directions.tokens)}]
        return self.here([*records, *self.relearned("untouched")])

    def outcome(self, before, *, soft):
        return self.validation.outcome("validation", before, self.validation.ask("validation"), "choice", soft=soft)

    def arm(self, arm):
        if arm == "explain":
            with self.directions.patch(self.model, self.delta).applied(self.model):
                return self.explain()
        ember, _, method = arm.rpartition("+")
        if arm in ("ember", "random"):
            ember, method = arm, ""
        directions = self.directions
        if ember == "random":
            directions = random_directions(self.model, self.pack, EMBER, self.directions, self.seed)
        edit = directions.patch(self.model, self.delta).applied(self.model) if ember else nullcontext()
        with edit:
            records, patch = self.best_cell(method) if method else ([], None)
            with patch.applied(self.model) if patch else nullcontext():
                answers = self.test.ask("test")
                records += answer_records(answers, arm, "test")
                records += self.test.outcomes(self.before["test"], answers, arm)
                if ember:
                    records += self.test.costs(set(directions.tokens.tolist()), arm)
                records += self.relearned(arm)
        return self.here(records)

    def best_cell(self, method):
        """Train the grid's cells and keep the one with the best harmonic mean on the validation split."""
        found = []
        for number, eraser in enumerate(cells(method, self.size["cells"])):
            place = self.scratch()
            patch = eraser.erase(self.model, self.pack, place, self.seed, resume=False)
            with patch.applied(self.model):
                line = {
                    "kind": "cell",
                    "method": method,
                    "cell": number,
                    **self.outcome(self.before["validation"], soft=True).record(),
                }
            found.append((line, patch))
        best = max(found, key=lambda pair: pair[0]["overall"])
        return [line | {"chosen": line is best[0]} for line, _ in found], best[1]

    def relearned(self, arm):
        records = []

        def probe(step):
            answers = self.test.ask("test", sets=("questions",))
            records.extend(line | {"split": "relearned", "step": step} for line in answer_records(answers, arm, "test"))

        relearn(self.model, self.pack, "full", self.settings(), self.scratch(), self.seed, probe)
        self.scratch()
        return records

    def explain(self):
        """Which weights carry what relearning brought back: each part in turn is put back to what it was before."""
        start = {name: parameter.detach().clone() for name, parameter in self.model.module.named_parameters()}
        parts, records = self.parts(start), []

        def probe(step):
            now = dict(self.model.module.named_parameters())
            for part, choose in {"nothing": None, **parts}.items():
                swapped = {name: tensor.detach().clone() for name, tensor in now.items()} if choose else {}
                with torch.no_grad():
                    for name, parameter in now.items() if choose else ():
                        choose(name, parameter, start[name])
                own = self.test.ask("test", sets=("questions",))
                with torch.no_grad():
                    for name, tensor in swapped.items():
                        now[name].copy_(tensor)
                records.append(
                    {"kind": "put back", "part": part, "step": step, "accuracy": float(np.mean([a.hit for a in own])),
                     "probability": float(np.mean([a.soft for a in own]))}
                )  # fmt: skip

        relearn(self.model, self.pack, "full", self.settings(), self.scratch(), self.seed, probe)
        self.scratch()
        return self.here(records)

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

    def settings(self):
        size = self.size
        return RelearnSettings(
            paragraphs=size["paragraphs"], epochs=size["epochs"], batch_size=size["batch_size"],
            learning_rate=size["rate"], points=1,
        )  # fmt: skip

    def scratch(self):
        place = self.run.artifacts / "scratch"
        shutil.rmtree(place, ignore_errors=True)
        return place


# -- the table ---------------------------------------------------------------------------------------------------------


def table(records):
    """Markdown: each arm's figures over all places, and what EMBER adds to each eraser, paired by question."""
    head = "| arm | places | efficacy | specificity | coherence | accuracy | relearned |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for arm in ("untouched", *ARMS):
        own = [r for r in records if r["kind"] == "outcome" and r["arm"] == arm and r["values"] == "hits"]
        after, relearned = hits(records, arm, "test"), hits(records, arm, "relearned")
        if after:
            shown = [estimates([r[name] for r in own]) for name in ("efficacy", "specificity", "coherence")]
            count = len({place for place, *_ in after})
            lines.append(f"| {arm} | {count} | {' | '.join(shown)} | {interval(after)} | {interval(relearned)} |")
    back = [r for r in records if r["kind"] == "put back"]
    if back:
        lines += ["", "| after relearning, put back | accuracy | probability of the answer |", "|---|---|---|"]
        for part in dict.fromkeys(r["part"] for r in back):
            own = [r for r in back if r["part"] == part]
            lines.append(
                f"| {part} | {spread([r['accuracy'] for r in own])} | {spread([r['probability'] for r in own])} |"
            )
    titles = "concept after erasure | neighbours and general after erasure | concept after relearning"
    lines += ["", f"| added by EMBER to | {titles} |", "|---|---|---|---|"]
    for base in ("untouched", *ERASERS):
        with_ember = "ember" if base == "untouched" else f"ember+{base}"
        kinds = (("test", ("questions",)), ("test", ("similar", "general")), ("relearned", ("questions",)))
        cells = [paired(hits(records, with_ember, *kind), hits(records, base, *kind)) for kind in kinds]
        if all(cells):
            lines.append(f"| {base} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Places: {', '.join(sorted({r['place'] for r in records}))}."])


def hits(records, arm, split, sets=("questions",)):
    """Hits by place, set and question; after relearning, at its end."""
    own = [r for r in records if r["kind"] == "answer" and r["arm"] == arm and r["split"] == split and r["set"] in sets]
    return {(r["place"], r["set"], r["question"]): r["hit"] for r in own}  # steps come in order, so the last stays


def clusters(keys):
    """Questions are the units: seeds and models that answer the same one are drawn together."""
    return [f"{name if name == 'general' else place.split('/')[1] + name}/{question}" for place, name, question in keys]


def interval(values):
    return str(mean_interval(list(values.values()), clusters(values), 0)).split(" (")[0] if values else "–"


def paired(ours, theirs):
    keys = sorted(ours.keys() & theirs.keys())
    if not keys:
        return ""
    found = paired_difference([ours[k] for k in keys], [theirs[k] for k in keys], clusters(keys), seed=0)
    return f"{found.difference} p={found.p_value:.3f}"


def estimates(found):
    """The estimate of one place, or the spread over several."""
    if len(found) == 1:
        return f"{found[0]['value']:.2f} [{found[0]['low']:.2f}, {found[0]['high']:.2f}]"
    return spread([one["value"] for one in found]) if found else "–"


def spread(values):
    return f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["smollm2-135m", "gemma-3-270m"])
    parser.add_argument("--concepts", nargs="+", default=["honeybees", "ancient-egypt"], help="shipped names or packs")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--explain", action="store_true", help="which weights carry what relearning brings back to EMBER"
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if not args.table:
        carry_out(args)
    runs = sorted(path.parent for path in args.output.glob("*/run.json"))
    print(table([record for path in runs for record in read_run(path).results]))


def carry_out(args):
    size, arms = FULL, ARMS
    if args.quick:
        args.models, args.concepts, args.seeds = ["smollm2-135m"], ["honeybees"], [0]
        size, arms = QUICK, ("ember", "rmu", "ember+rmu")
    if args.explain:
        arms = ("explain",)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    for seed in args.seeds:
        for name in args.models:
            model = load(name, dtype="float32")
            for concept in args.concepts:
                pack = load_pack(concept)
                refuse_leaks(pack, allow=False)
                place = (
                    args.output
                    / f"{name.replace('/', '-')}--{pack.concept.replace(' ', '-')}--{seed}{'--explain' * args.explain}"
                )
                settings = size | {"arms": arms, "model": name, "concept": pack.concept, "seed": seed}
                inputs = {"model": model.hash, "pack": pack.sha256}
                with Run.open("experiments/ember", settings, place, inputs=inputs, resume=place.exists()) as run:
                    Setting(run, size, model, name, pack, seed).carry_out(arms)


if __name__ == "__main__":
    main()
