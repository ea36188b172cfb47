"""The page of a fit: how much of each layer stands out from noise, and the channels that do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shammie.report import (
    Block,
    Details,
    Figure,
    Number,
    Numbers,
    Prose,
    Section,
    Table,
    interval_bars,
    number,
    render_page,
)

if TYPE_CHECKING:
    from shammie.core.run import RunRecord

_LISTED = 40
Record = dict[str, Any]


def fit_page(record: RunRecord) -> str:
    """Draw the page from the records alone."""
    layers = [result for result in record.results if result.get("kind") == "layer"]
    channels = [result for result in record.results if result.get("kind") == "channel"]
    facts = [("model", str(record.config["model"])), ("weights", str(record.inputs["model"])[:12])]
    facts += [("solver", str(record.config["settings"]["solver"])), ("recipe", str(record.config["recipe"] or "none"))]
    question = "Which directions of these neurons' weights say something that noise of the same size does not?"
    section = Section("channels", "Channels of neurons", question, "shammie rotate fit", draw_layers(layers, channels))
    return render_page(
        f"Neurons of {record.config['model']}", "Read from the weights alone; the model was never run.", facts, [section],
        footer="Every channel stands in results.jsonl, those that noise reaches too.", eyebrow="shammie rotate fit",
    )  # fmt: skip


def draw_layers(layers: list[Record], channels: list[Record]) -> list[Block]:
    """Shares that stand out with their null, and the strongest channels."""
    if not layers:
        return [Prose("No layer is finished yet.")]
    bars = [number(_name(layer), layer["significant"], _control(layer)) for layer in layers]
    highest = min(1.0, 1.2 * max(layer["significant"]["high"] for layer in layers))
    blocks: list[Block] = [
        Figure(
            interval_bars(bars, value_label="share of channels that stand out", limits=(0.0, highest)),
            "Channels that stand out from noise",
            "Discoveries at a false-discovery rate of 0.05 against Gaussian and covariance-matched noise rows that went "
            "through the same search; beside each, the same share for noise rows held out.",
        )
    ]
    if len(layers) == 1:
        blocks = [Numbers([bars[0], number("channels with p at most 0.05", layers[0]["p_at_most_0.05"])])]
    blocks.append(Prose("\n\n".join(f"**{_name(layer)}**: {layer['says']}." for layer in layers)))
    standing = sorted((c for c in channels if c["significant"]), key=lambda c: -c["evidence"])
    rest = sorted((c for c in channels if not c["significant"]), key=lambda c: -c["evidence"])
    blocks.append(
        _table(standing[:_LISTED], f"The strongest {min(_LISTED, len(standing))} of {len(standing)} that stand out.")
    )
    if rest:
        blocks.append(Details("Channels that noise reaches too", [_table(rest[:_LISTED], "Read these as noise.")]))
    return blocks


def _name(layer: Record) -> str:
    return f"layer {layer['layer']} {layer['part']}"


def _control(layer: Record) -> Number:
    return number("noise", layer["null"]["significant"])


def _table(channels: list[Record], caption: str) -> Table:
    rows = [
        [
            f"{c['layer']} {c['part']}", c["neuron"], "+" if c["side"] > 0 else "−", ", ".join(map(repr, c["tokens"][:8])),
            c["evidence"], c["p_value"], c["kurtosis"], c["cosine"],
        ]
        for c in channels
    ]  # fmt: skip
    return Table(["layer", "neuron", "side", "tokens", "evidence", "p", "kurtosis", "cosine to w"], rows, caption)
