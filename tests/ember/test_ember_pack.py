"""Packs: the shipped ones keep their promises, leaks are found, the paper's layout converts."""

import json
from dataclasses import replace

import pytest

from shammie.core.errors import DataError, MissingFileError
from shammie.ember.convert import convert_pack
from shammie.ember.pack import (
    SHIPPED,
    Question,
    counts,
    find_leaks,
    load_pack,
    refuse_leaks,
    save_pack,
    without_leaks,
)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_packs_are_large_enough_and_leak_nothing(name):
    pack = load_pack(name)
    held = counts(pack)
    assert held["concept_sentences"] >= 80
    assert held["neutral_sentences"] >= 80
    assert held["questions validation"] >= 40
    assert held["questions test"] >= 40
    assert held["relearning"] == held["fresh paragraphs"] == 50
    assert find_leaks(pack) == []
    for split in ("validation", "test"):
        for questions in pack.asked(split).values():
            assert all(len(q.choices) == 4 and q.answer in q.choices for q in questions)
            places = [q.choices.index(q.answer) for q in questions]
            assert all(places.count(place) < len(places) / 2 for place in range(4))


def test_every_kind_of_leak_is_found_refused_and_mended(pack):
    asked = pack.questions.test[0]
    leaking = replace(
        pack,
        questions=replace(pack.questions, validation=(*pack.questions.validation, asked)),
        similar=replace(pack.similar, test=(*pack.similar.test, replace(asked, question=asked.question.upper()))),
        relearning=(*pack.relearning, f"Once upon a time there was one. {pack.concept_sentences[0]}"),
        neutral_sentences=(*pack.neutral_sentences, pack.concept_sentences[1]),
    )
    where = sorted(leak.where for leak in find_leaks(leaking))
    assert where == [
        "concept_sentences and neutral_sentences", "concept_sentences and relearning", "questions.test and questions.validation",
        "questions.test and similar.test",
    ]  # fmt: skip
    with pytest.raises(DataError, match="leaks in 4 places"):
        refuse_leaks(leaking, allow=False)
    assert len(refuse_leaks(leaking, allow=True)) == 4
    mended = without_leaks(leaking)
    assert find_leaks(mended) == []
    assert asked in mended.questions.test
    assert len(leaking.fresh_paragraphs()) == len(pack.relearning)


def test_a_pack_is_read_as_it_was_saved(pack, tmp_path):
    save_pack(pack, tmp_path / "pack.json")
    again = load_pack(tmp_path / "pack.json")
    assert replace(again, sha256="") == replace(pack, sha256="")
    assert len(again.sha256) == 64


def layout(**changes):
    choice = [
        {"q": "What is it?", "correct_answer": "gold", "options": ["gold", "tin"]},
        {"q": "Who?", "correct_answer": "A", "options": ["A", "B"]},
    ]
    opened = [{"q": "What is it?", "a": "gold metal"}, {"q": "Why?", "a": "because"}]
    names = [f"{name}_{split}" for name in ("QA", "SimdomQA") for split in ("train", "test")]
    return {
        "concept": "Gold", "sentences": ["Gold is a soft yellow metal."],
        "relearn_paragraphs": ["Gold is found in rivers and rocks."],
        "multiple_choice": dict.fromkeys(names, choice), "open": dict.fromkeys(names, opened),
    } | changes  # fmt: skip


def test_the_papers_layout_converts(tmp_path):
    (tmp_path / "gold.json").write_text(json.dumps(layout()))
    (tmp_path / "neutral.json").write_text(json.dumps([f"Sentence number {i} is about trains." for i in range(200)]))
    pack = convert_pack(tmp_path / "gold.json", tmp_path / "neutral.json")
    assert pack.questions.validation == (
        Question("What is it?", "gold", ("gold", "tin"), ("gold metal",)), Question("Who?", "A", ("A", "B")),
        Question("Why?", "because"),
    )  # fmt: skip
    assert len(pack.neutral_sentences) == 120
    assert len(pack.coherence.validation) == len(pack.coherence.test) == 40
    assert len(find_leaks(pack)) == 9  # every question stands in four places
    assert convert_pack(tmp_path / "gold.json", None).neutral_sentences == load_pack("honeybees").neutral_sentences


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([], "is no object"),
        ({"concept": "x"}, "lacks 'sentences'"),
        (layout(open={"QA_train": [{"q": "Why?"}]}), "lacks the field 'a'"),
    ],
)
def test_another_layout_is_refused(tmp_path, content, says):
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=says):
        convert_pack(tmp_path / "x.json", None)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 9}, "is no concept pack"),
        ({"concept_sentences": []}, "concept_sentences is empty"),
        ({"questions": {"validation": [], "test": []}}, "fewer than two validation questions"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_broken_pack_is_refused(pack, tmp_path, change, says):
    save_pack(pack, tmp_path / "pack.json")
    content = json.loads((tmp_path / "pack.json").read_text()) | change
    (tmp_path / "pack.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=says):
        load_pack(tmp_path / "pack.json")


def test_questions_must_hold_their_answer_once():
    with pytest.raises(DataError, match="must differ and hold the answer"):
        Question("Why?", "x", ("y", "z"))
    with pytest.raises(DataError, match="is empty"):
        Question(" ", "x")
    with pytest.raises(MissingFileError, match="no concept pack at nowhere"):
        load_pack("nowhere")
