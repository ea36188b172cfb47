"""EMBER beside the direct way: factorization of an embedding slice, and one whole erasure beside plain forward passes.

    python benchmarks/ember.py                     # a line a target, exit 1 when one is short
    python benchmarks/ember.py --json ember.json   # every figure
    python benchmarks/ember.py --quick             # does it run?

The slice holds the tokens of both shipped packs, filled up to 4,000 with the lowest other ids of SmolLM2-135M. The direct side
is the published recipe as it stands: normal start of both factors, dense products, an explicit residual, stopped after
500 iterations without an absolute gain of 1e-4. The forward passes are `module(**inputs)` over the sentences of a pack, sixteen
at a time and sorted by length, with all logits and without gradients; one pass is timed and counted forty times.
"""

import math
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from common import Line, Measured, Report, arguments, interleaved, median, ratio
from transformers import AutoModelForCausalLM

from shammie.core.batch import encode, pad
from shammie.core.model import load
from shammie.core.run import Run
from shammie.core.vocabulary import token_vectors
from shammie.ember.config import EmberErase
from shammie.ember.edit import find_directions
from shammie.ember.erase import Erasure
from shammie.ember.factorization import factorize
from shammie.ember.features import score_features
from shammie.ember.measure import Bench
from shammie.ember.pack import load_pack
from shammie.ember.settings import EmberSettings, FeatureSettings
from shammie.ember.vocabulary import TokenSlice, token_slice

GROUPS = ("factorize", "erase", "grid")
TOKENS, PASSES = 4000, 40


def direct(rows, features, share, seed, iterations=20_000, patience=500):
    """The alternating updates as published; returns F, G and the explained variance of the best iteration."""
    draw = torch.Generator().manual_seed(seed)
    a = rows.T
    tokens = rows.shape[0]
    f = torch.randn(a.shape[0], features, generator=draw)
    g = torch.randn(tokens, features, generator=draw)
    identity, keep = torch.eye(features), math.ceil(share * tokens)
    best, waited = (math.inf, f, g), 0
    for _ in range(iterations):
        f = torch.linalg.solve(g.T @ g + 1e-4 * identity, (a @ g).T).T
        norms = g.norm(dim=0).clamp(min=1e-12)
        g, f = g / norms, f * norms
        g = torch.linalg.solve(f.T @ f + 1e-4 * identity, (a.T @ f).T).T
        least = g.abs().topk(keep, dim=0).values[-1]
        g = g * (g.abs() >= least)
        loss = float((a - f @ g.T).square().sum())
        waited += 1
        if loss < best[0] - 1e-4:
            best, waited = (loss, f, g), 0
        if waited >= patience:
            break
    loss, f, g = best
    return f, g, 1 - loss / float(a.square().sum())


def slice_of(model):
    """Token counts of both packs' sentences, filled up with tokens that count as shared."""
    concept, neutral = [], []
    for name in ("honeybees", "ancient-egypt"):
        pack = load_pack(name)
        concept += [*pack.concept_sentences, *pack.relearning]
        neutral += [*pack.neutral_sentences, *pack.coherence.validation, *pack.coherence.test]
    own = token_slice(model, concept, neutral)
    special, used = set(model.tokenizer.all_special_ids), set(own.ids.tolist())
    fill = [i for i in range(model.anatomy.vocabulary_size) if i not in used | special][: TOKENS - len(used)]
    order = torch.cat([own.ids, torch.tensor(fill, dtype=torch.long)]).argsort()

    def with_ones(counts):
        return torch.cat([counts, torch.ones(len(fill))])[order]

    ids = torch.cat([own.ids, torch.tensor(fill, dtype=torch.long)])[order]
    return TokenSlice(ids, with_ones(own.ours), with_ones(own.theirs))


def edited(g, vocabulary):
    """The tokens that a factorization would edit."""
    passed = score_features(g, vocabulary, FeatureSettings()).passed
    return set((vocabulary.concept_only & (g[:, passed] != 0).any(1)).nonzero()[:, 0].tolist())


def jaccard(one, other):
    return len(one & other) / len(one | other) if one | other else 1.0


def measure_factorize(report, args):
    model = load("smollm2-135m", dtype="float32")
    vocabulary = slice_of(model)
    rows = token_vectors(model, vocabulary.ids, "input")
    ember = EmberSettings()
    settings = ember.factorization
    limit = {"iterations": 5} if args.quick else {}
    direct_times, directs = [], []
    for seed in range(3):  # over half a minute each: once a seed
        start = time.perf_counter()
        directs.append(direct(rows, settings.features, settings.share, seed, **limit))
        direct_times.append(time.perf_counter() - start)

    def pool(seed):
        return [factorize(rows, settings, seed * ember.factorizations + i) for i in range(ember.factorizations)]

    times = interleaved({f"seed {seed}": lambda seed=seed: pool(seed) for seed in range(3)}, args.repeats)
    own_times = [sorted(seconds)[len(seconds) // 2] for seconds in times.values()]
    pools = [pool(seed) for seed in range(3)]
    note = f"{len(rows)} tokens, K={settings.features}; {len(pool(0))} in {own_times[0]:.2f} s, direct {direct_times[0]:.1f} s"
    report.add(Line("factorizations over direct updates", ratio(own_times, direct_times), 1 / 20, note=note))
    theirs, ours = mean([d[2] for d in directs]), mean([found.explained for part in pools for found in part])
    report.check(f"explained variance {ours:.4f}, direct {theirs:.4f}: direct less ours", theirs - ours, 0.0)
    sets = [edited(g, vocabulary) for _, g, _ in directs]
    mine = [voted([edited(found.loadings, vocabulary) for found in part], ember.votes) for part in pools]
    among = mean([jaccard(a, b) for i, a in enumerate(sets) for b in sets[:i]])
    across = mean([jaccard(a, b) for a in mine for b in sets])
    among_mine = mean([jaccard(a, b) for i, a in enumerate(mine) for b in mine[:i]])
    name = f"edited tokens' Jaccard: ours to direct {across:.3f}, direct seeds {among:.3f}, our seeds {among_mine:.3f}"
    report.check(f"{name}: shortfall", among - across, 0.0)


def mean(values):
    return sum(values) / len(values)


def voted(sets, votes):
    """The tokens that this share of the factorizations edits."""
    counts = Counter(token for own in sets for token in own)
    return {token for token, count in counts.items() if count >= votes * len(sets)}


def measure_erase(report, args):
    model = load("smollm2-135m" if args.quick else "gemma-3-270m", dtype="float32")
    pack = load_pack("honeybees")
    sequences = sorted((encode(model, text) for text in (*pack.concept_sentences, *pack.neutral_sentences)), key=len)
    batches = [pad(sequences[i : i + 16]) for i in range(0, len(sequences), 16)]

    def one_pass():
        with torch.no_grad():
            for batch in batches:
                model.module(**batch.inputs())

    def whole():
        deltas = EmberErase.deltas[:2] if args.quick else EmberErase.deltas
        bench = Bench(model, pack, ("choice",), 0, 4 if args.quick else None)
        with tempfile.TemporaryDirectory() as place, Run.open("benchmark", {}, Path(place) / "run") as run:
            Erasure(bench, EmberSettings(), deltas, "input", None, 1, 0, run, resume=False).carry_out()

    passes = interleaved({"pass": one_pass}, 3)["pass"]
    start = time.perf_counter()
    whole()
    taken = time.perf_counter() - start
    found = median(passes)
    note = f"{model.name}: erasure {taken:.0f} s, {PASSES} passes {PASSES * found.value:.0f} s, {len(EmberErase.deltas)} strengths"
    low, high = taken / (PASSES * found.high), taken / (PASSES * found.low)
    report.add(
        Line(
            "whole erasure over 40 forward passes",
            Measured(taken / (PASSES * found.value), low, high, len(passes)),
            1.0,
            note=note,
        )
    )


def measure_grid(report, args):
    model = load("smollm2-135m", dtype="float32")
    directions = find_directions(model, load_pack("honeybees"), EmberSettings(), 0)
    patches = [directions.patch(model, delta) for delta in (0.5 * (1 + i) for i in range(8 if args.quick else 144))]

    def grid():
        for patch in patches:
            with patch.applied(model):
                pass

    loads = []
    original = AutoModelForCausalLM.from_pretrained
    AutoModelForCausalLM.from_pretrained = lambda *args, **options: loads.append(args) or original(*args, **options)
    try:
        seconds = interleaved({"grid": grid}, args.repeats)["grid"]
    finally:
        AutoModelForCausalLM.from_pretrained = original
    report.add(
        Line(
            "144 cells applied and taken back",
            median(seconds),
            unit="s",
            note="of which untying copies the output matrix",
        )
    )
    report.check(f"models loaded meanwhile for {len(patches)} cells", len(loads), 0)


def main():
    args = arguments(__doc__, GROUPS).parse_args()
    torch.set_num_threads(1)
    report = Report("ember", args, {"threads": 1, "repeats": args.repeats})
    for name in args.only:
        globals()[f"measure_{name}"](report, args)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
