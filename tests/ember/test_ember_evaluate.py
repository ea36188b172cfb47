"""The harness: formats agree with what the model computes, figures with their definitions, costs with causality."""

import math

import numpy as np
import pytest
import torch

from shammie.core.errors import DataError
from shammie.core.judge import Judge
from shammie.core.stats import Estimate
from shammie.ember.evaluate import Answer, Reading, ask, coherence, cost_by_place, outcome, read_texts
from shammie.ember.measure import Bench, recorded_answers

WHOLE = Estimate(1.0, 1.0, 1.0, 5)


def answers(values, name="questions", chance=0.25):
    return [Answer(name, "choice", i, v, v, chance, "") for i, v in enumerate(values)]


def sets(concept, similar, general):
    return [*answers(concept), *answers(similar, "similar"), *answers(general, "general")]


def test_figures_are_chance_corrected_ratios_and_their_harmonic_means():
    before = sets([1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1])  # 0.75, 1, 1
    after = sets([1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1])  # 0.5, 0.75, 1
    found = outcome(before, after, WHOLE, "choice", soft=False, seed=0)
    assert found.efficacy.value == pytest.approx(1 - 0.25 / 0.5)
    assert found.similar.value == pytest.approx(0.5 / 0.75)
    assert found.specificity.value == pytest.approx(2 / (1 + 1.5))
    assert found.accuracy.value == 0.5
    assert found.accuracy_before.value == 0.75
    assert found.overall == pytest.approx(3 / (1 / 0.5 + 1 / 0.8 + 1))


def test_an_untouched_model_keeps_all_and_loses_nothing():
    before = sets([1, 0, 1, 1], [1, 1, 1, 0], [1, 1, 0, 1])
    found = outcome(before, before, WHOLE, "choice", soft=False, seed=0)
    assert (found.efficacy.value, found.specificity.value, found.overall) == (0, 1, 0)


def test_nothing_is_said_of_what_was_never_known():
    with pytest.raises(DataError, match="does not answer the similar above chance"):
        outcome(sets([1, 1], [0, 0], [1, 1]), sets([1, 1], [0, 0], [1, 1]), WHOLE, "choice", soft=False, seed=0)
    with pytest.raises(DataError, match="asked as open"):
        outcome(sets([1], [1], [1]), sets([1], [1], [1]), WHOLE, "open", soft=False, seed=0)


def test_formats_agree_with_the_model(model, pack):
    found = ask(model, pack, "test", limit=4)
    question = pack.questions.test[1]
    ids = model.tokenizer(f"Question: {question.question}\nAnswer:", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model.module(ids).logits[0, -1]
    wanted = {
        style: next(a for a in found if a.set == "questions" and a.format == style and a.question == 1)
        for style in ("choice", "open", "cloze")
    }
    choices = [model.tokenizer(f" {c}")["input_ids"][0] for c in question.choices]
    share = logits[choices].softmax(0)[question.choices.index(question.answer)]
    assert wanted["choice"].soft == pytest.approx(float(share), abs=1e-5)
    assert wanted["choice"].said == question.choices[int(logits[choices].argmax())]
    answer = model.tokenizer(f" {question.answer}")["input_ids"][0]
    assert wanted["cloze"].said == str(int((logits > logits[answer]).sum()))
    assert wanted["open"].hit == float(question.answer in wanted["open"].said.split())


def test_a_judge_decides_open_answers(model, pack):
    class Strict:
        identity = "strict"

        def complete(self, prompts):
            return ['{"verdict": "WRONG"}' for _ in prompts]

    found = ask(model, pack, "test", ("open",), limit=3, judge=Judge(Strict()))
    assert {answer.hit for answer in found} == {0.0}


def test_answers_survive_being_recorded(bench):
    from shammie.ember.measure import answer_records

    asked = bench.ask("test")
    lines = answer_records(asked, "untouched", "test")
    again = recorded_answers(lines, "untouched", "test")
    assert [(a.set, a.hit, round(a.soft, 6)) for a in asked] == [(a.set, a.hit, a.soft) for a in again]
    assert recorded_answers(lines, "erased", "test") == []


def test_a_model_that_knows_nothing_is_refused(bench, pack, model):
    blank = [Answer("questions", "choice", i, float(i % 4 == 0), 0.25, 0.25, "") for i in range(16)]
    with pytest.raises(DataError, match="nothing to erase; choose another concept"):
        Bench(model, pack, ("choice",), 0).known(blank)


def test_coherence_is_the_ratio_of_perplexities():
    before = [Reading((1, 2), (-1.0,)), Reading((1, 2, 3), (-2.0, -2.0))]
    after = [Reading((1, 2), (-1.5,)), Reading((1, 2, 3), (-2.5, -2.5))]
    assert coherence(before, after, 0).value == pytest.approx(math.exp(-0.5))
    assert coherence(after, before, 0).value == 1.0


def test_cost_is_zero_before_any_edited_token_and_falls_on_what_follows(model, pack, directions):
    texts = [f"they say {text}" for text in pack.concept_sentences[:12]]
    before = read_texts(model, texts)
    with directions.patch(model, 2.0).applied(model):
        after = read_texts(model, texts)
    lines = {line["place"]: line for line in cost_by_place(before, after, set(directions.tokens.tolist()), 0)}
    assert sum(line["tokens"] for line in lines.values()) == sum(len(r.log_probabilities) for r in before)
    assert abs(lines["before any"]["added_loss"]["value"]) < 1e-5
    paid = [lines[place]["added_loss"]["value"] for place in ("after an edited token", "later in such a text")]
    assert max(paid) > 0.5


def test_held_out_neutral_texts_are_read_by_token(model, pack):
    reading = read_texts(model, pack.coherence.test[:1])[0]
    ids = torch.tensor([reading.tokens])
    with torch.no_grad():
        loss = model.module(ids, labels=ids).loss
    assert reading.loss == pytest.approx(float(loss), abs=1e-5)
    assert np.isfinite(reading.loss)
