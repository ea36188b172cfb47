"""The core beside plain transformers and beside TransformerLens' bridge, on SmolLM2-135M in float32.

    python benchmarks/core.py [--only capture peer score generate load] [--json FILE] [--markdown benchmarks/README.md]

One line a target; exits 1 when one is short, when both sides do not compute the same, or when one could not be measured.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import common
import torch
from common import Line, Run

from shammie.core.batch import Batch, encode, pad
from shammie.core.capture import capture
from shammie.core.generate import GenerationSettings, generate
from shammie.core.model import LanguageModel, load
from shammie.core.score import score_tokens
from shammie.core.site import Site, embedding, residual

MODEL = "smollm2-135m"
GROUPS = ("capture", "peer", "score", "generate", "load")
KINDS = ("residual_in", "attention_out", "mlp_in", "neurons", "mlp_out", "residual")
# The same states in TransformerLens' words, for a comparison state by state.
PEER_KINDS = (
    "hook_resid_pre", "hook_attn_out", "mlp.hook_in", "mlp.out.hook_in", "hook_mlp_out", "hook_resid_post",
)  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """How much work each side does."""

    lengths: tuple[int, ...] = (64, 73, 82, 91, 101, 110, 119, 128)  # tokens of the captured prompts
    prompts: int = 200
    prefix: int = 200
    sample: int = 10  # prompts of the naive sides, whose times count `prompts / sample` times
    rows: int = 10  # of one padded batch with its logits
    batch: int = 32
    new_tokens: int = 64
    sampled_tokens: int = 16


QUICK = Sizes(lengths=(12, 16), prompts=24, prefix=40, sample=6, rows=6, batch=4, new_tokens=8, sampled_tokens=4)


# -- input -----------------------------------------------------------------------------------------------------------

WHO = "The old baker|A young sailor|Our teacher|My neighbour|Every farmer|Nobody|Some engineers|Her uncle|This nurse|Two painters"
DID = "walked to|waited near|wrote about|remembered|sold bread at|dreamed of|drew a map of|sang in|hurried past|cleaned"
WHERE = "the harbour|a quiet library|the northern gate|an empty theatre|the river bank|the market hall|a stone bridge|the station"
WHEN = (
    "before sunrise|during the storm|on the last day of spring|without a word|while the children slept|for many years"
)


def sentence(draw: random.Random) -> str:
    return " ".join(draw.choice(words.split("|")) for words in (WHO, DID, WHERE, WHEN)) + "."


def text_ids(model: LanguageModel, tokens: int, seed: int) -> list[int]:
    """So many tokens of made-up English."""
    draw = random.Random(seed)
    text = " ".join(sentence(draw) for _ in range(tokens // 8 + 2))
    return encode(model, text)[:tokens]


def captured_batch(model: LanguageModel, sizes: Sizes) -> Batch:
    return pad([text_ids(model, length, seed) for seed, length in enumerate(sizes.lengths)], device=model.device)


def scored_pairs(model: LanguageModel, sizes: Sizes) -> list[tuple[list[int], list[int]]]:
    """Prompts that share their first `prefix` tokens, then ask a question of their own, each with an answer."""
    shared, pairs = text_ids(model, sizes.prefix, seed=99), []
    for index in range(sizes.prompts):
        draw = random.Random(1000 + index)
        who, did, where = (draw.choice(words.split("|")) for words in (WHO, DID, WHERE))
        question, answer = f" {who} {did} {where}. Where was that? At", f" {where}"
        pairs.append((shared + encode(model, question), encode(model, answer)))
    return pairs


def generation_prompts(sizes: Sizes) -> list[str]:
    """Texts of unlike length, from about 10 to 50 tokens."""
    prompts = []
    for index in range(sizes.batch):
        draw = random.Random(2000 + index)
        prompts.append(" ".join(sentence(draw) for _ in range(1 + index % 4)) + " " + draw.choice(WHO.split("|")))
    return prompts


# -- sides: what is timed, and what is run once for its peak memory --------------------------------------------------


def capture_sides(model: LanguageModel, sizes: Sizes) -> tuple[dict[str, Run], list[Any]]:
    batch, layers = captured_batch(model, sizes), range(len(model.anatomy.layers))
    inputs, middle = batch.inputs(), len(layers) // 2 - 1  # half of the layers are run

    def plain() -> object:
        with torch.no_grad():
            return model.module(**inputs).logits

    def bare() -> object:
        """What one writes by hand for one state: a hook that keeps it and ends the forward pass."""
        kept = []

        def hook(_module: object, _args: object, output: object) -> None:
            kept.append(output)
            raise StopIteration

        handle = model.anatomy.layers[middle].register_forward_hook(hook)
        with torch.no_grad(), contextlib.suppress(StopIteration):
            model.module(**inputs)
        handle.remove()
        return kept

    def sites(*chosen: Site) -> Run:
        return lambda: capture(model, batch, chosen)

    every = [embedding(), *(Site(kind, layer) for layer in layers for kind in KINDS)]
    return {
        "plain": plain,
        "bare": bare,
        "middle": sites(residual(middle)),
        "residuals": sites(*map(residual, layers)),
        "every": sites(*every),
    }, [model.module]


def peer_sides(model: LanguageModel, sizes: Sizes) -> tuple[dict[str, Run], list[Any]]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        from transformer_lens.model_bridge import TransformerBridge

        bridge = TransformerBridge.boot_transformers(str(model.source), device="cpu", dtype=torch.float32)
    bridge.eval()
    batch, layers = captured_batch(model, sizes), range(len(model.anatomy.layers))
    kept = {"attention_mask": batch.mask, "position_ids": batch.frame.position}

    def run(**options: Any) -> Any:
        with torch.no_grad():
            return bridge.run_with_cache(batch.ids, **kept, **options)[1]

    def full() -> Any:
        """With the hook points that are switched off by default, such as each head's result."""
        bridge.set_use_attn_result(True)
        bridge.set_use_split_qkv_input(True)
        bridge.set_use_hook_mlp_in(True)
        try:
            return run()
        finally:
            bridge.set_use_attn_result(False)
            bridge.set_use_split_qkv_input(False)
            bridge.set_use_hook_mlp_in(False)

    residuals = [f"blocks.{layer}.hook_resid_post" for layer in layers]
    same = ["hook_embed", *(f"blocks.{layer}.{kind}" for layer in layers for kind in PEER_KINDS)]
    middle = len(layers) // 2 - 1
    return {
        "peer_middle": lambda: run(names_filter=residuals[middle], stop_at_layer=middle + 1),
        "peer_residuals": lambda: run(names_filter=residuals),
        "peer_every": lambda: run(),
        "peer_same": lambda: run(names_filter=same),
        "peer_full": full,
    }, [model.module, bridge.original_model]


def score_sides(model: LanguageModel, sizes: Sizes) -> tuple[dict[str, Run], list[Any]]:
    pairs = scored_pairs(model, sizes)
    sample = [pairs[index * sizes.prompts // sizes.sample] for index in range(sizes.sample)]

    def log_probs(batch: list[tuple[list[int], list[int]]]) -> list[list[float]]:
        """What a user of transformers writes: one padded batch, its logits, and the answers picked out."""
        padded, found = pad([prompt + answer for prompt, answer in batch], device=model.device), []
        with torch.no_grad():
            logits = model.module(**padded.inputs(), use_cache=False).logits
        for row, (prompt, answer) in enumerate(batch):
            wanted = logits[row, len(prompt) - 1 : len(prompt) + len(answer) - 1].log_softmax(-1)
            found.append(wanted.gather(-1, torch.tensor(answer)[:, None])[:, 0].tolist())
        return found

    return {
        "shared": lambda: score_tokens(model, pairs),
        "one_by_one": lambda: [log_probs([pair])[0] for pair in sample],
        "padded": lambda: [
            row for start in range(0, len(sample), sizes.rows) for row in log_probs(sample[start : start + sizes.rows])
        ],
    }, [model.module]


def generate_sides(model: LanguageModel, sizes: Sizes) -> tuple[dict[str, Run], list[Any]]:
    prompts = generation_prompts(sizes)
    encoded = [encode(model, prompt) for prompt in prompts]
    longest = max(map(len, encoded))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in encoded])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in encoded])

    def ours(settings: GenerationSettings) -> Run:
        def run() -> object:
            with endless(model):
                return [done.tokens for done in generate(model, prompts, settings, rows=sizes.batch)]

        return run

    def theirs(**options: Any) -> Run:
        def run() -> object:
            with endless(model), torch.no_grad():
                made = model.module.generate(input_ids=ids, attention_mask=mask, pad_token_id=0, **options)
            return [tuple(row) for row in made[:, longest:].tolist()]

        return run

    torch.manual_seed(0)
    return {
        "ours_greedy": ours(GenerationSettings(max_new_tokens=sizes.new_tokens)),
        "theirs_greedy": theirs(max_new_tokens=sizes.new_tokens, do_sample=False),
        "ours_sampled": ours(GenerationSettings(max_new_tokens=sizes.sampled_tokens, temperature=1.0)),
        "theirs_sampled": theirs(
            max_new_tokens=sizes.sampled_tokens, do_sample=True, temperature=1.0, top_k=0, top_p=1.0
        ),
    }, [model.module]


@contextlib.contextmanager
def endless(model: LanguageModel) -> Iterator[None]:
    """No token ends a text, on either side, so that both write as many tokens as they may."""
    config, tokenizer = model.module.generation_config, model.tokenizer
    kept = config.eos_token_id, tokenizer.eos_token
    config.eos_token_id, tokenizer.eos_token = None, None
    try:
        yield
    finally:
        config.eos_token_id, tokenizer.eos_token = kept


PEAK_GROUPS = {
    "capture": ("plain", "bare", "middle", "residuals", "every"),
    "peer": ("peer_middle", "peer_residuals", "peer_every", "peer_same", "peer_full"),
    "score": ("shared", "one_by_one", "padded"),
    "generate": ("ours_greedy", "theirs_greedy", "ours_sampled", "theirs_sampled"),
}
SIDES = {"capture": capture_sides, "peer": peer_sides, "score": score_sides, "generate": generate_sides}


# -- groups: what is compared ----------------------------------------------------------------------------------------


def measure_captures(report: common.Report, model: LanguageModel, sizes: Sizes, groups: list[str]) -> None:
    """Captures beside the plain forward and beside the peer, all in the same rounds."""
    sides, _ = capture_sides(model, sizes)
    peer = "peer" in groups and importlib.util.find_spec("transformer_lens") is not None
    if peer:
        theirs, _ = peer_sides(model, sizes)
        check_peer(report, model, sides, theirs)
        sides |= theirs
    check_captures(report, model, sizes, sides)
    seconds = common.interleaved(sides, 2 * report.args.repeats, label="capture")  # cheap, and some goals are near
    peaks = find_peaks(report, list(sides))

    def line(name: str, side: str, other: str, goal: float | None, note: str = "") -> Line:
        times = {side: seconds[side], other: seconds[other]}
        measured = common.ratio(seconds[side], seconds[other])
        return Line(name, measured, goal, "x", note, peaks.get(side), peaks.get(other), times)

    if "capture" in groups:
        report.add(
            line("capture one mid residual / plain forward with logits", "middle", "plain", 0.40),
            line("capture all residuals / plain forward with logits", "residuals", "plain", 0.90),
            line("capture every site of every kind / plain forward with logits", "every", "plain", 1.15),
            line("capture one mid residual / a bare hook that stops the forward", "middle", "bare", None),
        )
    compared = (
        ("one mid residual, each with its early stop / TransformerLens", "middle", "peer_middle", 1.0, ""),
        ("all residuals / TransformerLens", "residuals", "peer_residuals", 0.8, ""),
        (
            "everything / TransformerLens",
            "every",
            "peer_every",
            0.5,
            "no names_filter: it also keeps queries, patterns and more",
        ),
        ("every site of every kind / TransformerLens asked for the same states", "every", "peer_same", None, ""),
        ("everything / TransformerLens with all its optional hook points on", "every", "peer_full", None, ""),
    )
    if peer:
        report.add(*(line(*row) for row in compared))
        report.add(
            *(
                line(f"TransformerLens, {what} / plain forward with logits", f"peer_{side}", "plain", None)
                for what, side in (
                    ("mid residual", "middle"),
                    ("all residuals", "residuals"),
                    ("everything", "every"),
                    ("all its optional hook points on", "full"),
                )
            )
        )
    elif "peer" in groups:
        missing = "transformer_lens is not installed: pip install 'shammie[bench]'"
        report.add(*(Line(name, None, goal, note=missing) for name, _, _, goal, _ in compared if goal))


def check_captures(report: common.Report, model: LanguageModel, sizes: Sizes, sides: dict[str, Run]) -> None:
    """Our residuals are the hidden states that transformers itself returns."""
    batch, last = captured_batch(model, sizes), len(model.anatomy.layers) - 1
    with torch.no_grad():
        hidden = model.module.model(**batch.inputs(), use_cache=False, output_hidden_states=True).hidden_states
    states = sides["residuals"]().states  # type: ignore[attr-defined]
    real = batch.mask.bool()
    worst = max(
        relative(states[residual(layer)][real], hidden[layer + 1][real]) for layer in range(last)
    )  # the last hidden state is normed
    report.check("captured residuals are transformers' hidden states (largest relative difference)", worst, 1e-5)


def check_peer(report: common.Report, model: LanguageModel, ours: dict[str, Run], theirs: dict[str, Run]) -> None:
    """Both sides hold the same states, so that they are compared over the same weights and tokens."""
    states, cache, worst = ours["every"]().states, theirs["peer_same"](), 0.0  # type: ignore[attr-defined]
    for layer in range(len(model.anatomy.layers)):
        for kind, name in zip(KINDS, PEER_KINDS, strict=True):
            state = states[Site(kind, layer)][:, : min(12, len(states))]  # real tokens of every prompt
            worst = max(worst, relative(cache[f"blocks.{layer}.{name}"][:, : state.shape[1]], state))
    report.check("TransformerLens caches the same states (largest relative difference)", worst, 1e-3)


def relative(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).abs().max() / right.abs().max())


def measure_scores(report: common.Report, model: LanguageModel, sizes: Sizes) -> None:
    sides, _ = score_sides(model, sizes)
    ours, single = sides["shared"](), sides["one_by_one"]()
    chosen = [ours[index * sizes.prompts // sizes.sample] for index in range(sizes.sample)]  # type: ignore[index]
    worst = max(
        abs(a - b)
        for scored, row in zip(chosen, single, strict=True)  # type: ignore[call-overload]
        for a, b in zip([*scored.token_log_probabilities, scored.log_probability], [*row, sum(row)], strict=True)
    )
    report.check("scores are those of one forward pass each (largest difference, token and total)", worst, 1e-4)
    seconds = common.interleaved(sides, report.args.repeats, label="score")
    peaks = find_peaks(report, list(sides))
    scale = sizes.prompts / sizes.sample
    note = f"the other side on a fixed {sizes.sample} of them, times {scale:g}"
    for name, other, goal in (
        (f"score {sizes.prompts} prompts that share {sizes.prefix} tokens / one by one", "one_by_one", 0.12),
        (f"the same / padded batches of {sizes.rows}", "padded", None),
    ):
        times = {"shared": seconds["shared"], other: seconds[other]}
        measured = common.ratio(seconds["shared"], seconds[other], scale=scale)
        report.add(Line(name, measured, goal, "x", note, peaks.get("shared"), peaks.get(other), times))


def measure_generation(report: common.Report, model: LanguageModel, sizes: Sizes) -> None:
    sides, _ = generate_sides(model, sizes)
    greedy, other = sides["ours_greedy"](), sides["theirs_greedy"]()
    pairs = list(zip(greedy, other, strict=True))  # type: ignore[call-overload]
    assert all(len(a) == len(b) == sizes.new_tokens for a, b in pairs), "a side ended early"
    report.check("greedy completions that differ from model.generate's", sum(a != b for a, b in pairs), 0)
    peaks = find_peaks(report, ["ours_greedy", "theirs_greedy"])
    for kind, tokens, goal in (("greedy", sizes.new_tokens, 1.0), ("sampled", sizes.sampled_tokens, None)):
        both = {f"{who}_{kind}": sides[f"{who}_{kind}"] for who in ("ours", "theirs")}
        seconds = common.interleaved(both, report.args.repeats, label=f"generate {kind}")
        ours, theirs = both
        measured = common.ratio(seconds[ours], seconds[theirs])
        name = f"generate {sizes.batch} x {tokens} tokens, {kind} / model.generate"
        report.add(Line(name, measured, goal, "x", "", peaks.get(ours), peaks.get(theirs), seconds))


LOAD = """
import json, time
from shammie.core.model import load
start = time.perf_counter()
load("{model}")
print(json.dumps(time.perf_counter() - start))
"""


def measure_load(report: common.Report) -> None:
    """Loading again what was converted before, in fresh processes that have done their imports."""
    seconds = []
    for _ in range(report.args.repeats + 1):
        done = subprocess.run(
            [sys.executable, "-c", LOAD.format(model=MODEL)], capture_output=True, text=True, check=True
        )
        seconds.append(json.loads(done.stdout.splitlines()[-1]))
    report.add(
        Line(
            "second load of SmolLM2, imports apart",
            common.median(seconds[1:]),
            3.0,
            "s",
            "",
            seconds={"load": seconds[1:]},
        )
    )


def find_peaks(report: common.Report, sides: list[str]) -> dict[str, float | None]:
    if report.args.no_memory:
        return {}
    common.progress("peak memory")
    return common.peaks(__file__, sides, ["--quick"] if report.args.quick else [])


def main() -> int:
    parser = common.arguments(__doc__.splitlines()[0], GROUPS)
    parser.add_argument("--without-peer", action="store_true", help="TransformerLens' lines may stay unmeasured")
    args = parser.parse_args()
    sizes = QUICK if args.quick else Sizes()
    if args.peak:
        model = load(MODEL, dtype="float32")
        group = next(group for group, names in PEAK_GROUPS.items() if args.peak in names)
        sides, modules = SIDES[group](model, sizes)
        common.print_peak(sides[args.peak], modules)
        return 0
    settings = {"model": MODEL, "dtype": "float32", **vars(sizes)}
    report = common.Report("core", args, settings)
    model = load(MODEL, dtype="float32")
    if {"capture", "peer"} & set(args.only):
        measure_captures(report, model, sizes, args.only)
    if "score" in args.only:
        measure_scores(report, model, sizes)
    if "generate" in args.only:
        measure_generation(report, model, sizes)
    if "load" in args.only:
        measure_load(report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
