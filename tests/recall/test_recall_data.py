"""Questions from every layout, and what is wrong with those that cannot be asked."""

import json

import pytest

from shammie.core.errors import DataError, MissingFileError
from shammie.recall.data import Question, QuestionSet, load_questions


def write(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("row", "answers", "relation"),
    [
        ({"question": "Q?", "answers": ["A", "B"]}, ("A", "B"), ""),
        ({"question": "Q?", "answer": ["A"]}, ("A",), ""),  # NQ-open
        ({"question": "Q?", "answer": "A"}, ("A",), ""),
        ({"question": "Q?", "answers": [1945]}, ("1945",), ""),
        ({"question": "Q?", "possible_answers": '["A", "B"]', "prop": "capital", "subj": "S"}, ("A", "B"), "capital"),
        ({"question": "Q?", "answer": {"value": "A", "aliases": ["A", "B"]}}, ("A", "B"), ""),  # TriviaQA
        ({"problem": "Q?", "answer": "A", "topic": "Art"}, ("A",), "Art"),  # SimpleQA
        ({"problem": "Q?", "answer": "A", "metadata": "{'topic': 'Art', 'answer_type': 'Person'}"}, ("A",), "Art"),
    ],
)
def test_layouts_of_rows(tmp_path, row, answers, relation) -> None:
    (question,) = load_questions(write(tmp_path / "q.jsonl", [row])).questions
    assert (question.text, question.answers, question.relation) == ("Q?", answers, relation)


def test_simple_qa_verified_as_csv(tmp_path) -> None:
    path = tmp_path / "simpleqa_verified.csv"
    path.write_text(
        "original_index,problem,answer,topic,answer_type,multi_step,requires_reasoning\n"
        '7,"How many, in all?",42,Science,Number,False,True\n9,Who?,Ada,Science,Person,False,False\n'
    )
    one, other = load_questions(str(path)).questions
    assert (one.text, one.complex, one.matching) == ("How many, in all?", True, "number")
    assert (other.complex, other.matching) == (False, "text")


def test_entity_questions_directory(tmp_path) -> None:
    for name, split in (("P17", "test"), ("P17", "train"), ("P50", "test")):
        (tmp_path / f"{name}.{split}.json").write_text(json.dumps([{"question": f"{name} {split}?", "answers": ["A"]}]))
    found = load_questions(str(tmp_path)).questions
    assert [(q.relation, q.text) for q in found] == [("P17", "P17 test?"), ("P50", "P50 test?")]
    assert [q.relation for q in load_questions(str(tmp_path), relations=("P50",)).questions] == ["P50"]


def test_official_trivia_qa(tmp_path) -> None:
    path = tmp_path / "verified.json"
    answer = {"Value": "Paris", "Aliases": ["City of Paris"]}
    path.write_text(json.dumps({"Data": [{"Question": "Where?", "QuestionId": "tc_1", "Answer": answer}]}))
    (question,) = load_questions(str(path)).questions
    assert (question.id, question.answers) == ("tc_1", ("Paris", "City of Paris"))


def test_geonames() -> None:
    found = load_questions("geonames:countries").questions
    capital = {q.subject: q for q in found if q.relation == "capital"}
    assert capital["Peru"].answers == ("Lima",)
    assert "Singapore" not in capital  # the answer would stand in the question
    assert all(not any(answer in q.text for answer in q.answers) for q in found)


def test_a_limit_draws_by_seed_and_keeps_the_order() -> None:
    everything = [q.id for q in load_questions("geonames:countries").questions]
    some = [q.id for q in load_questions("geonames:countries", limit=20, seed=1).questions]
    assert len(some) == 20
    assert some == sorted(some, key=everything.index)
    assert some != [q.id for q in load_questions("geonames:countries", limit=20, seed=2).questions]
    assert some != everything[:20]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"question": "Q?"}], "has no answers"),
        ([{"question": "Q?", "answers": []}], "has no answers"),
        ([{"question": " ", "answers": ["A"]}], "no question"),
        (
            [{"question": "Q?", "answers": ["A"], "id": 1}, {"question": "R?", "answers": ["A"], "id": 1}],
            "two questions",
        ),
    ],
)
def test_what_cannot_be_asked(tmp_path, rows, said) -> None:
    with pytest.raises(DataError, match=said):
        load_questions(write(tmp_path / "q.jsonl", rows))


def test_sources_that_hold_nothing(tmp_path) -> None:
    with pytest.raises(MissingFileError, match=r"P\*\.json"):
        load_questions(str(tmp_path))
    with pytest.raises(DataError, match="geonames:cities"):
        load_questions("geonames:rivers")
    with pytest.raises(DataError, match="relation 'age'"):
        load_questions("geonames:countries", relations=("age",))
    (tmp_path / "x.json").write_text('{"a": 1}')
    with pytest.raises(DataError, match="neither a list"):
        load_questions(str(tmp_path / "x.json"))
    with pytest.raises(DataError, match="no questions"):
        QuestionSet.of([], "nothing")


def test_the_hash_is_of_the_questions() -> None:
    one, other = Question("1", "Q?", ("A",)), Question("1", "Q?", ("B",))
    assert QuestionSet.of([one], "x").sha256 == QuestionSet.of([one], "y").sha256
    assert QuestionSet.of([one], "x").sha256 != QuestionSet.of([other], "x").sha256
