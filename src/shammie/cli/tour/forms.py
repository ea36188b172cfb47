"""Chapter: how an answer forms from layer to layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from shammie.cli.tour.context import TourContext
from shammie.cli.tour.known import Known, known_facts
from shammie.report import Block, Chapter, Details, Figure, Numbers, Prose, heat_map, line_chart, number, sample

if TYPE_CHECKING:
    from torch import Tensor

Record = dict[str, Any]
_PICTURES = 3


def measure(context: TourContext, _settings: object = None) -> Iterator[Record]:
    """Logit lens over layers and positions for a few facts; the answer's rise at the last position over all of them."""
    facts = known_facts(context, context.size(24, 60))
    for fact in facts[:_PICTURES]:
        yield _picture(context, fact)
    yield from _rise(context, facts)


def _picture(context: TourContext, fact: Known) -> Record:
    from shammie.core.batch import make_batch
    from shammie.core.vocabulary import lens_log_probs, lens_top, token_text

    model = context.model
    batch = make_batch(model, [fact.prompt])
    states = _stream(context, [fact.prompt])[:, 0]  # [layers, T, D]
    top = lens_top(model, states.flatten(0, 1), k=1)
    shape = states.shape[:2]
    answers = top.ids.new_full((len(top.ids), 1), fact.token)
    answer = lens_log_probs(model, states.flatten(0, 1), answers).exp().view(shape)
    words = [text for (text,) in top.text(model)]
    width = shape[1]
    return {
        "kind": "lens", "subject": fact.country, "answer": fact.capital,
        "tokens": [token_text(model, int(token)) for token in batch.ids[0]],
        "top": [words[i * width : (i + 1) * width] for i in range(shape[0])],
        "top_probability": _rounded(top.scores.exp().view(shape)), "answer_probability": _rounded(answer),
    }  # fmt: skip


def _stream(context: TourContext, prompts: list[str]) -> Tensor:
    """The stream before layer 0 and after each layer [layers + 1, B, T, D]; every prompt must have as many tokens."""
    import torch

    from shammie.core.batch import make_batch
    from shammie.core.capture import capture
    from shammie.core.site import residual, residual_in

    sites = [residual_in(0), *(residual(layer) for layer in range(len(context.model.anatomy.layers)))]
    captured = capture(context.model, make_batch(context.model, prompts), sites)
    return torch.stack([captured[site] for site in sites])


def _rise(context: TourContext, facts: list[Known]) -> Iterator[Record]:
    """At the last position of every prompt: the answer, beside another fact's answer as its control."""
    import torch

    from shammie.core.batch import make_batch
    from shammie.core.capture import capture
    from shammie.core.position import LAST
    from shammie.core.site import residual, residual_in
    from shammie.core.stats import mean_interval
    from shammie.core.vocabulary import lens_log_probs, lens_ranks

    model = context.model
    sites = [residual_in(0), *(residual(layer) for layer in range(len(model.anatomy.layers)))]
    captured = capture(model, make_batch(model, [fact.prompt for fact in facts]), sites, positions=LAST)
    own = torch.tensor([fact.token for fact in facts])
    tokens = torch.stack([own, own.roll(1)], -1)
    settled = torch.full((len(facts), 2), len(sites) - 1)
    for layer, site in reversed(list(enumerate(sites))):
        ranks = lens_ranks(model, captured[site], tokens)
        settled = torch.where((ranks == 0) & (settled == layer), layer - 1, settled)
        probability = lens_log_probs(model, captured[site], tokens).exp()
        measured = {"answer": probability[:, 0], "control": probability[:, 1]}
        logarithms = (ranks + 1).double().log10()
        measured |= {"rank": logarithms[:, 0], "rank_control": logarithms[:, 1]}
        estimates = {
            name: mean_interval(v.double().tolist(), seed=context.seed).as_dict() for name, v in measured.items()
        }
        yield {"kind": "rise", "layer": layer - 1, **estimates}
    yield {
        "kind": "settled", "layers": len(sites) - 1,
        "from_layer": mean_interval(settled[:, 0].double().tolist(), seed=context.seed).as_dict(),
    }  # fmt: skip


def _rounded(values: Tensor) -> list[list[float]]:
    return [[round(float(value), 5) for value in row] for row in values]


def draw(records: list[Record]) -> list[Block]:
    """One heat map open, the others folded, and the answer's rise with its control."""
    pictures = [_heat_map(r) for r in records if r["kind"] == "lens"]
    rise = sorted((r for r in records if r["kind"] == "rise"), key=lambda r: r["layer"])
    (settled,) = (r for r in records if r["kind"] == "settled")
    last = rise[-1]
    series = {
        "the right capital": [sample(r["layer"], r["rank"]) for r in rise],
        "another capital": [sample(r["layer"], r["rank_control"]) for r in rise],
    }
    blocks: list[Block] = [
        Prose(
            "The final norm and the unembedding are put on the stream after every layer, as if the model ended there. "
            "Each cell shows the token it would say; the darker, the surer. The facts are ones that this model answers."
        ),
        *pictures[:1],
    ]
    if pictures[1:]:
        blocks.append(Details("More facts through the same lens", pictures[1:]))
    stays = f"layer (of {settled['layers']}) after which the answer stays first"
    surest = number("probability of the answer at the end", last["answer"], number("another capital", last["control"]))
    blocks.append(Numbers([number(stays, settled["from_layer"]), surest]))
    drawing = line_chart(
        series, x_label="after layer (-1: before the first)", y_label="tokens ranked ahead of it under the lens, as a power of ten",
        x_limits=(-1, last["layer"]), controls=("another capital",),
    )  # fmt: skip
    note = (
        "Mean over facts at the prompt's last token, with 95 % intervals over facts. 0 is the first place; the control is "
        "another fact's answer."
    )
    blocks.append(Figure(drawing, "The answer climbs to the first place", note))
    return blocks


def _heat_map(record: Record) -> Figure:
    rows = len(record["top"])
    labels = ["in", *(str(layer) for layer in range(rows - 1))]
    order = range(rows - 1, -1, -1)  # the last layer on top
    hits = [
        (i, j)
        for i, row in enumerate(order)
        for j, word in enumerate(record["top"][row])
        if _begins(record["answer"], word)
    ]
    drawing = heat_map(
        [record["top_probability"][row] for row in order], [labels[row] for row in order], record["tokens"],
        cell_text=[record["top"][row] for row in order], limits=(0, 1), row_title="after layer", column_title="at token",
        value_label="probability of the top token", highlight=hits, highlight_label=f"the answer, {record['answer']}",
    )  # fmt: skip
    return Figure(drawing, f"“The capital of {record['subject']} is …” through the logit lens")


def _begins(answer: str, word: str) -> bool:
    word = word.strip()
    return len(word) > 1 and answer.startswith(word)


CHAPTER = Chapter(
    "forms", "How an answer forms", "At which layer does the answer to a fact appear, and out of what?",
    "shammie tour --only forms", measure, draw,
)  # fmt: skip
