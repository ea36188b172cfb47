"""Problems: drawn, solved and audited; their statements hold when they are computed anew."""

import random
import re
from itertools import pairwise

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from shammie.bonafide.audit import all_levels, audit_answers, audit_task, refuse_unsound
from shammie.bonafide.matching import states
from shammie.bonafide.parsing import parse_reply
from shammie.bonafide.prompts import EXAMPLES, chat, worked
from shammie.bonafide.settings import Cell, ChainSettings
from shammie.bonafide.tasks import DIVERSIONARY, FAMILIES, OUTRIGHT, draw_problem
from shammie.bonafide.tasks.hints import STYLES
from shammie.core.errors import ShammieError

SEEDS = st.integers(0, 10**6)
OUTRIGHT_LEVELS = [(name, level) for name, level in all_levels() if name in OUTRIGHT]


def outright(name, level, seed):
    return draw_problem(name, level, seed)


@pytest.mark.parametrize(("name", "level"), OUTRIGHT_LEVELS)
@drawn(seed=SEEDS)
def test_a_problem_is_its_seed_s_and_every_stage_states_itself(name, level, seed):
    problem = outright(name, level, seed)
    assert problem == outright(name, level, seed)
    assert problem.stages
    for number, stage in enumerate(problem.stages):
        assert states(stage.text, stage), stage
        for earlier in problem.stages[:number]:
            assert not states(stage.text, earlier) or earlier.value == stage.value, (earlier, stage)


@pytest.mark.parametrize(("name", "level"), OUTRIGHT_LEVELS)
@drawn(seed=SEEDS, draw=SEEDS)
def test_a_replaced_stage_stands_as_it_was_put_and_the_ones_before_it_stay(name, level, seed, draw):
    problem, family = outright(name, level, seed), FAMILIES[name]
    number = draw % len(problem.stages)
    value = family.other(problem.given, number, random.Random(draw))
    again = family.solve(problem.given, {number: value})
    assert value != problem.stages[number].value
    assert again.stages[number].value == value
    assert [s.value for s in again.stages[:number]] == [s.value for s in problem.stages[:number]]
    own = {number: problem.stages[number].value for number in range(len(problem.stages))}
    assert family.solve(problem.given, own).answer == problem.answer


@drawn(seed=SEEDS, level=st.sampled_from([2, 3, 4]))
def test_nested_moduli_by_python_itself(seed, level):
    for stage in outright("nested_mod", level, seed).stages:
        said, value = re.fullmatch(r"Stage \d+: (.*) mod (.*) = .*", stage.text).groups(), stage.value
        assert eval(said[0].replace("^", "**")) % int(said[1]) == int(value)


@drawn(seed=SEEDS)
def test_collatz_and_digit_squares_by_their_definition(seed):
    problem = outright("collatz", 6, seed)
    x = problem.given["start"]
    for stage in problem.stages:
        x = x // 2 if x % 2 == 0 else 3 * x + 1
        assert stage.value == str(x)
    problem = outright("digit_square", 3, seed)
    x, total = problem.given["start"], 0
    for stage in problem.stages:
        x = sum(int(digit) * int(digit) for digit in str(x))
        total += x
        assert stage.value == str(x)
    assert problem.answer == str(total)


@drawn(seed=SEEDS)
def test_the_largest_prime_factor_divides_and_nothing_larger_does(seed):
    for stage in outright("prime_chain", 3, seed).stages:
        x, p = map(int, re.search(r"of (\d+) is (\d+)", stage.text).groups())
        assert x % p == 0
        assert all(p % d for d in range(2, p))
        rest = x
        while rest % p == 0:
            rest //= p
        assert not any(rest % q == 0 and all(q % d for d in range(2, int(q**0.5) + 1)) for q in range(p + 1, rest + 1))


@drawn(seed=SEEDS, level=st.sampled_from([2, 3, 4]))
def test_layers_of_a_cipher_keep_letters_or_places_and_no_two_of_a_kind_meet(seed, level):
    problem = outright("cipher", level, seed)
    texts = [problem.given["text"], *(stage.value for stage in problem.stages)]
    moved = [sorted(a) == sorted(b) and a != b for a, b in pairwise(texts)]
    kinds = [kind in ("reverse", "rotate", "swap") for kind, _ in problem.given["layers"]]
    assert all(a != b for a, b in pairwise(kinds))
    assert all(m for m, k in zip(moved, kinds, strict=True) if k)


@drawn(seed=SEEDS)
def test_text_extraction_walks_to_where_its_rule_says(seed):
    problem = outright("text_extraction", 4, seed)
    lines, line, place = problem.given["lines"], problem.given["line"], problem.given["word"]
    for stage in problem.stages:
        word = lines[line - 1][place - 1]
        assert stage.value == word
        line, place = len(word) - 3, " aeiou".index(word[1])
    assert len({(len(w), w[1]) for row in lines for w in row}) == 45


@drawn(seed=SEEDS)
def test_a_tournament_ends_with_its_champion_s_own_last_match(seed):
    problem = outright("tournament", 3, seed)
    assert problem.stages[-1].value == problem.answer
    assert sum(stage.necessary for stage in problem.stages) == 3


@drawn(seed=SEEDS)
def test_paragraph_counts_by_another_way(seed):
    problem = outright("paragraph_analysis", 2, seed)
    words = problem.given["words"]
    counts = [
        sum(bool(re.search(r"(.)\1", w)) for w in words),
        len([w for w in words if len(w) == problem.given["length"]]),
        len(re.findall(r"\b[aeiou]", " ".join(words))),
    ]
    assert [int(s.value) for s in problem.stages] == counts
    assert problem.answer == str(17 * counts[0] + 23 * counts[1] + 31 * counts[2])


@drawn(
    seed=SEEDS, style=st.sampled_from(list(STYLES)), name=st.sampled_from(list(DIVERSIONARY)), indirect=st.booleans()
)
def test_a_hint_names_a_wrong_answer_and_an_indirect_one_evaluates_to_it(seed, style, name, indirect):
    problem = draw_problem(name, 1, seed, f"indirect:{style}" if indirect else style)
    assert problem.expected == problem.hint.value != problem.answer
    assert problem.hint.text in problem.question
    if indirect:
        assert str(eval(problem.hint.expression)) == problem.hint.value
        assert problem.hint.value not in problem.question.replace(problem.hint.expression, "")
        assert problem.stages[0].value == problem.hint.value
    else:
        assert problem.hint.value in problem.hint.text


def test_counting_numbers_by_brute_force():
    problem = draw_problem("expert_numbers", 1, 5, "metadata")
    g = problem.given
    count = 0
    for n in range(1, g["stop"] + 1):
        count += n % g["modulus"] == g["rest"] and sum(int(d) for d in str(n)) % g["divisor"] == 0
    assert problem.answer == str(count)


@pytest.mark.parametrize(("name", "level"), all_levels())
def test_every_level_passes_its_audit(name, level):
    records = audit_task(name, level, 600, seed=1)
    refuse_unsound(records)
    assert records[0]["measure"] == "guess"


def test_a_level_over_a_limit_is_refused_by_name():
    with pytest.raises(ShammieError, match=r"collatz at level 4 has a no-chain rate of 0\.200"):
        refuse_unsound([audit_answers("collatz", 4, [True] + [False] * 4)])


@pytest.mark.parametrize("example", EXAMPLES)
@drawn(seed=st.integers(0, 10**4))
def test_worked_examples_end_with_the_expected_answer_and_are_other_problems(example, seed):
    for name, level in (("digit_square", 2), ("stoichiometry", 2), ("graph_traversal", 2)):
        if example in ("none", "worked"):
            problem = draw_problem(name, level, seed)
            assert FAMILIES[name].right(parse_reply(worked(problem, example)).answer, problem.expected)
            messages = chat(problem, example)
            assert len(messages) == (2 if example == "none" else 4)
            assert problem.question in messages[-1]["content"]
            assert problem.question not in messages[1]["content"] or example == "none"
    if example not in ("none", "worked"):
        problem = draw_problem("fictional_facts", 1, seed, "security_audit")
        assert parse_reply(worked(problem, example)).answer == problem.expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("collatz", "names no task"), ("collatz:5", "has no level 5"), ("colatz:4", "is no family"),
        ("collatz:4:metadata", "takes no hint"),
        ("diagnosis:1", "needs a hint"), ("diagnosis:1:metadta", "is no style of hint"),
    ],
)  # fmt: skip
def test_tasks_that_there_are_not_are_named(text, said):
    with pytest.raises(ShammieError, match=said):
        Cell.parse(text)


def test_settings_refuse_what_cannot_be():
    with pytest.raises(ShammieError, match="no manner of example"):
        ChainSettings(examples=("loud",))
    with pytest.raises(ShammieError, match="takes the examples none or worked"):
        ChainSettings(tasks=("collatz:4",), examples=("open",)).cells()
    assert [example for _, example in ChainSettings(tasks=("diagnosis:1:metadata",)).cells()] == [
        "open",
        "silent",
        "source",
    ]
