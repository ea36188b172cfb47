"""Facts of traces: what is one, what gives the answer away, and what is true."""

import random

import pytest

from shammie.core.errors import DataError
from shammie.core.judge import Judge
from shammie.recall.data import Question
from shammie.recall.facts import extract, leak, sentences, statements
from shammie.recall.knowledge import Knowledge, Triple, load_knowledge

PERU = Question("1", "What is the capital of Peru?", ("Lima",), "capital", "Peru")
TRACE = """Okay, let me think about Peru. Peru is a country in South America.
1. It borders Chile, Ecuador and Brazil.
- The capital of Peru is Lima. Dr. Smith wrote of it in 1990.
What is the capital? I think it is Lima. Its currency is the sol. The largest city of Peru was founded by the"""


@pytest.fixture(scope="module")
def world() -> Knowledge:
    return load_knowledge("geonames:")


def test_sentences_keep_abbreviations_and_lose_bullets() -> None:
    found = sentences(TRACE)
    assert "It borders Chile, Ecuador and Brazil." in found
    assert "Dr. Smith wrote of it in 1990." in found
    assert sentences("") == []


def test_statements_are_not_talk_questions_or_cut_off(world: Knowledge) -> None:
    assert statements(TRACE, PERU, world) == [
        "Peru is a country in South America.",
        "It borders Chile, Ecuador and Brazil.",
        "The capital of Peru is Lima.",
        "Dr. Smith wrote of it in 1990.",
        "Its currency is the sol.",
    ]
    assert "Its currency is the sol." not in statements(TRACE, PERU)  # it names nothing, and nobody knows it
    assert statements("The capital of Peru is a city.", PERU) == []  # the question in other words


def test_facts_of_a_trace(world: Knowledge) -> None:
    found = {fact.text: fact for fact in extract(TRACE, PERU, "Cusco", world)}
    assert found["Peru is a country in South America."].verdict == "true"
    assert found["It borders Chile, Ecuador and Brazil."].verdict == "true"  # It is the question's subject
    assert found["The capital of Peru is Lima."].leak == "answer"
    assert found["Dr. Smith wrote of it in 1990."].verdict == "unknown"


@pytest.mark.parametrize(
    ("sentence", "question", "answers", "said", "reason"),
    [
        ("He was born in Lima.", "Where?", ("Lima",), None, "answer"),
        ("Lima's harbour is Callao.", "Where?", ("Lima",), None, "inflection of the answer"),
        ("Limassol is a town.", "Where?", ("Lima",), None, None),
        ("Einstein wrote it.", "Who?", ("Albert Einstein",), None, "part of the answer"),
        ("The New York times says so.", "Which city?", ("New Orleans",), None, None),  # "new" gives nothing away
        ("The river Thames is long.", "Which river flows there?", ("River Severn",), None, None),  # in the question
        ("An Italian wrote it.", "Which country?", ("Italy",), None, "inflection of the answer"),
        ("A French painter lived there.", "Which country?", ("France",), None, "inflection of the answer"),
        ("Many poets lived there.", "What was he?", ("poet",), None, "inflection of the answer"),
        ("It cost 1.889 thousand pounds.", "How much?", ("1889",), None, "number of the answer"),
        ("It was built in 1890.", "When?", ("1889",), None, None),
        ("It was built in 1889.", "What of 1889?", ("1889 and later",), None, None),
        ("Cusco was the old capital.", "Where?", ("Lima",), "Cusco", "own answer"),
        ("Cusco was the old capital.", "Where?", ("Lima",), "", None),
    ],
)
def test_leaks(sentence, question, answers, said, reason) -> None:
    assert leak(sentence, Question("1", question, answers), said) == reason


@pytest.mark.parametrize(
    ("sentence", "verdict"),
    [
        ("The capital of Peru is Lima.", "true"),
        ("Lima is the capital and largest city of Peru.", "true"),
        ("The capital of Peru is Quito.", "false"),
        ("Quito is not the capital of Peru.", "unknown"),
        ("Lima, the capital of Peru, is south of Ecuador.", "unknown"),
        ("Peru borders Chile and Brazil.", "true"),
        ("Peru borders Chile and Spain.", "false"),
        ("Nepal is bordered by China to the north and India to the south.", "true"),
        ("The currency of Japan is the yen.", "true"),
        ("Japan's currency is the dollar.", "false"),
        ("Peru is located in Africa.", "false"),
        ("Peru is famous for its food.", "unknown"),
        ("Mr. Peru went to Lima.", "unknown"),
    ],
)
def test_verdicts(world: Knowledge, sentence: str, verdict: str) -> None:
    assert world.check(sentence) == verdict


def test_every_triple_is_true_and_every_swap_is_false(world: Knowledge) -> None:
    draw, swapped = random.Random(0), 0
    for relation in world.known:
        for subject in draw.sample(sorted(world.known[relation]), 40):
            name = world.known[relation][subject][0]
            sentence = world.sentence(relation, subject, name)
            if world.check(sentence) != "true":  # names that hold others, such as Guinea-Bissau, are not told apart
                continue
            new = world.swapped(sentence, [], draw)
            if new:
                swapped += 1
                assert world.check(new) != "true", new
    assert swapped > 120


def test_about_a_subject_leaves_the_answer_out(world: Knowledge) -> None:
    told = world.about("Peru", "capital", ["Lima"])
    assert told
    assert all(world.check(sentence) == "true" and "Lima" not in sentence for sentence in told)


class Replies:
    """A completer that says the same of every statement."""

    def __init__(self, *replies: str) -> None:
        self.replies, self.identity, self.asked = replies, "stub", []

    def complete(self, prompts):
        self.asked += prompts
        return [next(r for r in self.replies if (r in ("FACT", "NO FACT")) == ("NO FACT" in p)) for p in prompts]


def test_a_judge_decides_what_is_a_fact_and_may_abstain(world: Knowledge) -> None:
    assert extract(TRACE, PERU, None, world, Judge(Replies("NO FACT", "TRUE"))) == []
    judge = Judge(completer := Replies("FACT", "FALSE"))
    found = {fact.text: fact.verdict for fact in extract(TRACE, PERU, None, world, judge)}
    assert found["Dr. Smith wrote of it in 1990."] == "false"
    assert found["Peru is a country in South America."] == "true"  # the triples know, so the judge is not asked
    assert not any("South America" in p for p in completer.asked if "UNKNOWN" in p)
    unsure = extract(TRACE, PERU, None, world, Judge(Replies("FACT", "UNKNOWN")))
    assert {fact.verdict for fact in unsure} == {"true", "unknown"}


def test_own_triples(tmp_path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"subject": "Ada", "relation": "mother", "objects": ["Anne"], "words": ["mother", "daughter"]}\n')
    known = load_knowledge(str(path))
    assert known.check("Ada was the daughter of Anne.") == "true"
    assert known.check("Ada wrote to Anne.") == "unknown"
    with pytest.raises(DataError, match="no triples"):
        Knowledge([], {}, "nothing")
    one, other = Knowledge([Triple("A", "r", ("B",))], {}, "x"), Knowledge([Triple("A", "r", ("C",))], {}, "x")
    assert one.sha256 != other.sha256
