"""Cases, Patchscopes and grids: the same decodes as one at a time, and hits where names are."""

import json
from dataclasses import replace

import pytest
import torch

import pico
from shammie.beliefs.ask import Asker, told_apart
from shammie.beliefs.data import Case, CaseSet, load_cases
from shammie.beliefs.intervene import Arm, Intervener, arms
from shammie.beliefs.monitor import Item, Monitor, make_items, split_items
from shammie.beliefs.patchscope import IDENTITY, Patchscope
from shammie.beliefs.planted import ASK, FOLLOWED, READ, believed, cases, dominances
from shammie.beliefs.read import Grid, GridReader, said
from shammie.beliefs.settings import FRAMES, AskSettings, ReadSettings
from shammie.core.batch import encode, pad
from shammie.core.capture import capture
from shammie.core.edit import edited, project_out
from shammie.core.edit import replace as replaced
from shammie.core.errors import DataError, NonFiniteError, ShammieError
from shammie.core.generate import GenerationSettings, generate
from shammie.core.position import Span
from shammie.core.site import residual

CASE = Case(
    "1", "What is the capital of Peru?", ("Lima",), ("Quito",), "The capital of Peru is Quito.", ("Bogota",), "Peru"
)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_patchscopes_decode_as_one_at_a_time(family: str) -> None:
    model = pico.shared(family)
    scope = Patchscope(model, tokens=5, rows=4)
    states = capture(model, pad([encode(model, "The sea is deep")]), [residual(1)]).states[residual(1)][0]
    length = len(encode(model, IDENTITY))
    expected = []
    for state in states:
        with edited(model, [replaced(residual(1), state, positions=Span(length - 1, length))]):
            made = generate(model, [IDENTITY], GenerationSettings(max_new_tokens=5))[0]
        kept = made.tokens[:-1] if made.finish == "end" else made.tokens
        text = model.tokenizer.decode(list(kept), skip_special_tokens=False).lstrip()
        expected.append(text.split("\n")[0].strip().removeprefix("->").strip())
    assert [one.text for one in scope.decode(states, torch.ones(len(states), dtype=torch.long))] == expected
    assert len(set(expected)) > 1


def test_layers_may_be_mixed() -> None:
    model = pico.shared("llama")
    scope = Patchscope(model, tokens=4, rows=5)
    batch = pad([encode(model, "The sea is deep")])
    found = capture(model, batch, [residual(0), residual(2)]).states
    states = torch.cat([found[residual(0)][0], found[residual(2)][0]])
    layers = torch.tensor([0] * 15 + [2] * 15)[: len(states)]
    apart = [
        *scope.decode(states[layers == 0], layers[layers == 0]),
        *scope.decode(states[layers == 2], layers[layers == 2]),
    ]
    order = torch.arange(len(states)).view(2, -1).T.flatten()
    assert [scope.decode(states[order], layers[order])[i] for i in order.argsort().tolist()] == apart


def test_states_that_are_broken_are_refused() -> None:
    scope = Patchscope(pico.shared("llama"))
    with pytest.raises(NonFiniteError, match="layer 1"):
        scope.decode(torch.full((2, 32), float("nan")), torch.ones(2, dtype=torch.long))
    with pytest.raises(ShammieError, match="at least two tokens"):
        Patchscope(pico.shared("llama"), prompt="a")


@pytest.mark.parametrize(
    ("text", "names", "found"),
    [
        ("Tokyo -> Tokyo", ("Tokyo",), True),
        ("tokyo", ("Tokyo",), True),
        ("Tokyos", ("Tokyo",), False),
        ("New", ("New York",), False),
        ("York", ("New York",), True),
        ("Buenos", ("Buenos Aires",), True),
        ("", ("Lima",), False),
    ],
)
def test_hits(text: str, names: tuple[str, ...], found: bool) -> None:
    assert said(text, names) is found


def grid(base: list[list[int]], counter: list[list[int]], written: list[int], ahead: list[int]) -> Grid:
    hits = {"base": torch.tensor(base).bool(), "counter": torch.tensor(counter).bool()}
    return Grid((0, 1), ("a",) * len(base), hits, dict.fromkeys(hits, torch.tensor(written)), {
        "base": torch.tensor(ahead).bool(), "counter": torch.zeros(len(base)).bool(),
    })  # fmt: skip


def test_scores_of_a_grid() -> None:
    own = grid([[1, 1], [0, 0], [1, 0]], [[0, 0], [0, 0], [1, 1]], [9, 9, 2], [1, 0, 0])
    found = own.scores(ReadSettings())
    assert found["positions"] == 2
    assert (found["base"], found["counter"], found["difference"]) == (0.75, 0.5, 0.25)
    assert found["base_density"] == 0.5
    assert (found["base_unwritten"], found["counter_unwritten"]) == (1.0, 0.0)  # the third position follows a name
    assert (found["base_apart"], found["counter_apart"]) == (None, None)  # and the first is about to write one
    assert own.scores(ReadSettings(least=0))["base"] == 0.5
    assert own.scores(ReadSettings(least=0))["base_apart"] == 0.0
    none = grid([[0, 0]], [[0, 0]], [9], [0]).scores(ReadSettings())
    assert (none["positions"], none["base"], none["difference"]) == (0, None, None)
    assert own.trajectory(3)["base"] == [1.0, 0.0, 0.5]


def test_dominance_follows_the_source_and_not_the_mention(world) -> None:
    asked = cases(5)
    for frame in FRAMES:
        base, counter, third = dominances(world, asked, frame).T
        followed = frame in FOLLOWED
        assert float((counter if followed else base).min()) > 0.7
        assert float((base if followed else counter).max()) < 0.15
        assert float(third.max()) == 0  # mentioned, and endorsed by no one
    never = [
        replace(case, third=("Val11" if "Val11" not in (*case.base, *case.counter) else "Val10",)) for case in asked
    ]
    assert float(dominances(world, never, "credible")[:, 2].max()) == 0


def test_a_position_says_how_long_ago_a_name_was_written(world) -> None:
    asker, reader = Asker(world, ASK), GridReader(world, READ)
    case = cases(5)[0]
    told = asker.ask([(case, "credible")])[0]
    name = believed(case, "credible")
    ids = (*told.ids, *reader.firsts((name,)), *encode(world, "this is"))
    found = reader.read(ids, told.start, {"base": case.base, "counter": case.counter})
    assert found.written["counter"].tolist()[-3:] == [0, 1, 2]
    assert int(found.written["base"].min()) > 1000
    assert found.ahead["counter"].tolist()[-4:] == [True, False, False, False]
    assert not found.ahead["base"].any()


def test_the_lens_and_patchscopes_share_windows_and_prefilters_only_leave_out(world) -> None:
    told = Asker(world, ASK).ask([(cases(5)[0], "credible")])[0]
    settings = ReadSettings(first_layer=0.5, last_layer=1.0, decode_tokens=2)
    beliefs = {"base": cases(5)[0].base, "counter": cases(5)[0].counter}
    whole = GridReader(world, settings).read(told.ids, told.start, beliefs)
    some = GridReader(world, replace(settings, prefilter=3)).read(told.ids, told.start, beliefs)
    assert whole.layers == some.layers == (1, 2, 3)
    for name in beliefs:
        assert not bool((some.hits[name] & ~whole.hits[name]).any())


def test_margins_share_the_prompt_and_rows_have_their_own_changes(world) -> None:
    asker = Asker(world, ASK)
    asked = cases(5)
    told = asker.ask([(asked[0], "credible")])[0]
    assert told.favours == "counter"
    own = Intervener(asker, asked, [HELD_LAYER])
    chosen = arms((0.5, 1.0))
    together = own.margins(asked[0], told, chosen)
    for number, arm in enumerate(chosen):
        assert own.margins(asked[0], told, [arm])[0] == pytest.approx(together[number], abs=1e-4)
    found = {(arm.name, arm.strength): margin for arm, margin in zip(chosen, together, strict=True)}
    assert found["zero", 0.0] == pytest.approx(told.margin, abs=1e-4)
    assert found["inject", 1.0] != pytest.approx(told.margin, abs=1e-3)
    vector = own.vector(asked[0].counter[0], HELD_LAYER)
    with edited(world, [project_out(residual(HELD_LAYER), vector[None], positions=Span(told.start))]):
        by_hand = float(asker.margins(asked[0], told.ids, told.start)[0])
    assert found["remove the favoured", 1.0] == pytest.approx(by_hand, abs=1e-3)


HELD_LAYER = 2


def test_too_few_entities_have_no_vectors(world) -> None:
    with pytest.raises(DataError, match="at least 3 entities"):
        Intervener(Asker(world, ASK), cases(5)[:1], [2])


def records(levels: list[float]) -> list[dict]:
    told = [
        {"kind": "told", "case": f"c{n}", "frame": "none", "text": f"Text {n}.", "popularity": 1.0}
        for n in range(len(levels))
    ]
    read = [{"kind": "dominance", "case": f"c{n}", "frame": "none", "base": v} for n, v in enumerate(levels)]
    return told + read


def test_items_and_their_split() -> None:
    names = {f"c{n}": "a b" for n in range(12)}
    items = make_items(records([0.0, 0.1, 0.5, 0.55, 0.9, 1.0] * 2), "none", "base", names)
    assert [item.level for item in items[:6]] == [0, 0, 1, 1, 2, 2]
    shown, asked = split_items(items, 10, 99, seed=1)
    assert sorted(item.level for item in shown) == [0, 0, 1, 1, 2, 2]
    assert not {item.case for item in shown} & {item.case for item in asked}
    assert len(shown) + len(asked) == 12
    with pytest.raises(DataError, match="fewer than 3 values"):
        make_items(records([0.1, 0.1, 0.9]), "none", "base", names)


def test_levels_are_those_of_a_plain_forward_pass() -> None:
    model = pico.shared("llama")
    shown = [Item("a", "none", "The sea.", 0, None, ""), Item("b", "none", "A hill.", 2, None, "")]
    monitor = Monitor(model, "counter", shown, [0, 2])
    found = monitor.levels(["A long road.", "Rain"])
    for text, own in zip(["A long road.", "Rain"], found, strict=True):
        ids = [*monitor._ids, *encode(model, f"Text: {text}\nNumber: ", special=False)]  # a blank is a token here
        with torch.no_grad():
            logits = model.module(input_ids=torch.tensor([ids])).logits[0, -1, monitor._labels]
        assert torch.allclose(own, logits.softmax(-1), atol=1e-5)


def test_labels_need_a_token_each(monkeypatch) -> None:
    model = pico.shared("llama")
    shown = [Item("a", "none", "The sea.", 0, None, "")]
    monkeypatch.setattr("shammie.beliefs.monitor.LEVELS", 12)  # 10 begins as 1 does
    with pytest.raises(ShammieError, match="token each"):
        Monitor(model, "counter", shown, [0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"base": ("",)}, "has no base belief"),
        ({"counter": ("lima",)}, "same name for both"),
        ({"claim": " "}, "lacks a question or a claim"),
    ],
)
def test_cases_that_cannot_be(change, said) -> None:
    with pytest.raises(DataError, match=said):
        CaseSet.of([replace(CASE, **change)], "x")
    with pytest.raises(DataError, match="two cases"):
        CaseSet.of([CASE, CASE], "x")


def test_flags() -> None:
    assert CASE.flags == []
    assert replace(CASE, subject="Lima Province").flags == ["base in the question"]
    assert replace(CASE, base=("New York",), counter=("New Delhi",)).flags == ["names begin alike"]


def test_sources_of_cases(tmp_path) -> None:
    capital = load_cases("geonames:capital", limit=150).cases
    assert len(capital) == 150
    assert all(
        case.counter[0] in case.claim and case.third and not set(case.base) & set(case.counter) for case in capital
    )
    rewrite = {
        "prompt": "{} plays the", "subject": "Ada", "target_new": {"str": "piano"}, "target_true": {"str": "violin"},
        "relation_id": "P1303",
    }  # fmt: skip
    path = tmp_path / "counterfact.json"
    path.write_text(json.dumps([{"case_id": 7, "requested_rewrite": rewrite}]))
    (case,) = load_cases(str(path)).cases
    assert (case.base, case.counter, case.claim) == (("violin",), ("piano",), "Ada plays the piano.")
    with pytest.raises(DataError, match="geonames:capital"):
        load_cases("geonames:river")
    with pytest.raises(DataError, match=r"no cases 'capitals'; give geonames:capital, .* winograd:"):
        load_cases("capitals")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"first_layer": 0.9, "last_layer": 0.1}, "shares of depth"),
        ({"step": 0}, "--step"),
        ({"least": -1}, "--least"),
    ],
)
def test_windows_that_cannot_be(changes, said) -> None:
    with pytest.raises(ShammieError, match=said):
        ReadSettings(**changes)
    with pytest.raises(ShammieError, match="no layer of 4"):
        ReadSettings(first_layer=0.6, last_layer=0.7).layers(4)
    with pytest.raises(ShammieError, match="--asked"):
        AskSettings(asked="Answer!")


def test_beliefs_that_begin_alike_need_patchscopes() -> None:
    model = pico.shared("llama")
    lens = GridReader(model, ReadSettings(reader="lens", first_layer=0.3))
    with pytest.raises(ShammieError, match="use --reader patchscopes"):
        lens.read(encode(model, "abc"), 0, {"base": ("ab",), "counter": ("ac",)})


def test_beliefs_that_tokenize_alike_are_left_out_or_refused(world) -> None:
    alike = replace(CASE, base=("Val1 a",), counter=("Val1 b",))
    assert told_apart(world, [alike, *cases(5)]) == cases(5)
    with pytest.raises(DataError, match="begin with the same token"):
        told_apart(world, [alike])


def test_arms_have_controls_at_every_strength() -> None:
    found = arms((0.1, 0.2))
    for strength in (0.1, 0.2):
        names = {arm.name for arm in found if arm.strength == strength}
        assert names == {"inject", "inject another entity", "inject at random", "inject outside the window"}
    assert Arm("remove at random", "random", 1.0).removes


def test_only_the_lens_needs_names_that_begin_differently() -> None:
    model = pico.shared("llama")
    lens, scope = (GridReader(model, ReadSettings(reader=reader, first_layer=0)) for reader in ("lens", "patchscopes"))
    assert lens.tells_apart(("Lima",), ("Quito",))
    assert not lens.tells_apart(("Lima",), ("Lima Norte",))
    assert scope.tells_apart(("Lima",), ("Lima Norte",))
