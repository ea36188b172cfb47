"""The chapter: it measures on a model that knows the concept, says so of one that does not, and draws from records."""

from dataclasses import dataclass

import pytest

import pico
from shammie.ember import tour
from shammie.report import Section, of_kind, render_page


@dataclass
class Context:
    model: object
    seed: int = 0

    def size(self, reduced, full):
        return min(reduced, 6)


def drawn(records):
    return render_page("t", "s", [], [Section("ember", "t", "q", "", tour.draw(records))])


def test_a_model_that_knows_nothing_of_the_concept_is_said_so():
    records = list(tour.measure(Context(pico.shared("llama"))))
    assert "Nothing was erased" in drawn(records)


@pytest.mark.real
def test_the_chapter_on_the_embedded_model():
    from shammie.core.model import load

    model = load("smollm2-135m")
    before = model.hash
    records = list(tour.measure(Context(model)))
    assert model.hash == before
    assert of_kind(records, "outcome", arm="erased", values="hits")[0]["efficacy"]["value"] > 0.2
    assert {r["arm"] for r in of_kind(records, "answered")} == {"untouched", "erased"}
    assert any("honey" in r["text"] for r in of_kind(records, "edited_token"))
    page = drawn(records)
    assert "Relearning (lora)" in page
    assert "random features" in page
