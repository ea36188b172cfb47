"""Problems against an oracle that works them out from their words alone, and the places where steps can be known."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pico
from shammie.core.errors import DataError, ShammieError
from shammie.core.words import word_tokenizer
from shammie.thinking_states.align import aligned, judged, marked, numbers
from shammie.thinking_states.data import load_problems, split
from shammie.thinking_states.problems import Layout, Problem, Step
from shammie.thinking_states.tasks import TASKS, held_out, hops, task_named


def told(name, seed, length):
    return TASKS[name].problem(seed, 0, length, shortest=length, test=seed % 2 == 1)


@given(st.integers(0, 500), st.integers(1, 30))
def test_the_coin(seed, length):
    problem = told("parity", seed, length)
    sides = ["heads"]
    for sentence in problem.question.split(" .")[1:-1]:
        sides.append({"heads": "tails", "tails": "heads"}[sides[-1]] if "flips" in sentence else sides[-1])
    assert [step.text for step in problem.steps] == sides[1:]
    assert len(sides) == length + 1
    assert problem.answer == sides[-1]


@given(st.integers(0, 500), st.integers(1, 20))
def test_the_variables(seed, length):
    problem = told("variables", seed, length)
    *sentences, asked = problem.question.split(" . ")
    values, seen = {}, []
    for sentence in sentences:
        name, right = sentence.split(" = ")
        values[name] = eval(right, {}, values) % 10  # words of our own task
        seen.append(" ".join(str(values.get(key)) for key in "abc"))
    assert [step.text for step in problem.steps] == seen[2:]
    assert problem.answer == str(values[asked.split()[0]])


@given(st.integers(0, 500), st.integers(1, 8))
def test_the_stories(seed, length):
    problem = told("stories", seed, length)
    owned = {}
    for sentence in problem.question.split(" . "):
        words = sentence.split()
        name, count = words[0], next((int(word) for word in words if word.isdecimal()), 0)
        match words[1]:
            case "has":
                owned[name] = count
            case "buys":
                owned[name] += count * int(words[5])
            case "loses":
                owned[name] -= count
            case "gives":
                owned[name] -= count
                owned[words[-1]] += count
            case "finds":
                owned[name] *= 2
    wanted = sum(owned.values()) if "together" in problem.question else owned[problem.question.split()[-3]]
    assert problem.answer == str(wanted)
    for step in problem.steps:
        left, right = step.text.removesuffix(" ;").split(" = ")
        numbers = [word for word in left.split() if word not in owned]
        assert eval(" ".join(numbers)) == int(right)  # words of our own task
    assert min(owned.values()) >= 0


def test_compositions_that_are_tested_are_never_trained_on():
    train = {hops(random.Random(n), 2, False).question for n in range(3000)}
    test = {hops(random.Random(n), 2, True).question for n in range(3000)}
    assert {question.count("'s") for question in train} == {1, 2}
    assert {question.count("'s") for question in test} == {2}
    assert not train & test
    share = sum(held_out(n, a, b) for n in range(60) for a in range(6) for b in range(6)) / (60 * 36)
    assert 0.15 < share < 0.25


@pytest.mark.parametrize("name", TASKS)
def test_problems_are_a_function_of_their_number_and_every_word_is_known(name):
    task = TASKS[name]
    layout = Layout(word_tokenizer(task.words), 6)
    for index in range(200):
        problem = task.problem(3, index, 6)
        assert problem == task.problem(3, index, 6)
        example = layout.encode(problem)
        assert layout.text(example.question) == problem.question
        assert [token for thought in example.thoughts for token in thought] == [
            t for step in example.steps for t in step
        ]
        assert all(a.at <= b.at for a, b in zip(problem.steps, problem.steps[1:], strict=False))
    assert task.problem(3, 0, 6) != task.problem(3, 1, 6)
    assert task.problem(3, 0, 6) != task.problem(4, 0, 6)


@given(st.integers(1, 9), st.integers(0, 300))
def test_no_thought_comes_before_what_it_follows_from_is_read(chunk, seed):
    problem = told("variables", seed, 6)
    layout = Layout(word_tokenizer(TASKS["variables"].words), chunk)
    example = layout.encode(problem)
    words = problem.question.split()
    for number, thought in enumerate(example.thoughts):
        read = len(" ".join(words[: (number + 1) * chunk]))
        before = len(" ".join(words[: number * chunk]))
        wanted = [step.text for step in problem.steps if before < step.at <= read]
        assert layout.text(thought) == " ".join(wanted)


def test_what_a_tokenizer_puts_before_a_text_counts_as_read():
    class Opening:
        def __init__(self, own):
            self.own = own

        def __getattr__(self, name):
            return getattr(self.own, name)

        def __call__(self, text, add_special_tokens=True, return_offsets_mapping=False):
            made = self.own(text, add_special_tokens=False, return_offsets_mapping=return_offsets_mapping)
            if add_special_tokens:
                made["input_ids"] = [1, *made["input_ids"]]
                if return_offsets_mapping:
                    made["offset_mapping"] = [(0, 0), *made["offset_mapping"]]
            return made

    example = Layout(Opening(pico.tokenizer()), 2).encode(
        Problem("abcd", (Step("x", 1), Step("y", 2), Step("z", 4)), "e")
    )
    assert [bool(thought) for thought in example.thoughts] == [True, True, True]


def test_unknown_words_and_steps_that_stand_nowhere_are_named():
    layout = Layout(word_tokenizer(TASKS["parity"].words), 6)
    with pytest.raises(DataError, match="no word 'dog'"):
        layout.question("The dog shows heads .")
    with pytest.raises(DataError, match="stands at character 99"):
        layout.encode(Problem("The coin", (Step("heads", 99),), "heads"))
    with pytest.raises(DataError, match="without tokens"):
        layout.encode(Problem("", (), "heads"))
    with pytest.raises(ShammieError, match="there are parity"):
        task_named("party")


def test_numbers_in_digits_and_words():
    text = "She has 1,200 apples, two pears and half a dozen figs at $3.50"
    assert [value for value, _ in numbers(text)] == [1200, 2, 0.5, 12, 3.5]


def test_sums_are_placed_where_their_numbers_are_known():
    question = "Tom has 5 apples and buys 3 bags with 4 apples each. He works 2 hours. How many minutes is that?"
    steps = aligned(question, ["3*4=12", "5+12=17", "2*60=120", "17*99=1683"])
    places = [step.at for step in steps]
    assert places[0] == question.index("4 apples each") + 1
    assert places[1] == places[0]
    assert places[2] == question.index("2 hours") + 1
    assert places[3] == len(question)
    assert "is no sum" in aligned(question, ["the answer is clear"])


def test_a_judges_marks_are_taken_only_where_the_text_stayed_as_it_was():
    question = "Tom has 5 apples and buys 7."
    assert marked(question, ["a"], "Tom has 5 apples and buys 7 [1].")[0].at == len(question) - 1
    assert "changed" in marked(question, ["a"], "Tom has 5 apples and buys 8 [1].")
    assert "1 marks for 2" in marked(question, ["a", "b"], "Tom has 5 apples and buys 7 [1].")
    assert "2 marks" in marked(question, ["a", "b"], "Tom has 5 [2] apples and buys 7 [1].")

    class Judge:
        identity = "stub"

        def complete(self, prompts):
            return [prompt.split("Question: ")[1].split("\n\nSteps:")[0] + " [1]" for prompt in prompts]

    problem = Problem(question, (Step("5+7=12", 0),), "12")
    assert judged([problem], Judge()) == [(Step("5+7=12", len(question)),)]


def test_files_are_read_in_their_layouts_and_what_cannot_be_placed_is_listed(tmp_path):
    rows = [
        {"question": "Tom has 5 apples and buys 7.", "steps": ["<<5+7=12>>"], "answer": "12"},
        {"question": "Who is the mother of Ann's boss?", "subject": "Ann", "bridge": "Dan", "answer": "Eve"},
        {"question": "Tom has 5.", "steps": ["five, clearly"], "answer": "5"},
        {"question": "a b c", "steps": ["x", "y"], "at": [1, 5], "answer": "z"},
        {"question": "a b c", "steps": ["x", "y"], "at": [1], "answer": "z"},
        {"question": "  ", "answer": "z"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_problems(path)
    assert [p.answer for p in found.kept] == ["12", "Eve", "z"]
    assert found.kept[0].steps == (Step("5+7=12", 27),)
    assert found.kept[1].steps[0].at == rows[1]["question"].index("Ann") + 3
    assert [row for row, _ in found.dropped] == [3, 5, 6]
    text = tmp_path / "lines.txt"
    text.write_text("Tom has 5 apples and buys 7.||<<5+7=12>> #### 12\n")
    assert load_problems(text).kept == found.kept[:1]
    text.write_text("no bars\n")
    with pytest.raises(DataError, match="line 1"):
        load_problems(text)
    path.write_text(json.dumps(rows[2]) + "\n")
    with pytest.raises(DataError, match="row 1"):
        load_problems(path)
    with pytest.raises(DataError, match="cannot be cut"):
        split(found.kept, 3)
