"""Prompts token by token: what stands in a trace's place has exactly the tokens it should, and nothing else differs."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pico
from shammie.core.errors import ShammieError
from shammie.core.model import LanguageModel
from shammie.recall.settings import FILLERS, Condition, RecallSettings, SwitchSettings
from shammie.recall.switch import Prompter, settle

HYBRID = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
OPENING = HYBRID.replace("{% endif %}{% endif %}", "{% else %}<think>\n{% endif %}{% endif %}")


def reader(template: str | None = pico.tokenizer().chat_template) -> LanguageModel:
    tokenizer = copy.copy(pico.tokenizer())
    tokenizer.chat_template = template
    return LanguageModel(None, tokenizer, "tiny")


def prompter(template: str | None = pico.tokenizer().chat_template, **changes: str) -> Prompter:
    model = reader(template)
    return Prompter(model, settle(model, SwitchSettings(**changes)))


def text(own: Prompter, ids: list[int]) -> str:
    return own.model.tokenizer.decode(ids, skip_special_tokens=False)


ON, OFF, DUMMY = Condition.parse("on"), Condition.parse("off"), Condition.parse("dummy")
FACTS = Condition.parse("off-facts")


def test_hybrid_models_are_switched_by_their_template() -> None:
    own = prompter(HYBRID)
    assert own.switch.kind == "template"
    alone = "Who?\nReply with the answer alone."
    assert text(own, own.answered("Who?", OFF, [])) == f"<user>{alone}\n<assistant><think>\n\n</think>\n\n"
    assert text(own, own.opened("Who?")) == f"<user>{alone}\n<assistant><think>\n"
    held = own.tokens("Ada did.")
    assert text(own, own.answered("Who?", ON, held)) == f"<user>{alone}\n<assistant><think>\nAda did.\n</think>\n\n"
    assert own.stop == ("</think>",)


def test_a_template_that_opens_reasoning_itself_is_not_opened_twice() -> None:
    own = prompter(OPENING)
    assert text(own, own.opened("Who?")).count("<think>") == 1


def test_instruct_models_reason_in_a_turn_of_its_own() -> None:
    own = prompter()
    assert own.switch.kind == "prompts"
    opened = text(own, own.opened("Who?"))
    assert opened.endswith("answer this: Who?\n<assistant>")
    after = text(own, own.answered("Who?", ON, own.tokens("Ada did.")))
    assert after == f"{opened}Ada did.\n<user>Who?\nReply with the answer alone.\n<assistant>"
    assert text(own, own.answered("Who?", OFF, [])) == "<user>Who?\nReply with the answer alone.\n<assistant>"
    assert own.stop == ()


def test_plain_text() -> None:
    own = prompter(None)
    assert own.switch.kind == "text"
    assert text(own, own.answered("Who?", OFF, [])) == "Question: Who?\nAnswer:"
    assert text(own, own.opened("Who?")) == "Question: Who?\nWhat is known:"
    assert text(own, own.answered("Who?", ON, own.tokens(" Ada."))) == "Question: Who?\nWhat is known: Ada.\nAnswer:"
    context = text(own, own.answered("Who?", FACTS, own.tokens("Ada.")))
    assert context == "What is known: Ada.\nQuestion: Who?\nAnswer:"


@pytest.mark.parametrize("template", [None, HYBRID, pico.tokenizer().chat_template])
@given(count=st.integers(1, 80), filler=st.sampled_from(sorted(FILLERS)))
@settings(max_examples=20, deadline=None)
def test_what_is_held_is_all_that_differs(template, count: int, filler: str) -> None:
    own = prompter(template)
    held = own.filler(filler, count)
    assert len(held) == count
    for condition in (DUMMY, FACTS):
        empty, full = (own.answered("Who is it?", condition, ids) for ids in ([], held))
        if condition is FACTS:
            one = own.answered("Who is it?", condition, [5])
            empty = one[: one.index(5)] + one[one.index(5) + 1 :]
        places = [i for i in range(len(full)) if full[i : i + count] == held]
        assert any(full[:i] + full[i + count :] == empty for i in places)


def test_facts_stand_before_the_question_and_nowhere_without_facts() -> None:
    own = prompter()
    told = text(own, own.answered("Who?", FACTS, own.tokens("Ada did.")))
    assert told.startswith("<user>Here is what is known:\nAda did.\n\nWho?")
    assert own.answered("Who?", FACTS, []) == own.answered("Who?", OFF, [])


def test_a_single_filler_is_one_in_full() -> None:
    own = prompter()
    assert text(own, own.filler("sentence", 0)) == "Let me think."
    assert text(own, own.filler("sentence", 30)) == "Let me think. Let me think. Le"[:30]


@pytest.mark.parametrize(
    ("template", "changes", "said"),
    [
        (pico.tokenizer().chat_template, {"kind": "template"}, r"no enable_thinking; pass --switch.kind prompts"),
        (None, {"kind": "prompts"}, r"no chat template; pass --switch.kind text"),
        (HYBRID, {"off": "Answer!"}, r"--switch.off must hold \$question"),
        (HYBRID, {"context": "$question"}, r"--switch.context must hold \$facts"),
    ],
)
def test_switches_that_cannot_be(template, changes, said) -> None:
    with pytest.raises(ShammieError, match=said):
        prompter(template, **changes)


@pytest.mark.parametrize(
    ("name", "reasoning", "holds", "tokens", "facts"),
    [
        ("off", False, "nothing", None, "own"), ("on", True, "trace", None, "own"), ("single", True, "filler", 0, "own"),
        ("dummy", True, "filler", None, "own"), ("dummy-64", True, "filler", 64, "own"),
        ("dummy-64:dots", True, "filler", 64, "own"), ("dummy:lines", True, "filler", None, "own"),
        ("on-facts", True, "facts", None, "own"), ("off-dummy-facts", False, "facts", None, "dummy"),
        ("on-corrupted-facts", True, "facts", None, "corrupted"), ("off-all-facts", False, "facts", None, "all"),
    ],
)  # fmt: skip
def test_conditions(name, reasoning, holds, tokens, facts) -> None:
    found = Condition.parse(name)
    assert (found.reasoning, found.holds, found.tokens, found.facts) == (reasoning, holds, tokens, facts)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"conditions": ("off", "on", "dummy-0")}, "hold nothing"),
        ({"conditions": ("off", "on", "dummy:rain")}, "sentence, dots"),
        ({"conditions": ("off", "on", "facts")}, "no condition"),
        ({"conditions": ("off", "single")}, "must name off and on"),
        ({"conditions": ("off", "on", "on")}, "twice"),
        ({"samples": 16, "more": 8}, "--more"),
        ({"samples": 0}, "--samples"),
        ({"temperature": 0.0}, "--temperature"),
        ({"trace_tokens": 0}, "--trace-tokens"),
    ],
)
def test_settings_that_cannot_be(changes, said) -> None:
    with pytest.raises(ShammieError, match=said):
        RecallSettings(**changes)
