"""The tour's chapter: what the states hold while the model is told something that it knows to be otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from shammie.beliefs.page import intervene_blocks, map_figure
from shammie.report import Block, Chapter, Context, Figure, Prose, Table, TextPair, interval_bars, number, of_kind

if TYPE_CHECKING:
    from shammie.beliefs.data import Case

Record = dict[str, Any]
FRAMES = ("none", "neutral", "non-credible")
_CASES = 12


def measure(context: Context, _settings: object = None) -> Iterator[Record]:
    """Capitals that the model knows, each with a false claim from two sources; then the other belief put into the states."""
    from shammie.beliefs.ask import Asker
    from shammie.beliefs.data import load_cases
    from shammie.beliefs.evaluate import frame_summary, intervention_summary
    from shammie.beliefs.intervene import Intervener
    from shammie.beliefs.measure import intervened, traced
    from shammie.beliefs.read import GridReader
    from shammie.beliefs.settings import AskSettings, ReadSettings

    model = context.model
    # Whatever the limit: enough cases that two are known, and tokens enough to name a capital.
    asked = load_cases("geonames:capital", limit=max(_CASES, context.size(_CASES, 60))).cases
    cases = [case for case in asked if not case.flags]
    asker = Asker(model, AskSettings(max_new_tokens=max(16, context.size(24, 64))))
    reader = GridReader(model, ReadSettings(step=2))
    known = _known(asker, cases)[: context.size(4, 20)]
    if len(known) < 2:
        yield {"kind": "unknown", "cases": len(cases)}
        return
    records: list[Record] = []
    for case in known:
        records += traced(asker, reader, [(case, frame) for frame in FRAMES], whole=True)
    yield from records
    yield from frame_summary(records, context.seed)
    intervener = Intervener(asker, cases, reader.layers, context.seed)
    changed = list(intervened(intervener, [(case, "neutral") for case in known], (0.1, 0.3)))
    yield from intervention_summary(changed, context.seed)


def _known(asker: Any, cases: list[Case]) -> list[Case]:
    """The cases whose base belief is favoured where nothing is claimed."""
    told = asker.ask([(case, "none") for case in cases])
    return [case for case, one in zip(cases, told, strict=True) if one.favours == "base" and "base" in one.names]


def draw(records: list[Record]) -> list[Block]:
    """One case in full, then all of them, then what changing the states does."""
    if unknown := of_kind(records, "unknown"):
        text = (
            f"The model knows fewer than two of {unknown[0]['cases']} capitals, so no claim is against what it knows."
        )
        return [Prose(text)]
    told = {(r["case"], r["frame"]): r for r in of_kind(records, "told")}
    first = of_kind(records, "grid")
    swayed = [case for case, frame in told if frame == "neutral" and told[case, frame]["favours"] == "counter"]
    case = (swayed or [next(iter(told))[0]])[0]
    frames = of_kind(records, "frame")
    favoured = [number(f["frame"], f["favours_counter"]) for f in frames]
    rows = [
        [f["frame"], f["cases"], f["uncounted"], f["base_density"], f["counter_density"], f["third_density"]]
        for f in frames
    ]
    columns = ["frame", "cases", "no position counts", "known, share of states", "told", "neither"]
    shown = next((grid for grid in first if (grid["case"], grid["frame"]) == (case, "neutral")), None)
    return [
        Prose(
            "The model is told a false capital of a country whose capital it knows: by no one in particular, and by a website "
            "that is said to err. While it writes, every state of the later layers is put into a prompt that repeats what it "
            "is shown: what comes out is what the state holds."
        ),
        TextPair(
            told[case, "none"]["text"].strip(), told[case, "neutral"]["text"].strip(), "nothing claimed", "told something false",
        ),
        *([map_figure(shown)] if shown else []),
        Figure(interval_bars(favoured, value_label="share of cases that favour what they are told"), "What is answered"),
        Table(columns, rows, "How often the states hold each name"),
        *intervene_blocks(records),
    ]  # fmt: skip


CHAPTER = Chapter(
    "beliefs", "What does it believe while it writes?",
    "When the model is told something false, do its states hold what it knows or what it is told, and do they drive the answer?",
    "shammie tour --only beliefs", measure, draw,
)  # fmt: skip
