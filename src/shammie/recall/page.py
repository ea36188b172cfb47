"""The pages of a run and of a report, from their records alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from shammie.report import (
    Block,
    Details,
    Figure,
    Numbers,
    Point,
    Prose,
    Section,
    Table,
    interval_bars,
    line_chart,
    number,
    of_kind,
    render_page,
    sample,
    scatter,
)

if TYPE_CHECKING:
    from shammie.core.run import RunRecord

Record = dict[str, Any]
_CURVES = ("off", "on", "dummy")
_CONTROLS = {"on": "off", "dummy": "single", "on-facts": "on-dummy-facts", "off-facts": "off-dummy-facts"}
_LISTED = 8  # traces that are shown in full
CONDITIONS = {
    "off": "no reasoning", "on": "own reasoning", "single": "one dummy sentence", "dummy": "dummy as long as the trace",
    "on-facts": "facts as reasoning", "off-facts": "facts in the question", "on-dummy-facts": "dummy as long as the facts",
    "off-dummy-facts": "dummy in the question", "on-irrelevant-facts": "another question's facts",
    "on-subject-facts": "other facts on the subject", "on-corrupted-facts": "facts, one made false",
    "off-all-facts": "facts in the question, leaks too",
}  # fmt: skip


def named(condition: str) -> str:
    """A condition in words."""
    plain, _, filler = condition.partition(":")
    return CONDITIONS.get(plain, plain) + (f", of {filler}" if filler else "")


def run_page(record: RunRecord) -> str:
    """Accuracy by condition, as far as the run has come."""
    from shammie.core.stats import mean_interval

    answers: dict[str, list[Record]] = {}
    for line in of_kind(record.results, "answer"):
        if line["sample"] < record.config["settings"]["samples"]:
            answers.setdefault(line["condition"], []).append(line)
    bars = []
    for condition, own in answers.items():
        found = mean_interval([float(r["correct"]) for r in own], [r["question"] for r in own]).as_dict()
        bars.append(number(f"{named(condition)} ({condition})", found))
    questions, traces = of_kind(record.results, "question"), of_kind(record.results, "trace")
    blocks: list[Block] = [
        Prose(f"{len(questions)} questions, {len(traces):,} traces. `shammie recall report` says what this means."),
        Figure(interval_bars(bars, value_label="share of answers that are right"), "Accuracy by condition"),
    ]
    section = Section(
        "samples", "The samples", "What was asked, and how often was it right?", "shammie recall run", blocks
    )
    facts = [("model", str(record.config["model"])), ("questions", str(record.config["questions"]))]
    return render_page(
        "Thinking to recall", "Every question asked many times, with and without reasoning.", facts, [section],
        footer="Every sample stands in results.jsonl.", eyebrow="shammie recall run",
    )  # fmt: skip


def report_page(record: RunRecord) -> str:
    """The four answers, model by model."""
    runs = list(dict.fromkeys(str(line["run"]) for line in record.results if "run" in line))
    sections = [_compared(record.results, runs)] if len(runs) > 1 else []
    for place, run in enumerate(runs):
        own = [line for line in record.results if line.get("run") == run]
        title = f"{run}: " if len(runs) > 1 else ""
        for name, heading, question, blocks in (
            ("help", "Does reasoning help?", "What it reaches that it does not reach without.", help_blocks(own)),
            ("why", "The computation, or the facts?", "What can stand in the trace's place?", mechanism_blocks(own)),
            ("false", "Do false facts hurt?", "Answers after clean traces and after false ones.", false_blocks(own)),
            ("filter", "What would filtering gain?", "Answers from traces that deserve it.", filter_blocks(own)),
            ("traces", "What it wrote", "Questions on which reasoning changes most.", trace_blocks(own)),
        ):
            sections.append(Section(f"{name}-{place}", title + heading, question, "shammie recall report", blocks))
    return render_page(
        "Thinking to recall", "Does reasoning widen what a model can recall, and why?", [("model", ", ".join(runs))], sections,
        footer="Intervals are over questions. Every figure stands in results.jsonl.", eyebrow="shammie recall report",
    )  # fmt: skip


def _compared(records: Sequence[Record], runs: Sequence[str]) -> Section:
    rows = {r["run"]: r for r in of_kind(records, "omega") if (r["condition"], r["group"]) == ("on", "all questions")}
    bars = [number(run, rows[run]["omega"]) for run in runs if rows.get(run) and rows[run]["omega"]]
    figure = Figure(interval_bars(bars, value_label="Omega of reasoning", reference=0.0), "Effectiveness of reasoning")
    return Section("models", "The models", "Whom does reasoning help most?", "shammie recall report", [figure])


def conclusion(estimate: Record, more: str, less: str, neither: str) -> str:
    """One of three sentences, by where the interval of a difference lies; its figures are put in for {}."""
    value, low, high = (estimate[name] for name in ("value", "low", "high"))
    known = low is not None and high is not None
    text = neither if not known else more if low > 0 else less if high < 0 else neither
    figures = f"{value:+.3f} [{low:+.3f}, {high:+.3f}]" if known else f"{value:+.3f}"
    return text.format(figures.replace("-", "−"))


def help_blocks(records: Sequence[Record]) -> list[Block]:
    """Curves, effectiveness, and what further samples reach."""
    curves = of_kind(records, "curve")
    found = {(c["condition"], c["k"]): c["pass"] for c in curves}
    ks = sorted({c["k"] for c in curves})
    contrast = {c["name"]: c for c in of_kind(records, "contrast")}
    series = {
        named(condition): [sample(k, found[condition, k]) for k in ks]
        for condition in _CURVES
        if (condition, ks[0]) in found
    }
    cards = [
        number(f"pass@{k} with reasoning", found["on", k], number("without", found["off", k]))
        for k in dict.fromkeys((ks[0], ks[-1]))
    ]
    prose = conclusion(
        contrast["reasoning"]["difference"], "With reasoning more answers are right: {}.",
        "With reasoning **fewer** answers are right: {}.", "Whether reasoning changes accuracy cannot be told: {}.",
    )  # fmt: skip
    omegas = of_kind(records, "omega")
    whole = next(r for r in omegas if (r["condition"], r["group"]) == ("on", "all questions"))
    if whole["omega"] is None:
        prose += f" Omega is undefined: {whole['undefined']}."
    else:
        cards.append(number("Omega, relative gain", whole["omega"]))
    blocks: list[Block] = [Prose(prose)]
    for line in of_kind(records, "reach"):
        cards.append(number("reached by further samples", line["on"], number("without reasoning", line["off"])))
        blocks.append(
            Prose(
                f"{line['questions']} questions were not answered once without reasoning. {line['samples']} further samples each, "
                "which did not choose those questions, reach them "
                + conclusion(
                    line["difference"], "more often with reasoning: {}.", "less often with reasoning: {}.",
                    "with and without reasoning at rates that cannot be told apart: {}.",
                )
            )
        )  # fmt: skip
    chart = line_chart(
        series, x_label="k", y_label="pass@k", log_x=True, y_limits=(0, 1), controls=[named("off")] if "off" in _CURVES else []
    )  # fmt: skip
    groups = [
        [r["group"], r["questions"], r["omega"], r["ks_dropped"]]
        for r in omegas
        if r["condition"] == "on" and r["omega"] is not None
    ]
    return [
        Numbers(cards), *blocks,
        Figure(chart, "How many questions at least one of k samples answers", "Unbiased, with intervals over questions."),
        Table(["questions", "count", "Omega", "k left out"], groups, "Omega by kind of question"),
        *_background(records),
    ]  # fmt: skip


def _background(records: Sequence[Record]) -> list[Block]:
    """Popularity, guessing, and how traces ended, folded away."""
    popular = [[named(r["condition"]), r["spearman"], r["questions"]] for r in of_kind(records, "popularity")]
    guesses = [[f"pass@{r['k']}", r["pass"]] for r in of_kind(records, "guessing")]
    ends = [[r["ended"], r["share"], r["tokens"], r["accuracy"]] for r in of_kind(records, "traces")]
    blocks: list[Block] = []
    if popular:
        caption = "Popularity of the subject against accuracy"
        blocks.append(Table(["condition", "Spearman", "questions"], popular, caption))
    if guesses:
        caption = "One who guesses answers as often as a relation has them"
        blocks.append(Table(["chance of a hit", "share"], guesses, caption))
    blocks.append(Table(["trace", "share", "mean tokens", "accuracy after it"], ends, "How traces ended"))
    return [Details("Popularity, guessing, and how traces ended", blocks)]


def mechanism_blocks(records: Sequence[Record]) -> list[Block]:
    """Accuracy by condition, the differences that isolate a cause, and the length sweep."""
    lengths = of_kind(records, "length")
    swept = {r["condition"] for r in lengths}
    first = {
        c["condition"]: c["pass"] for c in of_kind(records, "curve") if c["k"] == 1 and c["condition"] not in swept
    }
    bars = []
    for condition in sorted(first.keys() - set(_CONTROLS.values()), key=lambda c: [*CONDITIONS, c].index(c)):
        control = _CONTROLS.get(condition, "")
        beside = number(named(control), first[control]) if control in first else None
        bars.append(number(named(condition), first[condition], beside))
    rows = of_kind(records, "contrast")
    differences = [number(r["name"], r["difference"]) for r in rows]
    table = [
        [r["name"], f"{r['of']} − {r['against']}", r["difference"], r["difference"]["p_value"], r["samples"]]
        for r in rows
    ]
    blocks: list[Block] = [
        Prose(_mechanism(rows)),
        Figure(
            interval_bars(bars, value_label="share of answers that are right"), "With other things in the trace's place",
            "Below each what it must be read against: without reasoning, or the same length without content.",
        ),
        Figure(
            interval_bars(differences, value_label="difference of accuracy, paired by question", reference=0.0),
            "What each part adds",
        ),
        Details("The comparisons", [Table(["what", "conditions", "difference", "p", "samples"], table)]),
    ]  # fmt: skip
    if lengths:
        series = {
            f"dummy: {name}": [sample(r["tokens"], r["accuracy"]) for r in lengths if r["filler"] == name]
            for name in dict.fromkeys(r["filler"] for r in lengths)
        }
        chart = line_chart(series, x_label="tokens of the dummy", y_label="accuracy", log_x=True, y_limits=(0, 1))
        blocks.append(Figure(chart, "Accuracy by the length of a trace without content"))
    return blocks


def _mechanism(rows: Sequence[Record]) -> str:
    """What the differences say of the two mechanisms."""
    found = {row["name"]: row["difference"] for row in rows}
    parts = []
    if "tokens to compute in" in found:
        parts.append(
            conclusion(
                found["tokens to compute in"], "Tokens without content help, beyond one sentence of them: {}.",
                "Tokens without content **hurt**, beyond one sentence of them: {}.",
                "Tokens without content show no effect beyond one sentence of them: {}.",
            )
        )  # fmt: skip
    if "facts in reasoning, beyond their length" in found:
        parts.append(
            conclusion(
                found["facts in reasoning, beyond their length"],
                "The facts that the model wrote help, beyond their length and where they do not give the answer away: {}.",
                "The facts that the model wrote **hurt**, beyond their length: {}.",
                "The facts that the model wrote show no effect beyond their length: {}.",
            )
        )  # fmt: skip
    return " ".join(parts) or "The run has no condition that tells the two apart."


def false_blocks(records: Sequence[Record]) -> list[Block]:
    """Clean against hallucinated traces, pooled and within questions, and the swap of one fact."""
    audits, within = of_kind(records, "audit"), of_kind(records, "within")
    if not audits:
        return [Prose("The run holds no facts: it had neither `--knowledge` nor a condition of facts.")]
    audit, pooled = audits[0], {r["traces"]: r["accuracy"] for r in of_kind(records, "pooled")}
    kinds, verdicts = audit["natures"], audit["verdicts"]
    leaks = "none" if audit["leak_rate"] is None else f"{audit['leak_rate']:.0%}"
    blocks: list[Block] = [
        Prose(
            f"{audit['facts']:,} facts in {audit['traces']:,} traces; {leaks} of them give the answer away and count no further. "
            f"Of the rest {verdicts.get('true', 0):,} are true, {verdicts.get('false', 0):,} false, and "
            f"{verdicts.get('unknown', 0):,} could not be judged. {kinds['clean']:,} traces are clean, {kinds['false']:,} hold "
            f"a false fact, {kinds['none']:,} no fact."
        )
    ]
    if "clean" in pooled and "false" in pooled:
        cards = [number("right after clean traces", pooled["clean"], number("after false ones", pooled["false"]))]
        blocks.append(Numbers(cards))
    if within and within[0]["reason"] is None:
        blocks += _within_blocks(within[0], of_kind(records, "point"))
    elif within:
        blocks.append(Prose(f"Within questions nothing can be said: {within[0]['reason']}."))
    swapped = [
        r for r in of_kind(records, "contrast") if r["of"] == "on-facts" and r["against"] == "on-corrupted-facts"
    ]
    for row in swapped:
        blocks.append(
            Prose(
                f"**Cause.** In {row['samples']:,} samples one true fact was swapped for a false one of its kind. "
                + conclusion(
                    row["difference"], "The true fact is worth {} of accuracy.", "The false fact does better: {}.",
                    "No effect of the swap can be told: {}.",
                )
            )
        )  # fmt: skip
    return blocks


def _within_blocks(within: Record, points: Sequence[Record]) -> list[Block]:
    drawing = scatter(
        [Point(p["clean"], p["false"], p["question"]) for p in points], x_label="accuracy after clean traces",
        y_label="accuracy after traces with a false fact", y_limits=(0, 1),
    )  # fmt: skip
    said = conclusion(
        within["difference"], "clean traces are followed by more right answers: {}.",
        "clean traces are followed by fewer right answers: {}.", "no difference can be told: {}.",
    )  # fmt: skip
    slope = within["slope"]
    note = (
        ""
        if not slope
        else f"Slope through the origin {slope['value']:.2f}"
        + (f" [{slope['low']:.2f}, {slope['high']:.2f}]" if slope["low"] is not None else "")
        + "; below 1, false facts go with wrong answers beyond how hard a question is."
    )
    return [
        Prose(f"Within the {within['questions']} questions that have both kinds, {said}"),
        Figure(drawing, "The same question, after clean and after false traces", note),
    ]


def filter_blocks(records: Sequence[Record]) -> list[Block]:
    """Expected accuracy of each policy."""
    rows = of_kind(records, "selection")
    if not rows:
        return [Prose("The run holds no facts to select by.")]
    regular = number("all samples", rows[0]["accuracy"])
    bars = [number(r["policy"], r["accuracy"], regular if r is not rows[0] else None) for r in rows]
    table = [
        [r["policy"], r["accuracy"], r["gain"], r["relative_gain"], r["with_eligible"], r["samples"]] for r in rows
    ]
    best = max(rows[1:], key=lambda r: r["gain"]["value"])
    said = conclusion(
        best["gain"], f"Answering from **{best['policy']}** gains {{}}.", f"Even **{best['policy']}** loses {{}}.",
        f"No gain can be told; the best, **{best['policy']}**, has {{}}.",
    )  # fmt: skip
    columns = [
        "traces",
        "expected accuracy",
        "gain",
        "relative gain",
        "questions with such a trace",
        "share of samples",
    ]
    return [
        Prose(said + " Where a question has no such trace, all of its traces count."),
        Figure(interval_bars(bars, value_label="expected share of right answers"), "Answers from chosen traces"),
        Details("In figures", [Table(columns, table)]),
    ]


def trace_blocks(records: Sequence[Record]) -> list[Block]:
    """A table of questions, and a few traces in full with their facts."""
    rows = of_kind(records, "listed")
    table = [[r["question"], r["answer"], r["off"], r["on"]] for r in rows]
    blocks: list[Block] = [Table(["question", "answer", "right without", "right with reasoning"], table)]
    for row in rows[:_LISTED]:
        facts = [[f["text"], f["leak"] or "no", f["verdict"]] for f in row["facts"]]
        inside: list[Block] = [Prose(f"{row['trace'] or '(empty)'}\n\n**Answer:** {row['said'] or '(none)'}")]
        if facts:
            inside.append(Table(["fact", "gives the answer away", "true"], facts))
        blocks.append(Details(row["question"], inside))
    return blocks
