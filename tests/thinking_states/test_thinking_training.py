"""Every method's loss against the plain one, its curriculum, exact resume, and the commands as typed."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional

import pico
from records import results
from shammie.core.errors import ShammieError
from shammie.core.schedule import TrainSettings
from shammie.core.words import word_tokenizer
from shammie.thinking_states.coconut import Coconut
from shammie.thinking_states.config import ThinkingTrain
from shammie.thinking_states.evaluate import answers, causal, passes
from shammie.thinking_states.methods import Plain, after_marker, removed
from shammie.thinking_states.page import across, compare_blocks
from shammie.thinking_states.problems import Layout, Problem, Step
from shammie.thinking_states.running import corpus_of
from shammie.thinking_states.settings import MethodSettings, Shape, ThinkingSettings
from shammie.thinking_states.tasks import TASKS
from shammie.thinking_states.training import make_backbone, make_reasoner, scratch, train

METHODS = ("thinking", "direct", "cot", "icot", "coconut")
SMALL = Shape(layers=3, width=16, heads=2, neurons=24)
PARITY = TASKS["parity"]


def fresh(method, **changes):
    settings = MethodSettings(method, most=3, **changes)
    return scratch(SMALL, word_tokenizer(PARITY.words), settings, ThinkingSettings(4), jumps=20.0, seed=1)


def some(reasoner, count=6, length=3):
    return [reasoner.layout.encode(PARITY.problem(0, n, length)) for n in range(count)]


def plain(kind, method="cot", family="llama"):
    model = pico.shared(family)
    return kind(model, Layout(model.tokenizer, 4), MethodSettings(method, most=2, until=0.5))


def examples(layout):
    return [
        layout.encode(Problem("abc de", (Step("x", 2), Step("y", 4)), "no")),
        layout.encode(Problem("q", (Step("zz", 1),), "yes")),
    ]


@pytest.mark.parametrize("width", [16, 64])
def test_fresh_weights_begin_as_large_as_width_asks_for(width):
    backbone = make_backbone(Shape(2, width, 2, 3 * width), word_tokenizer(PARITY.words))
    for name, weight in backbone.named_parameters():
        if weight.dim() == 2:
            assert weight.std().item() == pytest.approx(width**-0.5, rel=0.1), name


@pytest.mark.parametrize("method", ["direct", "cot"])
def test_the_loss_of_plain_methods_is_that_of_what_is_written(method):
    reasoner = plain(Plain, method)
    own = examples(reasoner.layout)
    with torch.no_grad():
        found = reasoner.loss(own, 0.3, torch.Generator())
        total, count = 0.0, 0
        for example in own:
            chain = [t for step in example.steps for t in step] if method == "cot" else []
            middle = [*reasoner.layout.answer_marker] if method == "cot" else []
            prompt, rest = reasoner.prompt(example), [*chain, *middle, *example.answer]
            logits = reasoner.model.module(input_ids=torch.tensor([[*prompt, *rest[:-1]]])).logits[0, len(prompt) - 1 :]
            total += functional.cross_entropy(logits, torch.tensor(rest), reduction="sum")
            count += len(rest)
    assert found.weight == count
    torch.testing.assert_close(found.total, total, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
@pytest.mark.parametrize("progress", [0.0, 0.2, 0.9])
def test_coconut_feeds_each_latent_with_the_state_before_it(progress, family):
    reasoner = plain(Coconut, "coconut", family)
    own = examples(reasoner.layout)
    found = reasoner.loss(own, progress, torch.Generator())
    stage, body = reasoner.stage(progress), reasoner.model.anatomy.body
    assert stage == {0.0: 0, 0.2: 1, 0.9: 2}[progress]
    total = 0.0
    for example in own:  # one at a time, without cache or padding
        prompt = reasoner.prompt(example)
        inputs = reasoner.model.anatomy.embedding(torch.tensor([prompt]))
        for _ in range(stage):
            inputs = torch.cat([inputs, body(inputs_embeds=inputs, use_cache=False).last_hidden_state[:, -1:]], 1)
        kept = () if stage == 2 else example.steps[stage:]
        rest = [*(t for step in kept for t in step), *reasoner.layout.answer_marker, *example.answer]
        whole = torch.cat([inputs, reasoner.model.anatomy.embedding(torch.tensor([rest[:-1]]))], 1)
        states = body(inputs_embeds=whole, use_cache=False).last_hidden_state[0, inputs.shape[1] - 1 :]
        total = total + functional.cross_entropy(
            reasoner.model.anatomy.unembed(states), torch.tensor(rest), reduction="sum"
        )
    torch.testing.assert_close(found.total, total, rtol=1e-3, atol=1e-3)
    weight = reasoner.model.anatomy.layers[0].parameters().__next__()
    ours = torch.autograd.grad(found.total, weight)[0]
    torch.testing.assert_close(ours, torch.autograd.grad(total, weight)[0], rtol=1e-2, atol=1e-3)


def test_coconut_generates_from_the_states_it_was_trained_on():
    reasoner = plain(Coconut, "coconut")
    own = examples(reasoner.layout)
    stepper = reasoner.stepper()
    logits = stepper.start([reasoner.prompt(example) for example in own], [0, 1])
    last, *_ = reasoner.latents([reasoner.prompt(own[1])], 2, 1)
    with torch.no_grad():
        torch.testing.assert_close(logits[1], reasoner.model.anatomy.unembed(last)[0].float(), rtol=1e-4, atol=1e-4)
    stepper.keep(torch.tensor([1]))
    tokens = logits[1:].argmax(-1)
    logits = stepper.step(tokens)
    again = reasoner.stepper()
    again.start([reasoner.prompt(own[1])], [0])
    torch.testing.assert_close(logits, again.step(tokens), rtol=1e-4, atol=1e-4)


def test_an_implicit_chain_loses_its_tokens_from_the_left_until_none_is_left():
    noise = torch.Generator().manual_seed(0)
    assert removed(10, 0.0, noise) == 0
    gone = [sum(removed(10, at / 10, noise) for _ in range(50)) / 50 for at in range(1, 11)]
    assert gone == sorted(gone)
    assert gone[-1] == 10
    assert removed(10, 2.0, noise) == 10
    reasoner = fresh("icot")
    example = some(reasoner, 1)[0]
    assert reasoner._written(example, 0.9, noise) == [*reasoner.layout.answer_marker, *example.answer]
    restarts = [step for step in range(100) if reasoner.restart(step, 100)]
    assert len(restarts) == 10
    assert restarts[-1] == 75


def test_an_answer_is_what_follows_the_marker_and_no_marker_is_no_answer():
    layout = Layout(word_tokenizer(PARITY.words), 4)
    marker, heads = list(layout.answer_marker), list(layout.question("heads"))
    assert after_marker(layout, [*heads, *marker, *heads, layout.end]) == "heads"
    assert after_marker(layout, [*heads, *heads]) is None
    assert after_marker(layout, [*heads, *marker]) is None


@pytest.mark.parametrize("method", METHODS)
def test_a_training_that_was_cut_ends_bit_for_bit_the_same(method, tmp_path):
    settings = TrainSettings(6, 4, 1e-2, checkpoint_every=2, accumulation=2)

    def run(place, cut=10**6):
        reasoner, passed = fresh(method), []

        def source(item):
            passed.append(item)
            if len(passed) > cut:
                raise KeyboardInterrupt
            return reasoner.layout.encode(PARITY.problem(0, item, 3))

        try:
            train(reasoner, source, 50, settings, place, check=lambda: 0.5, every=3, resume=True)
        except KeyboardInterrupt:
            return None
        return reasoner.model.module.state_dict()

    whole = run(tmp_path / "whole")
    assert run(tmp_path / "cut", cut=14) is None
    again = run(tmp_path / "cut")
    for name, tensor in whole.items():
        assert torch.equal(tensor, again[name]), name
    assert (tmp_path / "whole" / "metrics.jsonl").read_text() == (tmp_path / "cut" / "metrics.jsonl").read_text()


@pytest.mark.parametrize("method", ["thinking", "cot"])
def test_examples_of_like_length_together_give_the_step_of_all_at_once(method, tmp_path, monkeypatch):
    found = []
    for together in (3, 100):
        monkeypatch.setattr("shammie.thinking_states.training._TOGETHER", together)
        reasoner = fresh(method)
        reasoner.jumps = 0.0  # jumps are drawn pass by pass
        own = some(reasoner, 10, 6)
        settings = TrainSettings(2, 10, 1e-2, checkpoint_every=0)
        train(reasoner, own.__getitem__, 10, settings, tmp_path / str(together), check=lambda: 0.0)
        lines = (tmp_path / str(together) / "metrics.jsonl").read_text().splitlines()
        found.append([json.loads(line)["loss"] for line in lines])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_training_ends_when_every_checked_problem_is_right(tmp_path):
    reasoner, seen = fresh("direct"), []
    source = some(reasoner, 4)
    settings = TrainSettings(20, 4, 1e-3, checkpoint_every=0)
    train(reasoner, source.__getitem__, 4, settings, tmp_path, check=lambda: seen.append(0) or len(seen) / 2, every=3)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 6


@pytest.mark.parametrize("method", METHODS)
def test_peers_have_as_many_weights_and_learn(method, tmp_path):
    reasoner = fresh(method)
    count = sum(p.numel() for p in reasoner.model.module.parameters())
    assert count == pytest.approx(sum(p.numel() for p in fresh("cot").model.module.parameters()), rel=0.1)
    own = some(reasoner)
    before = reasoner.loss(own, 0.0, torch.Generator().manual_seed(0)).total.item()
    settings = TrainSettings(12, 6, 1e-2, checkpoint_every=0)
    train(reasoner, own.__getitem__, 6, settings, tmp_path, check=lambda: 0.0)
    assert reasoner.loss(own, 0.0, torch.Generator().manual_seed(0)).total.item() < before
    assert len(answers(reasoner, own)) == len(own)
    found = passes(reasoner, own[:2])
    assert found["decoder"]["value"] >= {"coconut": 4}.get(method, 1)


def test_batches_of_answers_are_those_of_questions_alone():
    for method in METHODS:
        reasoner = fresh(method)
        own = [reasoner.layout.encode(PARITY.problem(0, n, length)) for n, length in enumerate((1, 4, 2, 7))]
        together = answers(reasoner, own)
        assert together == [answers(reasoner, [example])[0] for example in own], method


def test_the_same_data_and_positions_for_every_method():
    with pytest.raises(ShammieError, match="must be one of"):
        MethodSettings("guess")  # type: ignore[arg-type]
    model = pico.build("gpt2")
    with pytest.raises(ShammieError, match="rotary"):
        make_reasoner(model, MethodSettings("cot"), ThinkingSettings())


TRAIN = (
    "--layers", "3", "--width", "16", "--heads", "2", "--neurons", "24", "--steps", "4", "--batch-size", "4", "--chunk", "4",
    "--checkpoint-every", "2", "--operations", "2", "--tested", "6", "--checked", "4", "--check-every", "0",
)  # fmt: skip


def test_train_evaluate_think_and_compare_as_typed(shammie, tmp_path):
    for method in ("thinking", "cot"):
        line = ("thinking-states", "train", "parity", "--method", method, *TRAIN, "--output-dir", tmp_path / method)
        code, said, error = shammie(*line)
        assert code == 0, said + error
    kinds = {r["kind"] for r in results(tmp_path / "thinking")}
    assert {"curve", "accuracy", "thoughts", "causal", "passes", "shown"} <= kinds
    assert [r["length"] for r in results(tmp_path / "cot") if r["kind"] == "accuracy"] == [2, 4, 8, 20]
    model = tmp_path / "thinking" / "artifacts" / "model"
    line = ("thinking-states", "evaluate", model, "parity", "--lengths", "2", "3", "--tested", "4")
    assert shammie(*line, "--output-dir", tmp_path / "look")[0] == 0
    assert "Whose answer?" in (tmp_path / "look" / "report.html").read_text()
    code, said, _ = shammie("thinking-states", "think", "The coin shows heads . Ann flips it .", "--model", model)
    assert code == 0
    assert "The coin shows heads" in said
    line = ("thinking-states", "compare", tmp_path / "thinking", tmp_path / "cot", "--output-dir", tmp_path / "both")
    assert shammie(*line)[0] == 0
    assert {r["method"] for r in results(tmp_path / "both")} == {"thinking", "cot"}
    assert "Forward passes a question" in (tmp_path / "both" / "report.html").read_text()


def test_seeds_are_compared_by_their_mean_and_range():
    one, two = ({"accuracy": {"value": value, "low": 0.0, "high": 1.0, "n": 9}} for value in (0.5, 0.75))
    assert across([one]) == one["accuracy"]
    assert across([one, two]) == {"value": 0.625, "low": 0.5, "high": 0.75, "n": 2}
    head = {"kind": "accuracy", "method": "cot", "seed": 3}
    rows = [{**head, "length": n, "unread": n / 100, **own} for n, own in ((10, one), (30, two))]
    table = compare_blocks(rows)[-1]
    assert table.rows == [["chain of thought", 3, one["accuracy"], two["accuracy"], 0.2]]


def test_bad_input_is_one_sentence(shammie, tmp_path):
    def fails(*line):
        code, said, error = shammie("thinking-states", *line)
        assert code == 2, said
        assert len(error.strip().splitlines()) == 1
        return error

    assert "there are parity" in fails("train", "party", "--output-dir", tmp_path / "a")
    assert "--inject must lie below" in fails(
        "train", "parity", *TRAIN, "--extract", "0", "--output-dir", tmp_path / "b"
    )
    assert "method.json is missing" in fails("think", "heads", "--model", tmp_path)
    assert "no word 'dog'" in fails("think", "The dog shows heads .")
    line = [*TRAIN, "--longest", "2", "--output-dir", tmp_path / "d"]
    assert "does not fit into --longest 2" in fails("train", "variables", *line)
    line = ["--model", "smollm2-135m", "--window", "8", "--output-dir", tmp_path / "e"]
    assert "leave them out with --model" in fails("train", "parity", *line)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"question": "q", "steps": ["unclear"], "answer": "a"}) + "\n")
    assert "row 1" in fails("train", str(rows), *TRAIN, "--output-dir", tmp_path / "c")
    assert not (tmp_path / "a").exists()


def test_a_file_of_problems_is_trained_on_and_what_was_dropped_is_listed(shammie, tmp_path):
    rows = [
        {
            "question": f"Tom has {n} figs and buys {n + 1} .",
            "steps": [f"{n} + {n + 1} = {n + n + 1}"],
            "answer": str(n + n + 1),
        }
        for n in range(20)
    ]
    rows.insert(3, {"question": "Tom ?", "steps": ["unclear"], "answer": "a"})
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, said, error = shammie("thinking-states", "train", path, *TRAIN, "--output-dir", tmp_path / "run")
    assert code == 0, said + error
    found = results(tmp_path / "run")
    assert [r["row"] for r in found if r["kind"] == "dropped"] == [4]
    assert [r["accuracy"]["n"] for r in found if r["kind"] == "accuracy"] == [6]


def test_runs_of_different_problems_are_not_compared(shammie, tmp_path):
    for operations in ("2", "3"):
        line = [*TRAIN, "--output-dir", tmp_path / operations]
        line[line.index("--operations") + 1] = operations
        assert shammie("thinking-states", "train", "parity", *line)[0] == 0
    code, _, error = shammie("thinking-states", "compare", tmp_path / "2", tmp_path / "3")
    assert code == 2
    assert "different problems" in error


def test_a_model_with_a_known_cause_is_found_out():
    from shammie.thinking_states.planted import followed, reasoner

    assert followed(1.0, 0) > 0.6 > 0.4 > followed(0.0, 0)
    model = reasoner()
    own = [model.layout.encode(PARITY.problem(0, n, 6, shortest=6, test=True)) for n in range(20)]
    found = {r["states"]: r for r in causal(model, own)}
    assert found["own"]["accuracy"]["value"] == 1
    assert found["none"]["accuracy"]["value"] < 0.8
    assert found["another's"]["donor"]["value"] == 1


def test_what_is_checked_is_not_what_is_trained_on():
    corpus = corpus_of(ThinkingTrain("variables", Path("unused"), operations=6, checked=100))
    trained = {corpus.train(number).question for number in range(2000)}
    assert not trained & {problem.question for problem in corpus.checked if problem.length > 2}
