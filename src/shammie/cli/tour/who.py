"""Chapter: who the model is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shammie.cli.tour.context import TourContext
from shammie.report import Block, Chapter, Numbers, Prose, Table, interval_bars
from shammie.report.blocks import Figure

Record = dict[str, Any]


def measure(context: TourContext, _settings: object = None) -> Iterator[Record]:
    """The model's shape, where its parameters are, and every identity of its anatomy."""
    from shammie.core.doctor import check

    model, anatomy = context.model, context.model.anatomy
    layers = len(anatomy.layers)
    sparse = sum(anatomy.is_sparse(layer) for layer in range(layers))
    yield {
        "kind": "model",
        "name": model.name,
        "family": anatomy.model_type,
        "layers": layers,
        "width": anatomy.width,
        "neurons_a_layer": anatomy.neuron_count(0),
        "vocabulary": anatomy.vocabulary_size,
        "tied": anatomy.tied,
        "dtype": str(model.dtype).removeprefix("torch."),
        "sparse_layers": sparse,
        "weights": model.hash,
    }
    total = sum(parameter.numel() for parameter in model.module.parameters())
    for part, count in _parts(context).items():
        yield {"kind": "parameters", "part": part, "count": count, "share": count / total}
    for finding in check(model):
        yield {
            "kind": "identity", "name": finding.name, "says": finding.detail, "ok": finding.ok,
            "error": finding.error, "bound": finding.bound,
        }  # fmt: skip


def _parts(context: TourContext) -> dict[str, int]:
    anatomy = context.model.anatomy
    shared = {id(p) for p in anatomy.embedding.parameters()}
    parts = {"embeddings": sum(p.numel() for p in anatomy.embedding.parameters())}
    head = [p.numel() for p in anatomy.unembedding.parameters() if id(p) not in shared]
    if head:
        parts["unembedding"] = sum(head)
    parts["MLPs"] = parts["attention"] = 0
    for layer in anatomy.layers:
        mlps = ("mlp", "fc1", "fc2")
        for name, parameter in layer.named_parameters():
            if parameter.ndim > 1:
                parts["MLPs" if name.split(".")[0] in mlps else "attention"] += parameter.numel()
    parts["norms and biases"] = sum(p.numel() for p in context.model.module.parameters()) - sum(parts.values())
    return parts


def draw(records: list[Record]) -> list[Block]:
    """The shape in a sentence, the parameters as bars, the identities as a table."""
    (model,) = (r for r in records if r["kind"] == "model")
    parts = [r for r in records if r["kind"] == "parameters"]
    identities = [r for r in records if r["kind"] == "identity"]
    total = sum(r["count"] for r in parts)
    tied = (
        "one matrix serves as embedding and unembedding"
        if model["tied"]
        else "embedding and unembedding are two matrices"
    )
    held = sum(r["ok"] for r in identities)
    return [
        Prose(
            f"**{model['name']}** is a `{model['family']}` decoder of **{total / 1e6:,.0f} million** parameters: "
            f"{model['layers']} layers, a stream {model['width']} numbers wide, {model['neurons_a_layer']:,} neurons a layer, "
            f"{model['vocabulary']:,} tokens; {tied}."
        ),
        Figure(
            interval_bars(
                [(r["part"], r["share"]) for r in parts], value_label="share of all parameters", limits=(0, 1)
            ),
            "Where the parameters are",
        ),
        Numbers([(f"identities that hold on these weights, of {len(identities)}", held)]),
        Prose("Before anything below was measured. Errors are relative to the size of what is compared."),
        Table(
            ["identity", "what it says", "largest error", "bound", "holds"],
            [[r["name"], r["says"], f"{r['error']:.1e}", f"{r['bound']:.0e}", r["ok"]] for r in identities],
            "What shammie doctor proved",
        ),
    ]


CHAPTER = Chapter(
    "who", "Who the model is", "What is inside, and does what we read from it agree with what it computes?",
    "shammie tour --only who", measure, draw,
)  # fmt: skip
