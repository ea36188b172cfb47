"""The planted worlds, trained once for all tests, also as a directory with questions and triples beside the model."""

import json

import pytest

from shammie.recall.planted import ENTITIES, entity, near, planted_model, questions


@pytest.fixture(scope="session")
def facts_world():
    return planted_model("facts")


@pytest.fixture(scope="session")
def place(facts_world, tmp_path_factory):
    place = tmp_path_factory.mktemp("recall")
    facts_world.module.save_pretrained(place / "model")
    facts_world.tokenizer.save_pretrained(place / "model")
    rows = [
        {"id": q.id, "question": q.text, "answers": list(q.answers), "relation": "value", "subject": q.subject}
        for q in questions()
    ]
    (place / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    triples = [
        {"subject": entity(n), "relation": "near", "objects": [near(n)], "words": ["near"]} for n in range(ENTITIES)
    ]
    (place / "triples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in triples))
    return place
