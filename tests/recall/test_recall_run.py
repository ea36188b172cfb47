"""A run: what each condition holds, the same samples whatever is killed or batched, and further samples where they belong."""

import json
from dataclasses import replace

import pytest

from shammie.core.backends import LocalBackend
from shammie.core.errors import BackendError, DataError, ShammieError
from shammie.core.run import Run, read_run
from shammie.recall.data import Question, QuestionSet
from shammie.recall.planted import Rates, Simulated, knowledge, planted_model, prompter, questions, tokenizer
from shammie.recall.running import Plan, check_conditions
from shammie.recall.sample import Sampler
from shammie.recall.samples import Samples
from shammie.recall.settings import Condition, RecallSettings

ALL = (
    "off", "on", "single", "dummy", "dummy-16:dots", "on-facts", "off-facts", "on-dummy-facts", "off-dummy-facts",
    "on-irrelevant-facts", "on-subject-facts", "off-subject-facts", "on-corrupted-facts", "off-all-facts",
)  # fmt: skip
SETTINGS = RecallSettings(conditions=ALL, samples=4, more=8, trace_tokens=24, answer_tokens=3)


def sampler(model, rows: int = 64, settings: RecallSettings = SETTINGS, count: int = 5) -> Sampler:
    return Sampler(LocalBackend(model, rows=rows), prompter(model), questions()[:count], settings, knowledge())


def carry_out(own: Sampler, place, chunk: int = 2) -> str:
    config = {"model": "planted", "settings": {"samples": own.settings.samples, "more": own.settings.more}}
    with Run.open("recall run", config, place, resume=True) as run:
        Plan(run, own, chunk).carry_out()
    return (place / "results.jsonl").read_text()


@pytest.fixture(scope="module")
def straight(facts_world, tmp_path_factory):
    place = tmp_path_factory.mktemp("straight") / "run"
    carry_out(sampler(facts_world), place)
    return place


@pytest.fixture(scope="module")
def records(straight):
    return read_run(straight).results


def of(records, condition):
    return {(r["question"], r["sample"]): r for r in records if r.get("condition") == condition and r["sample"] < 4}


class Flaky:
    """A backend that drops at its `at`-th call."""

    def __init__(self, backend, at: int) -> None:
        self.backend, self.identity, self.left = backend, backend.identity, at

    def complete(self, prompts, jobs, settings):
        self.left -= 1
        if self.left < 0:
            raise BackendError("the server is gone; start it")
        return self.backend.complete(prompts, jobs, settings)


@pytest.mark.parametrize("at", [0, 1, 4, 9, 23, 40])
def test_a_backend_that_drops_loses_and_doubles_nothing(facts_world, straight, tmp_path, at: int) -> None:
    own = sampler(facts_world)
    backend = own.backend
    own.backend = Flaky(backend, at)
    with pytest.raises(BackendError):
        carry_out(own, tmp_path / "run")
    own = sampler(facts_world)
    assert carry_out(own, tmp_path / "run") == (straight / "results.jsonl").read_text()


def test_samples_do_not_depend_on_batches(facts_world, records, tmp_path) -> None:
    carry_out(sampler(facts_world, rows=7), tmp_path / "run", chunk=5)
    other = read_run(tmp_path / "run").results
    assert sorted(json.dumps(r) for r in other) == sorted(json.dumps(r) for r in records)


def test_samples_do_not_depend_on_other_conditions(facts_world, records, tmp_path) -> None:
    few = sampler(facts_world, settings=replace(SETTINGS, conditions=("off", "on", "off-facts")))
    carry_out(few, tmp_path / "run")
    found = read_run(tmp_path / "run").results
    for condition in few.settings.conditions:
        assert of(found, condition) == of(records, condition)


def test_draws_differ_between_samples_and_conditions(facts_world, records) -> None:
    said = [tuple(r["answer"] for r in of(records, name).values()) for name in ("off", "single", "dummy-16:dots")]
    assert len(set(said)) == 3
    assert len(set(said[0])) > 2


def test_what_each_condition_holds(facts_world, records) -> None:
    count = len(prompter(facts_world).tokens(read_first_trace(records)))
    traces = {(r["question"], r["sample"]): r for r in records if r["kind"] == "trace" and r["sample"] < 4}
    assert traces[0, 0]["tokens"] == count
    for key, trace in traces.items():
        assert of(records, "off")[key]["held"] == 0
        assert of(records, "on")[key]["held"] == of(records, "dummy")[key]["held"] == trace["tokens"]
        assert of(records, "single")[key]["held"] == 3
        assert of(records, "dummy-16:dots")[key]["held"] == 16
        assert of(records, "on-facts")[key]["held"] == of(records, "off-dummy-facts")[key]["held"]
        assert of(records, "off-facts")[key]["held"] == of(records, "on-dummy-facts")[key]["held"]


def read_first_trace(records) -> str:
    return next(r["text"] for r in records if r["kind"] == "trace")


def test_swapped_facts_are_false_and_irrelevant_ones_another_questions(facts_world, records) -> None:
    known = knowledge()
    swapped = [r["swapped"] for r in of(records, "on-corrupted-facts").values() if r["swapped"]]
    assert len(swapped) > 10
    assert {known.check(text) for text in swapped} == {"false"}
    own = sampler(facts_world)
    facts = {(r["question"], r["sample"]): r["facts"] for r in records if r["kind"] == "facts"}
    own.answers(Condition.parse("on-irrelevant-facts"), [], {}, facts)  # learns whose facts are whose
    for key in facts:
        assert questions()[key[0]].subject not in own._irrelevant(key, 1).text


def test_further_samples_go_to_unanswered_questions_alone(records) -> None:
    hit = {q for (q, _), r in of(records, "off").items() if r["correct"]}
    more = {r["question"] for r in records if r.get("condition") == "off" and r["sample"] >= 4}
    assert more == set(range(5)) - hit
    for number in more:
        for condition in ("off", "on"):
            own = [r["sample"] for r in records if r.get("condition") == condition and r["question"] == number]
            assert sorted(own) == list(range(8))


def test_empty_and_truncated_traces_are_counted(facts_world) -> None:
    short = sampler(facts_world, settings=replace(SETTINGS, trace_tokens=2))
    assert {t["finish"] for t in short.traces([0], range(4))} == {"length"}
    (answer,) = short.answers(Condition.parse("on"), [(0, 0)], {(0, 0): ""}, {})
    assert answer["held"] == 0
    (dummy,) = short.answers(Condition.parse("dummy"), [(0, 0)], {(0, 0): ""}, {})
    assert dummy["held"] == 0


def test_an_empty_answer_is_wrong_and_a_list_of_guesses_too() -> None:
    model = planted_model("facts")

    class Says:
        identity = "says"

        def __init__(self, text: str) -> None:
            self.text = text

        def complete(self, prompts, jobs, settings):
            made = Simulated(Rates()).complete(prompts, jobs, settings)
            return [replace(item, text=self.text, answer=self.text) for item in made]

    right = questions()[0].answers[0]
    for said, correct in (("", False), (f"{right} .", True), (" ".join([right] + ["or"] * 30), False)):
        own = Sampler(Says(said), prompter(model), questions(), SETTINGS)
        assert own.answers(Condition.parse("off"), [(0, 0)], {}, {})[0]["correct"] is correct


def test_conditions_that_need_what_is_not_there() -> None:
    asked = QuestionSet.of([Question("1", "Who?", ("Ada",))], "q.jsonl")
    with pytest.raises(ShammieError, match="--knowledge"):
        check_conditions(SETTINGS, asked, None)
    with pytest.raises(ShammieError, match="names its subject"):
        check_conditions(SETTINGS, asked, knowledge())


def test_runs_that_cannot_be_read(straight, tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt), Run.open("recall run", {"model": "m"}, tmp_path / "run"):
        raise KeyboardInterrupt
    with pytest.raises(DataError, match="not finished"):
        Samples.read(tmp_path / "run")
    assert len(Samples.read(straight).questions) == 5
    assert tokenizer().eos_token == "<end>"
