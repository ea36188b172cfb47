"""Reading and intervening against the plain way: every family, one prompt at a time, one edit at a time."""

import pytest
import torch

from pico import DENSE, build, shared
from shammie.core.batch import make_batch
from shammie.core.capture import capture
from shammie.core.edit import edited, replace, scale
from shammie.core.errors import DataError, NonFiniteError, UnsupportedModelError
from shammie.core.position import LAST, Span
from shammie.core.score import score
from shammie.core.site import mlp_out, neurons
from shammie.entity_cells.data import Fact
from shammie.entity_cells.measure import Change, Question, ask, next_log_probs, scaled
from shammie.entity_cells.read import Layout, baseline, read_names

NAMES, TEMPLATES = ["Abo", "Cidedu", "Abofa gh"], ["The a of {}", "The longer word of {}", "The b of {}", "The c of {}"]
FACTS = [
    (Fact("r", "The town of Abo is", ("Land", "Lund")), "Abo"),
    (Fact("r", "Where is Cidedu now? In", ("Xyz",)), "Cidedu"),
]


def plain(model, texts):
    sites = [neurons(layer) for layer in range(len(model.anatomy.layers))]
    found = [capture(model, make_batch(model, [text]), sites, positions=LAST) for text in texts]
    return torch.stack([torch.cat([one[site][0].float() for site in sites]) for one in found])


@pytest.mark.parametrize("family", DENSE)
def test_moments_are_those_of_prompts_read_one_at_a_time(family):
    model = shared(family)
    layout = Layout.of(model)
    halves = read_names(model, layout, NAMES, TEMPLATES)
    for half, moments in enumerate(halves):
        for row, name in enumerate(NAMES):
            values = plain(model, [text.format(name) for text in TEMPLATES[half::2]])
            torch.testing.assert_close(moments.mean[row], values.mean(0), rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(moments.deviation()[row], values.std(0, unbiased=False), rtol=1e-2, atol=1e-3)


def test_the_baseline_is_the_moments_of_the_last_tokens():
    model, texts = shared("llama"), ["one two", "three", "a longer text here", "x y"]
    found, values = baseline(model, Layout.of(model), texts), plain(shared("llama"), texts)
    torch.testing.assert_close(found.mean[0], values.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.deviation()[0], values.std(0, unbiased=False), rtol=1e-3, atol=1e-4)


def test_a_layout_counts_both_ways():
    layout = Layout((3, 5, 2))
    assert [layout.place(i) for i in (0, 2, 3, 7, 8, 9)] == [(0, 0), (0, 2), (1, 0), (1, 4), (2, 0), (2, 1)]
    assert all(layout.index(*layout.place(i)) == i for i in range(layout.total))


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gemma3_text", "gemma2"])
def test_every_row_of_a_batch_has_its_own_changes(family):
    model = shared(family)
    questions = [Question.of(model, fact, name) for fact, name in FACTS]
    value = torch.linspace(-1, 1, model.anatomy.width)
    jobs = [
        (questions[0], ()), (questions[0], [scaled(1, range(3, 24), -2.0)]), (questions[1], [Change(mlp_out(0), shift=value)]),
        (questions[1], [scaled(0, [1], 0.0), scaled(2, [7], 4.0)]), (questions[0], [scaled(1, [3], -2.0, everywhere=True)]),
    ]  # fmt: skip
    at = [Span(question.entity, question.entity + 1) for question in questions]
    edits = [
        [], [scale(neurons(1), -2.0, positions=at[0], coordinates=range(3, 24))], [replace(mlp_out(0), value, positions=at[1])],
        [scale(neurons(0), 0.0, positions=at[1], coordinates=[1]), scale(neurons(2), 4.0, positions=at[1], coordinates=[7])],
        [scale(neurons(1), -2.0, coordinates=[3])],
    ]  # fmt: skip
    found = ask(model, jobs)
    for (question, _), edit, reading in zip(jobs, edits, found, strict=True):
        fact = FACTS[questions.index(question)][0]
        with edited(model, edit):
            wanted = score(model, [(fact.prompt, " " + fact.answers[0])])[0].log_probability
            first = next_log_probs(model, fact.prompt)[question.firsts[0]]
        assert abs(reading.log_likelihood - wanted) < 1e-3
        assert abs(reading.probability - float(first.exp())) < 1e-4
    assert abs(found[0].log_likelihood - found[1].log_likelihood) > 1e-5


def test_a_template_in_which_the_name_is_not_last_or_is_first_is_refused():
    model = shared("llama")
    for text in ("The {} of it", "{}"):
        with pytest.raises(DataError, match="must end with the name"):
            read_names(model, Layout.of(model), NAMES, [text] * 4)


def test_fused_experts_and_broken_weights_are_named():
    with pytest.raises(UnsupportedModelError, match="fused experts"):
        Layout.of(shared("mixtral"))
    model = build("llama")
    with torch.no_grad():
        model.anatomy.mlp_weights(1).read.view(model.module)[4] = float("inf")
    with pytest.raises(NonFiniteError, match=r"\(1, "):
        read_names(model, Layout.of(model), NAMES, TEMPLATES)
