"""Chapter: three neurons opened into channels that a person can read, before and after one is removed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from shammie.report import Block, Chapter, Context, Figure, Numbers, Prose, Table, TextPair, interval_bars, number
from shammie.rotate.settings import Part, RotateSettings

if TYPE_CHECKING:
    from torch import Tensor

    from shammie.core.model import LanguageModel
    from shammie.rotate.channels import Channels
    from shammie.rotate.tokens import TokenSpace

Record = dict[str, Any]
_PART: Part = "out"
_OPENED = 3
_SHOWN = 8


def measure(context: Context) -> Iterator[Record]:
    """Fit the out rows of a late layer, open its three clearest neurons, and remove the first channel of each."""
    from shammie.core.vocabulary import token_text
    from shammie.rotate.fit import fit
    from shammie.rotate.fitting import layer_record
    from shammie.rotate.neurons import read_rows
    from shammie.rotate.tokens import token_space

    model: LanguageModel = context.model
    layer = round(0.85 * (len(model.anatomy.layers) - 1))
    count = min(context.size(160, 1000), model.anatomy.neuron_count(layer))
    settings = RotateSettings(
        channels=4, null_draws=context.size(100, 200) if context.limit is None else 20, seed=context.seed
    )
    channels = fit(model, layer, _PART, range(count), settings)
    yield layer_record(channels)
    rows, space = read_rows(model, layer, _PART), token_space(model, channels.matrix)
    texts = [token_text(model, token) for token in range(model.anatomy.vocabulary_size)]
    for row in _clearest(channels):
        yield from _opened(channels, row, rows[channels.neurons[row]], space, texts)
    yield _selectivity(channels, rows, space, context)


def _clearest(channels: Channels) -> list[int]:
    """Rows of the neurons whose first channel stands out most, no two of them about the same token."""
    chosen: dict[int, int] = {}
    for row in channels.evidence[:, 0].argsort(descending=True, stable=True).tolist():
        if not any(int(channels.tokens[row, 0, 0]) in channels.tokens[other, 0].tolist() for other in chosen.values()):
            chosen[len(chosen)] = row
        if len(chosen) == _OPENED:
            break
    return list(chosen.values())


def _opened(channels: Channels, row: int, w: Tensor, space: TokenSpace, texts: Sequence[str]) -> Iterator[Record]:
    """A neuron's channels, and the tokens its whole row points to with and without the first of them."""
    import torch

    from shammie.rotate.equations import remove

    neuron = channels.neurons[row]
    own = [record for record in channels.records(texts) if record["neuron"] == neuron]
    for record in own:
        yield {**record, "kind": "channel", "tokens": record["tokens"][:_SHOWN], "opposite": []}
    side = int(channels.side[row, 0])
    rows = torch.stack([w, remove(w, channels.vectors[row, 0].to(w))])
    before, after = space.nearest(side * rows, _SHOWN).tolist()
    removed = float(torch.cosine_similarity(w, channels.vectors[row, 0].to(w), dim=0)) ** 2
    yield {
        "kind": "neuron", "layer": channels.layer, "neuron": neuron, "side": side, "removed": removed,
        "before": [texts[token] for token in before], "after": [texts[token] for token in after],
    }  # fmt: skip


def _selectivity(channels: Channels, rows: Tensor, space: TokenSpace, context: Context) -> Record:
    """How much pull on each channel's tokens an ablation of the first channel takes, in shares of its pull on its own."""
    import torch

    from shammie.core.stats import mean_interval
    from shammie.rotate.equations import remove
    from shammie.rotate.evaluate import matched_direction

    generator = torch.Generator().manual_seed(context.seed)
    taken: dict[str, list[float]] = {"own": [], "others": [], "random": []}
    chosen = channels.significant[:, 0].nonzero()[:, 0].tolist() or [int(channels.evidence[:, 0].argmax())]
    for row in chosen:
        w, vector = rows[channels.neurons[row]], channels.vectors[row, 0]
        removed = w - torch.stack([remove(w, v) for v in (vector, matched_direction(w, vector, generator))])
        pulls = space.cosines(torch.cat([w[None], removed]))
        own, others = (pulls[:, ids].mean(-1) for ids in (channels.tokens[row, 0], channels.tokens[row, 1:].flatten()))
        for name, value in (("own", own[1]), ("others", others[1]), ("random", own[2])):
            taken[name].append(float(value / own[0]))
    shares = {name: mean_interval(values, None, context.seed).as_dict() for name, values in taken.items()}
    return {"kind": "ablation", "neurons": len(chosen), **(shares if len(chosen) > 1 else dict.fromkeys(taken))}


def draw(records: list[Record]) -> list[Block]:
    """What stands out from noise, the three neurons, and what an ablation takes."""
    layer = next(record for record in records if record["kind"] == "layer")
    blocks: list[Block] = [
        Prose(
            "A neuron's row of weights points at tokens, but at many things at once. It is taken apart into **channels**: "
            "clusters of tokens of which it holds far more than its layer does. Noise of the same shape goes through the "
            f"same search; only what noise does not reach counts. In layer {layer['layer']}, {layer['says']}."
        ),
        Numbers(
            [
                number(
                    "channels that stand out",
                    layer["significant"],
                    number("noise, held out", layer["null"]["significant"]),
                ),
                number(
                    "p at most 0.05",
                    layer["p_at_most_0.05"],
                    number("noise, held out", layer["null"]["p_at_most_0.05"]),
                ),
            ]
        ),
    ]
    for neuron in (record for record in records if record["kind"] == "neuron"):
        own = [r for r in records if r["kind"] == "channel" and r["neuron"] == neuron["neuron"]]
        verb = "Promotes" if neuron["side"] > 0 else "Holds down"
        rows = [
            [
                "promotes" if c["side"] > 0 else "holds down",
                ", ".join(c["tokens"]),
                c["evidence"],
                c["p_value"],
                c["significant"],
            ]
            for c in own
        ]
        caption = f"Neuron {neuron['neuron']} of layer {neuron['layer']}"
        blocks.append(Table(["does", "tokens", "evidence", "p", "stands out"], rows, caption))
        blocks.append(
            TextPair(
                " ".join(neuron["before"]), " ".join(neuron["after"]), "whole", "first channel removed",
                f"{verb} most, with {neuron['removed']:.0%} of its squared norm removed",
            )
        )  # fmt: skip
    ablation = next(record for record in records if record["kind"] == "ablation")
    if ablation["own"] is not None:
        bars = [
            number("its own tokens", ablation["own"], number("random direction of same cosine", ablation["random"])),
            number("its other channels' tokens", ablation["others"]),
        ]
        blocks.append(
            Figure(
                interval_bars(bars, value_label="pull that is taken, as a share of that on its own tokens"),
                "What a neuron loses when its first channel is removed",
                f"Means over {ablation['neurons']} neurons whose first channel stands out, with 95 % intervals. The control "
                "removes a random direction that has the same cosine to the neuron. Its own tokens are the nearest "
                "to what is removed, so they lose by construction; what the others lose is the measurement.",
            )
        )
    return blocks


CHAPTER = Chapter(
    "rotate", "What neurons are made of", "Can single neurons be read from their weights alone, and edited one meaning at a time?",
    "shammie tour --only rotate", measure, draw,
)  # fmt: skip
