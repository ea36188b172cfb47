"""Judges: prompts, verdict parsing that never guesses, and a log that is the cache."""

from __future__ import annotations

import json

import pytest

from shammie.core.errors import BackendError, ShammieError
from shammie.core.judge import BATCH, LOG, Judge, JudgePrompt, RegexCompleter, tally

GRADE = JudgePrompt("grade", "1", "Q: $question\nA: $response\n{json}", ("CORRECT", "INCORRECT", "NOT_ATTEMPTED"))
YES_NO = JudgePrompt("yes", "1", "$response", ("yes", "no"))


class Scripted:
    """A completer that answers by looking at the prompt and counts what it was asked."""

    def __init__(self, reply="CORRECT", identity="scripted-1"):
        self.identity = identity
        self.reply = reply
        self.asked = []

    def complete(self, prompts):
        self.asked.append(list(prompts))
        return [self.reply(prompt) if callable(self.reply) else self.reply for prompt in prompts]


def rows(*responses):
    return [{"question": "capital?", "response": response, "id": 7} for response in responses]


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("CORRECT", "CORRECT"),
        ("incorrect.", "INCORRECT"),
        ("The answer matches. Verdict: CORRECT", "CORRECT"),
        ("**Verdict:** Incorrect. The correct answer is Paris.", "INCORRECT"),
        ("INCORRECT. The correct answer was Paris.", "INCORRECT"),
        ("Grade: incorrect.\nThe CORRECT answer is Paris.", "INCORRECT"),
        ("At first CORRECT, but on reflection INCORRECT", None),
        ("CORRECT\nOn reflection it is\nINCORRECT", None),
        ("not attempted", "NOT_ATTEMPTED"),
        ("It is NOT-ATTEMPTED", "NOT_ATTEMPTED"),
        ('{"verdict": "incorrect"}', "INCORRECT"),
        ('```json\n{"reason": "CORRECT {x}", "verdict": "NOT_ATTEMPTED"}\n```', "NOT_ATTEMPTED"),
        ('{"verdict": "CORRECT"} or rather {"verdict": "INCORRECT"}', "INCORRECT"),
        ('{"verdict": "maybe"} CORRECT', None),
        ('{broken {"verdict": "CORRECT"}', "CORRECT"),
        ("<think>INCORRECT? no</think>CORRECT", "CORRECT"),
        ("<think>it is CORRECT", None),
        ("", None),
        ("I cannot say", None),
        ("INCORRECTLY put", None),
        ("That is not CORRECT", None),
        ("It isn't correct", None),
        ("CORRECT or INCORRECT", None),
        ("CORRECT/INCORRECT", None),
        ("- CORRECT\n- INCORRECT", None),
        ("maybe correct, maybe incorrect", None),
        ("the response seems correct to me", "CORRECT"),
    ],
)
def test_parse(reply, verdict):
    assert GRADE.parse(reply) == verdict


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [("Yes", "yes"), ("No, because yesterday", "no"), ('{"verdict": true}', None), ("yes/no", None)],
)
def test_parse_short_words(reply, verdict):
    assert YES_NO.parse(reply) == verdict


def test_the_longest_verdict_wins():
    prompt = JudgePrompt("abstain", "1", "$response", ("no", "no answer"))
    assert prompt.parse("no answer") == "no answer"
    assert prompt.parse("No.") == "no"


def test_fill():
    assert GRADE.fill(rows("Pa$ris")[0]) == "Q: capital?\nA: Pa$ris\n{json}"
    with pytest.raises(ShammieError, match="'grade' lacks the field 'response'"):
        GRADE.fill({"question": "capital?"})


@pytest.mark.parametrize(
    ("template", "verdicts", "words"),
    [
        ("$a", (), "needs verdicts"),
        ("$a", ("Yes", "YES"), "differ by more than case"),
        ("$a", ("not-tried", "not_tried"), "differ"),
        ("$a", ("yes", "!"), "begin and end"),
        ("$", ("yes", "no"), "begins no field"),
        ("costs $5", ("yes", "no"), "begins no field"),
    ],
)
def test_bad_prompts(template, verdicts, words):
    with pytest.raises(ShammieError, match=words):
        JudgePrompt("grade", "1", template, verdicts)


def test_equal_prompts_are_asked_once_and_order_is_kept(tmp_path):
    completer = Scripted(lambda prompt: "CORRECT" if "Paris" in prompt else "hm")
    judge = Judge(completer, tmp_path)
    found = judge.judge(GRADE, rows("Paris", "Rome", "Paris"))
    assert [item.verdict for item in found] == ["CORRECT", None, "CORRECT"]
    assert [item.raw for item in found] == ["CORRECT", "hm", "CORRECT"]
    assert {item.judge for item in found} == {"scripted-1"}
    assert not any(item.cached for item in found)
    assert [len(call) for call in completer.asked] == [2]
    assert tally(found) == {"unparsable": 1, "CORRECT": 2}
    assert tally([]) == {"unparsable": 0}
    assert judge.judge(GRADE, []) == []


def test_a_second_judge_reads_the_log(tmp_path):
    Judge(Scripted(), tmp_path / "new").judge(GRADE, rows("Paris", "Rome"))
    again = Scripted("INCORRECT")
    found = Judge(again, tmp_path / "new").judge(GRADE, rows("Rome", "Oslo"))
    assert [(item.verdict, item.cached) for item in found] == [("CORRECT", True), ("INCORRECT", False)]
    assert [len(call) for call in again.asked] == [1]
    lines = [json.loads(line) for line in (tmp_path / "new" / LOG).read_text().splitlines()]
    assert [line["verdict"] for line in lines] == ["CORRECT", "CORRECT", "INCORRECT"]
    assert set(lines[0]) == {"key", "judge", "prompt", "version", "text", "raw", "verdict"}
    assert lines[0]["text"] == GRADE.fill(rows("Paris")[0])


@pytest.mark.parametrize(
    ("prompt", "identity"),
    [
        (JudgePrompt("grade", "2", GRADE.template, GRADE.verdicts), "scripted-1"),
        (JudgePrompt("other", "1", GRADE.template, GRADE.verdicts), "scripted-1"),
        (JudgePrompt("grade", "1", GRADE.template + "!", GRADE.verdicts), "scripted-1"),
        (GRADE, "scripted-2"),
    ],
)
def test_another_version_name_text_or_judge_asks_again(tmp_path, prompt, identity):
    Judge(Scripted(), tmp_path).judge(GRADE, rows("Paris"))
    completer = Scripted("INCORRECT", identity)
    [found] = Judge(completer, tmp_path).judge(prompt, rows("Paris"))
    assert (found.verdict, found.cached, len(completer.asked)) == ("INCORRECT", False, 1)


def test_unparsable_replies_are_kept_and_reread_under_other_verdicts(tmp_path):
    Judge(Scripted("PARTLY"), tmp_path).judge(GRADE, rows("Paris"))
    wider = JudgePrompt("grade", "1", GRADE.template, (*GRADE.verdicts, "PARTLY"))
    completer = Scripted()
    [found] = Judge(completer, tmp_path).judge(wider, rows("Paris"))
    assert (found.verdict, found.cached, completer.asked) == ("PARTLY", True, [])


@pytest.mark.parametrize(
    "damage",
    [b'{"key": "a"\n', b"[1]\n", b'{"key": "a"}\n', b"\xff\xfe\n", b"[" * 100_000 + b"\n"],
    ids=["cut", "list", "fields", "bytes", "deep"],
)
def test_a_corrupt_line_is_counted_and_asked_again(tmp_path, damage):
    Judge(Scripted(), tmp_path).judge(GRADE, rows("Paris", "Rome"))
    log = tmp_path / LOG
    _first, second = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(damage + second)
    judge = Judge(Scripted("INCORRECT"), tmp_path)
    found = judge.judge(GRADE, rows("Paris", "Rome"))
    assert judge.corrupt_lines == 1
    assert [(item.verdict, item.cached) for item in found] == [("INCORRECT", False), ("CORRECT", True)]


def test_a_torn_last_line_is_written_over(tmp_path):
    Judge(Scripted(), tmp_path).judge(GRADE, rows("Paris", "Rome"))
    log = tmp_path / LOG
    whole = log.read_bytes()
    log.write_bytes(whole[:-20])
    found = Judge(Scripted(), tmp_path).judge(GRADE, rows("Paris", "Rome"))
    assert [item.cached for item in found] == [True, False]
    assert log.read_bytes() == whole


def test_two_open_judges_share_a_directory(tmp_path):
    first, second = Judge(Scripted(), tmp_path), Judge(Scripted(), tmp_path)
    for index in range(4):
        (first, second)[index % 2].judge(GRADE, rows(f"answer {index}"))
    assert len((tmp_path / LOG).read_text().splitlines()) == 4
    assert all(item.cached for item in second.judge(GRADE, rows("answer 0", "answer 2")))
    reader = Judge(Scripted(), tmp_path)
    assert all(item.cached for item in reader.judge(GRADE, rows(*(f"answer {index}" for index in range(4)))))
    assert reader.corrupt_lines == 0


def test_a_failure_keeps_the_batches_before_it(tmp_path):
    def reply(prompt):
        if f"number {BATCH}" in prompt:
            raise BackendError("the endpoint timed out")
        return "CORRECT"

    many = rows(*(f"number {index}" for index in range(BATCH + 3)))
    with pytest.raises(BackendError, match="timed out"):
        Judge(Scripted(reply), tmp_path).judge(GRADE, many)
    completer = Scripted()
    found = Judge(completer, tmp_path).judge(GRADE, many)
    assert sum(item.cached for item in found) == BATCH
    assert [len(call) for call in completer.asked] == [3]


def test_without_a_directory_the_memory_is_the_objects_own():
    judge = Judge(Scripted())
    assert [judge.judge(GRADE, rows("Paris"))[0].cached for _ in range(2)] == [False, True]
    assert not Judge(Scripted()).judge(GRADE, rows("Paris"))[0].cached


@pytest.mark.parametrize("replies", [[], ["CORRECT", "CORRECT"], [None]])
def test_a_completer_that_answers_wrongly_is_named(replies):
    completer = Scripted()
    completer.complete = lambda _: replies
    with pytest.raises(BackendError, match="'scripted-1' gave"):
        Judge(completer).judge(GRADE, rows("Paris"))


def test_a_judge_of_patterns():
    patterns = [(r"(?i)don't know", "NOT_ATTEMPTED"), (r"\bParis\b", "CORRECT"), (r"\w", "INCORRECT")]
    completer = RegexCompleter(patterns)
    prompt = JudgePrompt("grade", "1", "$response", GRADE.verdicts)
    found = Judge(completer).judge(prompt, rows("Paris", "Don't know, Paris?", "Rome", "…"))
    assert [item.verdict for item in found] == ["CORRECT", "NOT_ATTEMPTED", "INCORRECT", None]
    assert tally(found)["unparsable"] == 1
    assert found[0].judge == completer.identity
    assert completer.identity == RegexCompleter(patterns).identity
    assert completer.identity != RegexCompleter(patterns[:2]).identity
    with pytest.raises(ShammieError, match=r"pattern '\(' of the regex judge is broken"):
        RegexCompleter([("(", "CORRECT")])
