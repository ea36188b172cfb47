"""Chapter: the same edit under padding, cache and batching, shown equal; and what a plain hook does instead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from shammie.cli.tour.context import TourContext
from shammie.report import Block, Chapter, Numbers, Prose, Table

if TYPE_CHECKING:
    from torch import Tensor

Record = dict[str, Any]
_PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a village at the foot of a mountain, there lived a",
    "Water boils at",
    "My favourite colour is blue, and my sister's favourite colour is",
)
_NEW_TOKENS = 12
_START, _STOP = 1, 4  # the tokens edited


def measure(context: TourContext, _settings: object = None) -> Iterator[Record]:
    """Log-probabilities of edited generations computed in several ways, against each prompt run alone and whole."""
    import torch

    from shammie.core.batch import encode
    from shammie.core.edit import add, edited
    from shammie.core.generate import GenerationSettings, generate
    from shammie.core.position import Span
    from shammie.core.site import residual

    model = context.model
    layer = len(model.anatomy.layers) // 2
    generator = torch.Generator().manual_seed(context.seed)
    vector = torch.randn(model.anatomy.width, generator=generator).to(model.device, model.dtype)
    vector *= _scale(context, layer)
    edit = add(residual(layer), vector, positions=Span(_START, _STOP))
    prompts = [encode(model, text) for text in _PROMPTS]
    settings = GenerationSettings(max_new_tokens=_NEW_TOKENS)
    with edited(model, [edit]):
        written = [list(c.tokens[:_NEW_TOKENS]) for c in generate(model, list(_PROMPTS), settings)]
    texts = [ids + new for ids, new in zip(prompts, written, strict=True)]
    with edited(model, [edit]):
        reference = _alone(context, texts)
        ways = {
            "padded batch, whole texts": _batched(context, texts),
            "one prompt, token by token under the cache": _cached(context, texts, together=False),
            "padded batch, token by token under the cache": _cached(context, texts, together=True),
        }
    ways["no edit (how much the edit does)"] = _alone(context, texts)
    handle = model.anatomy.layers[layer].register_forward_hook(_slot_hook(vector))
    try:
        ways["a plain hook on slots, token by token under the cache"] = _cached(context, texts, together=False)
        ways["a plain hook on slots, left-padded batch"] = _left_padded(context, texts)
    finally:
        handle.remove()
    for way, scores in ways.items():
        gap = max(float((a - b).abs().max()) for a, b in zip(scores, reference, strict=True))
        agree = sum(bool((a.argmax(-1) == b.argmax(-1)).all()) for a, b in zip(scores, reference, strict=True))
        yield {
            "kind": "way", "way": way, "ours": "hook" not in way and "no edit" not in way, "largest_difference": gap,
            "same_tokens": agree, "prompts": len(texts),
        }  # fmt: skip


def _slot_hook(vector: Tensor) -> Any:
    """What is usually written: slots 1 to 3 of whatever this forward pass holds."""

    def hook(_module: Any, _args: Any, output: Tensor) -> Tensor:
        changed = output.clone()
        changed[:, _START:_STOP] += vector
        return changed

    return hook


def _scale(context: TourContext, layer: int) -> float:
    from shammie.core.batch import make_batch
    from shammie.core.capture import capture
    from shammie.core.position import Span
    from shammie.core.site import residual

    batch = make_batch(context.model, list(_PROMPTS))
    state = capture(context.model, batch, [residual(layer)], positions=Span(_START))[residual(layer)]
    return float(state.float().std())


def _alone(context: TourContext, texts: list[list[int]]) -> list[Tensor]:
    return [scores for ids in texts for scores in _batched(context, [ids])]


def _batched(context: TourContext, texts: list[list[int]]) -> list[Tensor]:
    from shammie.core.batch import pad
    from shammie.core.capture import capture

    logits = capture(context.model, pad(texts, device=context.model.device), [], logits=True).logits
    assert logits is not None
    return [logits[i, len(ids) - _NEW_TOKENS - 1 : len(ids) - 1].float().log_softmax(-1) for i, ids in enumerate(texts)]


def _cached(context: TourContext, texts: list[list[int]], *, together: bool) -> list[Tensor]:
    """Prompt first, then one token a step, all rows in one batch or each in its own."""
    import torch

    from shammie.core.batch import pad
    from shammie.core.prefix import KeyValues, read

    model = context.model
    scores: list[Tensor] = []
    for group in [texts] if together else [[ids] for ids in texts]:
        heads = pad([ids[:-_NEW_TOKENS] for ids in group], device=model.device)
        past = KeyValues.empty(len(group), model.device)
        states = read(model, past, heads.ids, heads.mask, heads.row, heads.lengths)
        past = past.aligned()
        last = states[torch.arange(len(group), device=model.device), heads.lengths - 1]
        steps = [last]
        for step in range(_NEW_TOKENS - 1):
            tokens = torch.tensor([[ids[len(ids) - _NEW_TOKENS + step]] for ids in group], device=model.device)
            steps.append(read(model, past, tokens, None, heads.row, heads.lengths)[:, 0])
        with torch.no_grad():
            scores.extend(model.anatomy.unembed(torch.stack(steps, 1)).float().log_softmax(-1))
    return scores


def _left_padded(context: TourContext, texts: list[list[int]]) -> list[Tensor]:
    import torch

    model, longest = context.model, max(map(len, texts))
    ids = torch.tensor([[0] * (longest - len(t)) + t for t in texts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(t)) + [1] * len(t) for t in texts], device=model.device)
    position = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model.module(input_ids=ids, attention_mask=mask, position_ids=position).logits
    return list(logits.float().log_softmax(-1)[:, -_NEW_TOKENS - 1 : -1])


def draw(records: list[Record]) -> list[Block]:
    """The largest error of our ways beside the plain hook's, and every way in a table."""
    ours = max(r["largest_difference"] for r in records if r["ours"])
    plain = max(r["largest_difference"] for r in records if "plain hook" in r["way"])
    return [
        Prose(
            f"A vector is added at tokens {_START} to {_STOP - 1} of each prompt, mid-model. The reference runs every prompt alone "
            "and whole. An edit means the same tokens in every other way of running it; a hook on slots does not."
        ),
        Numbers([("largest difference of a log-probability", ours, None, None, records[0]["prompts"],
                  ("a plain hook on slots", plain, None, None, records[0]["prompts"]))]),
        Table(
            ["how it was run", "largest difference", "prompts that continue the same"],
            [[r["way"], f"{r['largest_difference']:.1e}", f"{r['same_tokens']} of {r['prompts']}"] for r in records],
            f"Log-probabilities of {_NEW_TOKENS} generated tokens against each prompt alone and whole.",
        ),
    ]  # fmt: skip


CHAPTER = Chapter(
    "exact", "The same, however it is run", "Does an edit mean the same with padding, batching and a cache?",
    "shammie tour --only exact", measure, draw,
)  # fmt: skip
