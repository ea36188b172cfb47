"""The commands as a user types them: chains, labels, scores, the leaderboard; killed and resumed; refused in one sentence."""

import json
from collections import Counter

import pytest

import pico
from records import results
from shammie.bonafide.generating import Chains
from shammie.bonafide.labelling import CARD, ROWS, TABLE
from shammie.bonafide.prompts import worked
from shammie.bonafide.settings import Cell, ChainSettings
from shammie.core.backends import LocalBackend
from shammie.core.generate import Completion

TASKS = (
    "collatz:3",
    "nested_mod:2",
    "fictional_facts:1:metadata",
    "diagnosis:1:sycophancy",
    "expert_numbers:1:indirect:validator",
)
GENERATE = (
    "bonafide",
    "generate",
    "model",
    "--tasks",
    *TASKS,
    "--problems",
    "6",
    "--max-new-tokens",
    "16",
    "--rows",
    "4",
)


class Actor:
    """Speaks like the worked examples: every third problem in another manner; outright ones go wrong in every fourth."""

    def __init__(self, model):
        self.identity = LocalBackend(model).identity
        self.known = {}
        for text in TASKS:
            for seed in range(6):
                problem = Cell.parse(text).problem(seed)
                self.known[problem.question] = problem

    def complete(self, prompts, jobs, settings):
        return [self._one(prompts[number], (number, sample), settings) for number, sample in jobs]

    def _one(self, chat, job, settings):
        asked = chat[-1]["content"].partition("\n\nThe answer is ")[0]
        if settings.prefill or asked not in self.known:
            return Completion(*job, '0"}', None, '0"}', "end", (1,))
        problem = self.known[asked]
        manner = ("open", "silent", "source")[job[0] % 3] if problem.hint else "worked"
        text = worked(problem, manner)
        if not problem.hint and job[0] % 4 == 3:
            text = "Let me think.\n" + text.rpartition("\n")[2]
        return Completion(*job, text, None, text, "end", (1, 2))


@pytest.fixture
def acted(monkeypatch):
    model = pico.shared("llama")
    monkeypatch.setattr(model, "name", "model")
    monkeypatch.setattr("shammie.bonafide.running.open_backend", lambda *_: (Actor(model), model))


@pytest.fixture
def made(place, shammie, acted, tmp_path):
    line = (*GENERATE, "--examples", "worked", "open", "--output-dir", tmp_path / "chains")
    assert shammie(*line)[0] == 0
    assert shammie("bonafide", "label", tmp_path / "chains", "--output-dir", tmp_path / "labels")[0] == 0
    return tmp_path


def test_chains_become_labels_scores_and_a_leaderboard(made, shammie):
    labels = results(made / "labels")
    rows = [json.loads(line) for line in (made / "labels" / "artifacts" / ROWS).read_text().splitlines()]
    counts = Counter((r["level"], r["setting"], r["faithful"]) for r in rows)
    assert counts["chain", "outright", True] >= 8
    assert counts["chain", "outright", False] == 2  # the third problem of both tasks leaves its stages out
    assert counts["chain", "diversionary", True] == counts["step", "diversionary", False] == 6
    assert counts["chain", "diversionary", False] == 12
    for r in rows:
        assert r["level"] == "chain" or r["chain"][r["start"] : r["end"]] == r["text"]
        assert r["reasons"]
    assert (made / "labels" / "artifacts" / TABLE).exists()
    card = (made / "labels" / "artifacts" / CARD).read_text()
    assert "| chain | diversionary | 6 | 12 |" in card
    assert sum(r["found"] for r in labels if r["kind"] == "labels" and r["level"] == "chain") == 30

    names = (
        "early_answering_forced",
        "filler_tokens",
        "hint_verbalization",
        "regex_baseline",
        "chance",
        "always_faithful",
    )
    measure = (
        "bonafide",
        "measure",
        made / "labels",
        "model",
        "--metrics",
        *names,
        "--tokens",
        "8",
        "--dtype",
        "float32",
    )
    assert shammie(*measure, "--output-dir", made / "scores")[0] == 0
    assert shammie("bonafide", "report", made / "labels", made / "scores", "--output-dir", made / "report")[0] == 0
    board = {(r["level"], r["metric"], r["rows"]): r for r in results(made / "report") if r["kind"] == "auroc"}
    assert board["chain", "always_faithful", "all"]["auroc"]["value"] == 0.5
    assert board["chain", "hint_verbalization", "all"]["auroc"]["value"] == 1.0
    assert board["chain", "hint_verbalization", "all"]["missing"] > 0
    assert ("step", "filler_tokens", "all") in board
    costs = {r["metric"]: r for r in results(made / "report") if r["kind"] == "costs"}
    assert set(costs) == set(names)
    assert costs["filler_tokens"]["forced"] > 1
    assert sum(costs["chance"][kind] for kind in ("forced", "written", "read", "unlearned")) == 0
    page = (made / "report" / "report.html").read_text()
    assert "What a metric asks about a chain" in page
    assert "Leaderboard" in page
    assert "Too few of one class" in page
    assert "because" in (made / "labels" / "report.html").read_text()


def test_generate_is_the_same_after_a_kill(made, shammie, acted, place):
    line = (*GENERATE, "--examples", "worked", "open", "--output-dir", made / "cut")
    assert shammie(*line)[0] == 0
    progress = (made / "cut" / "progress.jsonl").read_text().splitlines(keepends=True)
    (made / "cut" / "progress.jsonl").write_text("".join(progress[:9]))  # what a kill after some items leaves
    record = json.loads((made / "cut" / "run.json").read_text())
    (made / "cut" / "run.json").write_text(json.dumps(record | {"status": "running", "finished": None, "completed": 0}))
    assert shammie(*line, "--resume")[0] == 0
    assert (made / "cut" / "results.jsonl").read_bytes() == (made / "chains" / "results.jsonl").read_bytes()


def test_a_cap_takes_one_of_each_task_by_turns(made, shammie):
    line = ("bonafide", "label", made / "chains", "--cap", "3", "--output-dir", made / "capped")
    assert shammie(*line)[0] == 0
    rows = [json.loads(line) for line in (made / "capped" / "artifacts" / ROWS).read_text().splitlines()]
    assert set(Counter((r["level"], r["faithful"]) for r in rows).values()) <= {1, 2, 3}
    unfaithful = [r for r in rows if (r["level"], r["faithful"]) == ("chain", False)]
    assert len({r["task"] for r in unfaithful}) == 3


def test_a_real_model_is_asked_alone_as_in_a_batch(place):
    model = pico.shared("llama")
    settings = ChainSettings(tasks=("collatz:3",), problems=3, samples=2, max_new_tokens=8)
    cell, example = settings.cells()[0]
    together = Chains(LocalBackend(model, rows=6), settings).sample(cell, example, [0, 1, 2])
    alone = [
        r for seed in range(3) for r in Chains(LocalBackend(model, rows=1), settings).sample(cell, example, [seed])
    ]
    assert together == alone
    assert all(r["finish"] in ("end", "length") for r in together)
    once = Chains(LocalBackend(model, rows=6), settings).without_chain(cell, [0, 1])
    assert [r["kept"] for r in once] == [False, False]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("generate", "model", "--tasks", "collatz:5"), "has no level 5"),
        (("generate", "model", "--tasks", "diagnosis:1:metadata", "--examples", "worked"), "takes the examples"),
        (("label", "model"), "no run"),
        (("measure", "model", "model"), "no run"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(shammie, tmp_path, line, said):
    code, _, error = shammie("bonafide", *line, "--output-dir", tmp_path / "x")
    assert code == 2
    assert said in error
    assert error.count("\n") == 1


def test_labels_and_scores_must_belong_together(made, shammie):
    code, _, error = shammie("bonafide", "report", made / "labels", made / "chains")
    assert (code, "no finished run of shammie bonafide measure" in error) == (2, True)
    code, _, error = shammie("bonafide", "label", made / "labels", "--output-dir", made / "y")
    assert (code, "no finished run of shammie bonafide generate" in error) == (2, True)
