"""Generation, shared prefixes and scores against plain forward passes, Hugging Face's generate and closed forms."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

import pico
from shammie.core.batch import encode
from shammie.core.errors import DataError, NonFiniteError, ShammieError
from shammie.core.generate import (
    GenerationSettings,
    complete,
    encode_prompts,
    ending_tokens,
    generate,
    pick,
    split_reasoning,
)
from shammie.core.model import LanguageModel
from shammie.core.prefix import KeyValues, SharedPrefixes, read
from shammie.core.score import choose, score, score_tokens

FAMILIES = ("llama", "gpt2", "gemma3_text", "mistral", "qwen3_moe")
WINDOWED = ("llama", "mistral", "gemma3_text")
PROMPTS = ["The capital of France is", "A", "Water boils at one hundred degrees, and it freezes at", "Two and two make"]
SAMPLED = GenerationSettings(max_new_tokens=10, temperature=0.9, top_p=0.95, samples=3, seed=5)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny models gain nothing from threads and wait for each other ten times longer on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def texts_of(made: Sequence) -> list[tuple]:
    return [(item.prompt, item.sample, item.tokens, item.text, item.finish) for item in made]


# --- greedy ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [*FAMILIES, "gemma2", "phi3"])
def test_greedy_is_hugging_faces_generate(family: str) -> None:
    model, length = pico.shared(family), 12
    made = generate(model, PROMPTS, GenerationSettings(max_new_tokens=length))
    for prompt, item in zip(PROMPTS, made, strict=True):
        ids = torch.tensor([encode(model, prompt)])
        whole = model.module.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=length, do_sample=False, pad_token_id=0
        )
        assert list(item.tokens) == whole[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probability_is_that_of_a_plain_forward(family: str) -> None:
    model = pico.shared(family)
    for item in generate(model, PROMPTS, replace(SAMPLED, samples=1)):
        prompt = encode(model, PROMPTS[item.prompt])
        ids = torch.tensor([prompt + list(item.tokens)])
        with torch.no_grad():
            logits = model.module(ids).logits[0].log_softmax(-1)
        own = logits[len(prompt) - 1 : -1].gather(-1, ids[0, len(prompt) :, None])
        assert item.log_probability == pytest.approx(float(own.sum()), abs=1e-4)


# --- sampling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_do_not_depend_on_their_batch(family: str) -> None:
    model = pico.shared(family)
    whole = generate(model, PROMPTS, SAMPLED, rows=32)
    assert [(item.prompt, item.sample) for item in whole] == [(p, s) for p in range(4) for s in range(3)]
    for rows in (1, 3):
        other = generate(model, PROMPTS, SAMPLED, rows=rows)
        assert texts_of(other) == texts_of(whole)
        assert [i.log_probability for i in other] == pytest.approx([i.log_probability for i in whole], abs=1e-4)
    jobs = [(item.prompt, item.sample) for item in whole][::-1]
    other = complete(model, encode_prompts(model, PROMPTS, SAMPLED), jobs, SAMPLED)
    assert texts_of(other) == texts_of(whole)[::-1]


def test_samples_differ_by_seed_prompt_and_sample() -> None:
    model = pico.shared("llama")
    made = generate(model, [PROMPTS[0]] * 2, SAMPLED)
    made += generate(model, [PROMPTS[0]], replace(SAMPLED, seed=6))
    assert len({item.tokens for item in made}) == len(made)
    assert texts_of(generate(model, [PROMPTS[0]] * 2, SAMPLED)) == texts_of(made[:6])


def test_a_longer_limit_goes_on_from_the_same_draws() -> None:
    model = pico.shared("llama")
    short, long = (generate(model, PROMPTS, replace(SAMPLED, max_new_tokens=n)) for n in (4, 9))
    assert all(a.tokens == b.tokens[:4] for a, b in zip(short, long, strict=True))


class Scripted:
    """A stepper whose logits are a function of how often it was asked; keeps note of its rows."""

    def __init__(self, script: Sequence[Sequence[float]] | torch.Tensor, rows: int | None = None) -> None:
        self.script, self.rows, self.time, self.read = torch.as_tensor(script), rows, 0, []

    def _logits(self) -> torch.Tensor:
        logits = self.script[min(self.time, len(self.script) - 1)]
        self.time += 1
        return logits.expand(len(self.kept), -1).clone() if logits.ndim == 1 else logits[self.kept].clone()

    def start(self, sequences: Sequence[Sequence[int]], row: Sequence[int]) -> torch.Tensor:
        self.started, self.kept = [list(ids) for ids in sequences], torch.arange(len(sequences))
        return self._logits()

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        assert len(tokens) == len(self.kept)
        self.read.append(tokens.tolist())
        return self._logits()

    def keep(self, rows: torch.Tensor) -> None:
        self.kept = self.kept[rows]


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"), [(1.0, 1.0, 0), (0.7, 1.0, 0), (1.3, 0.8, 0), (1.0, 1.0, 3)]
)
def test_draws_follow_the_distribution(temperature: float, top_p: float, top_k: int) -> None:
    logits = torch.tensor([1.0, 0.2, -0.5, 2.0, 0.9, -3.0, 0.0])
    chosen = GenerationSettings(1, temperature, top_p, top_k, samples=4000, seed=11)
    made = complete(pico.shared("llama"), [[5]], [(0, i) for i in range(4000)], chosen, stepper=Scripted(logits[None]))
    expected = allowed((logits / temperature).softmax(-1).double().numpy(), top_p, top_k)
    counts = Counter(item.tokens[0] for item in made)
    observed = np.array([counts[token] for token in range(len(logits))])
    assert observed[expected == 0].sum() == 0
    kept = expected > 0
    assert stats.chisquare(observed[kept], 4000 * expected[kept]).pvalue > 1e-3


def allowed(probabilities: np.ndarray, top_p: float, top_k: int) -> np.ndarray:
    """The distribution after top-k, then the smallest likeliest set that reaches top_p, written token by token."""
    order = sorted(range(len(probabilities)), key=lambda token: -probabilities[token])
    order = order[:top_k] if top_k else order
    total, mass, kept = sum(probabilities[order]), 0.0, []
    for token in order:
        if mass >= top_p * total:
            break
        kept.append(token)
        mass += probabilities[token]
    result = np.zeros_like(probabilities)
    result[kept] = probabilities[kept] / mass
    return result


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(-48, 48).map(lambda n: n / 8), min_size=2, max_size=12, unique=True), st.floats(0.05, 1),
    st.integers(0, 13), st.floats(0.3, 2),
)  # fmt: skip
def test_support_and_thresholds_of_top_p_and_top_k(scores: list[float], top_p: float, top_k: int, heat: float) -> None:
    logits = torch.tensor(scores)
    chosen = GenerationSettings(1, heat, top_p, top_k)
    expected = allowed((logits / heat).softmax(-1, dtype=torch.float64).numpy(), top_p, top_k)
    draws = [(i + 0.5) / 2000 for i in range(2000)]
    tokens, log_probs = pick(logits.expand(len(draws), -1), chosen, draws)
    shares = np.bincount(tokens.numpy(), minlength=len(scores)) / len(draws)
    assert np.abs(shares - expected).max() < 2e-3  # evenly spread draws land as the distribution says
    assert log_probs.numpy() == pytest.approx(logits.log_softmax(-1)[tokens].numpy(), abs=1e-5)


@pytest.mark.parametrize("draw", [0.0, 1 - 2**-53])
def test_extreme_draws_stay_inside_the_support(draw: float) -> None:
    logits = torch.tensor([[0.0, -200.0, -5.0]])
    assert pick(logits, GenerationSettings(1, 1.0, top_k=1), [draw])[0].tolist() == [0]
    assert pick(logits, GenerationSettings(1, 1.0, 0.5), [draw])[0].tolist() == [0]
    assert pick(logits, GenerationSettings(1, 1.0), [draw])[0].item() in (0, 2)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers(poison: float, temperature: float) -> None:
    script = torch.zeros(2, 8)
    script[1, 3] = poison
    with pytest.raises(NonFiniteError, match="logits"):
        complete(pico.shared("llama"), [[5]], [(0, 0)], GenerationSettings(4, temperature), stepper=Scripted(script))


# --- ends -----------------------------------------------------------------------------------------------------------


def say(model: LanguageModel, *texts: str) -> Scripted:
    """A stepper that makes each row write its text, then <eos>."""
    ids = [[*model.tokenizer(text, add_special_tokens=False)["input_ids"], 2] for text in texts]
    script = torch.zeros(max(map(len, ids)), len(texts), pico.VOCABULARY)
    for row, tokens in enumerate(ids):
        for time in range(len(script)):
            script[time, row, tokens[min(time, len(tokens) - 1)]] = 50.0
    return Scripted(script)


def speak(chosen: GenerationSettings, *texts: str, prompt: str = "p") -> list:
    model = pico.shared("llama")
    ids = encode_prompts(model, [prompt] * len(texts), chosen)
    return complete(model, ids, [(i, 0) for i in range(len(texts))], chosen, stepper=say(model, *texts))


def test_rows_finish_at_different_steps() -> None:
    model = pico.shared("llama")
    stepper = say(model, "abcdef", "x", "abc")
    made = complete(model, [[7], [8], [9]], [(0, 0), (1, 0), (2, 0)], GenerationSettings(5), stepper=stepper)
    assert [(item.text, item.finish, len(item.tokens)) for item in made] == [
        ("abcde", "length", 5), ("x", "end", 2), ("abc", "end", 4),
    ]  # fmt: skip
    assert stepper.started == [[7], [8], [9]]
    assert [len(tokens) for tokens in stepper.read] == [3, 2, 2, 1]  # nothing is read after the last token


def test_end_of_text_is_not_part_of_the_text() -> None:
    model = pico.shared("llama")
    assert ending_tokens(model) == {2}
    item = speak(GenerationSettings(9), "ab")[0]
    assert (item.text, item.answer, item.finish, item.tokens[-1]) == ("ab", "ab", "end", 2)
    item = speak(GenerationSettings(9), "")[0]
    assert (item.text, item.answer, item.finish, item.tokens) == ("", "", "end", (2,))


@pytest.mark.parametrize(
    ("stop", "text", "answer", "length"),
    [
        (("\n\n",), "one\n\ntwo", "one", 5), (("END",), "xENDy", "x", 4), (("é",), "caféx", "caf", 5),
        (("b", "abc"), "zabcd", "za", 3), (("q",), "abc", "abc", 4), (("a",), "abc", "", 1),
        ((" " * 40,), "x" + " " * 45, "x", 41), (("é" * 20,), "x" + "é" * 21, "x", 41),
    ],
)  # fmt: skip
def test_stop_strings_across_tokens(stop: tuple, text: str, answer: str, length: int) -> None:
    item = speak(GenerationSettings(60, stop=stop), text)[0]
    assert (item.text, item.answer, item.reasoning) == (answer, answer, None)
    assert item.finish == ("stop" if len(item.tokens) <= length and answer != text else "end")
    assert len(item.tokens) == length


def test_stop_waits_for_the_end_of_reasoning() -> None:
    chosen = GenerationSettings(80, stop=("\n",), reasoning_start="<r>", reasoning_end="</r>")
    item = speak(chosen, "<r>a\nb</r>c\nd")[0]
    assert (item.reasoning, item.answer, item.finish) == ("a\nb", "c", "stop")
    assert item.text == "<r>a\nb</r>c"  # the stop string is cut off the whole text too
    assert len(item.tokens) == len("<r>a\nb</r>c\n")
    item = speak(chosen, "c\nd")[0]
    assert (item.reasoning, item.answer, item.text) == (None, "c", "c")
    item = speak(chosen, "<r>a\nb")[0]
    assert (item.reasoning, item.answer, item.finish) == ("a\nb", None, "end")
    item = speak(replace(chosen, prefill=" <r>"), "a\nb</r>c\nd")[0]
    assert (item.reasoning, item.answer, item.finish) == ("a\nb", "c", "stop")
    item = speak(chosen, "a\nb</r>c\nd", prompt="question <r>\n")[0]
    assert (item.reasoning, item.answer) == ("a\nb", "c")


def test_prefill_is_read_and_not_returned() -> None:
    model, chosen = pico.shared("llama"), GenerationSettings(6)
    assert texts_of(generate(model, ["The capital"], replace(chosen, prefill=" of France is"))) == texts_of(
        generate(model, ["The capital of France is"], chosen)
    )
    chat = [{"role": "user", "content": "Hi"}]
    assert texts_of(generate(model, [chat], replace(chosen, prefill="Well"))) == texts_of(
        generate(model, ["<user>Hi\n<assistant>Well"], chosen)
    )


# --- reasoning ------------------------------------------------------------------------------------------------------


THINK = GenerationSettings(reasoning_start="<t>", reasoning_end="</t>", stop=("#",))


@pytest.mark.parametrize(
    ("text", "opened", "expected"),
    [
        ("answer", False, (None, "answer", False)),
        ("an#swer", False, (None, "an", True)),
        ("<t>r</t>a", False, ("r", "a", False)),
        (" \n<t>r</t>a#b", False, ("r", "a", True)),
        ("<t>r#r</t>a", False, ("r#r", "a", False)),
        ("<t>r#r", False, ("r#r", None, False)),
        ("r</t>a", True, ("r", "a", False)),
        ("r#", True, ("r#", None, False)),
        ("<t>a</t>b</t>c#", False, ("a", "b</t>c", True)),
        ("", True, ("", None, False)),
        ("", False, (None, "", False)),
    ],
)
def test_reasoning_table(text: str, opened: bool, expected: tuple) -> None:
    assert split_reasoning(text, THINK, opened=opened) == expected


def test_a_model_that_marks_only_the_end() -> None:
    chosen = GenerationSettings(reasoning_end="</t>")
    assert split_reasoning("r</t>a", chosen) == ("r", "a", False)
    assert split_reasoning("r", chosen) == ("r", None, False)


PIECES = st.lists(st.sampled_from(["<t>", "</t>", "#", "\n\n", " ", "a", "b", "<", "/t>", "é"]), max_size=12).map(
    "".join
)


@settings(max_examples=200, deadline=None)
@given(
    PIECES | st.text(max_size=30), st.sampled_from([(), ("#",), ("\n\n", "#"), ("a",)]), st.booleans(), st.booleans()
)
def test_reasoning_invariants(text: str, stops: tuple, marked: bool, opened: bool) -> None:
    chosen = GenerationSettings(reasoning_start="<t>" if marked else "", reasoning_end="</t>", stop=stops)
    opened = opened and marked
    reasoning, answer, stopped = split_reasoning(text, chosen, opened=opened)
    inside = opened or not marked or text.lstrip().startswith("<t>")
    body = text if opened or not marked else text.lstrip()[3:]
    assert (answer is None) == (inside and "</t>" not in body)
    assert (reasoning is not None) == inside
    assert "</t>" not in (reasoning or "")
    assert not any(stop in (answer or "") for stop in stops)
    if answer is None:
        assert not stopped
    else:
        rest = body.split("</t>", 1)[1] if inside else text
        assert rest.startswith(answer)
        assert stopped == any(stop in rest for stop in stops) == (len(rest) > len(answer))


@settings(max_examples=40, deadline=None)
@given(PIECES, st.integers(1, 40))
def test_generation_parts_what_it_wrote(text: str, limit: int) -> None:
    """Token by token, under any limit, the result is that of splitting the text so far at the first stop."""
    item = speak(replace(THINK, max_new_tokens=limit), text)[0]
    model = pico.shared("llama")
    tokens = [*model.tokenizer(text, add_special_tokens=False)["input_ids"], 2]
    assert list(item.tokens) == tokens[: len(item.tokens)]
    full = split_reasoning(text, THINK)
    if item.finish == "stop":
        assert full[2]
        assert (item.reasoning, item.answer) == full[:2]
    elif item.finish == "end":
        assert (item.reasoning, item.answer, False) == full
    else:
        assert len(item.tokens) == limit < len(tokens)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"), ({"samples": 0}, "samples"), ({"temperature": -1.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"), ({"top_p": 1.5}, "top_p"), ({"top_k": -1}, "top_k"), ({"samples": 2}, "temperature"),
        ({"reasoning_start": "<t>"}, "reasoning_end"), ({"temperature": math.nan}, "temperature"),
        ({"top_p": math.nan}, "top_p"), ({"stop": ("",)}, "stop"), ({"temperature": math.inf}, "temperature"),
        ({"reasoning_start": "<t>\n", "reasoning_end": "</t>"}, "blanks"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(changes: dict, said: str) -> None:
    with pytest.raises(ShammieError, match=said) as caught:
        GenerationSettings(**changes)
    assert "\n" not in str(caught.value)


# --- shared prefixes and scores ------------------------------------------------------------------------------------


def alone(model: LanguageModel, ids: Sequence[int]) -> torch.Tensor:
    """Final-normed states of one sequence, without cache or padding."""
    with torch.no_grad():
        tokens = torch.tensor([list(ids)])
        return model.anatomy.body(input_ids=tokens, position_ids=torch.arange(len(ids))[None]).last_hidden_state[0]


@st.composite
def families_of_sequences(draw: st.DrawFn) -> list[list[int]]:
    """Sequences grown from one another: each is a piece of an earlier one with a tail of its own."""
    token = st.integers(3, pico.VOCABULARY - 1)
    known = [draw(st.lists(token, min_size=1, max_size=30))]
    for _ in range(draw(st.integers(1, 7))):
        parent = draw(st.sampled_from(known))
        head = parent[: draw(st.integers(0, len(parent)))]
        known.append((head + draw(st.lists(token, max_size=14)))[:40] or [5])
    return known


@pytest.mark.parametrize("family", WINDOWED)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_shared_prefixes_read_like_each_alone(family: str, data: st.DataObject) -> None:
    model, sequences = pico.shared(family), data.draw(families_of_sequences())
    own = [data.draw(st.integers(1, len(ids))) for ids in sequences]
    prefixes = SharedPrefixes(model, sequences, list(range(len(sequences))), own)
    members = data.draw(st.permutations(range(len(sequences))))[: data.draw(st.integers(1, len(sequences)))]
    remaining = prefixes.remaining()
    states, mask, past = prefixes.read(members)
    assert mask.sum(-1).tolist() == [remaining[i] for i in members]
    assert all(remaining[i] >= own[i] for i in members)
    assert past.lengths.tolist() == [len(sequences[i]) for i in members]
    for row, i in enumerate(members):
        expected = alone(model, sequences[i])[-remaining[i] :]
        assert torch.allclose(states[row, : remaining[i]], expected, atol=2e-5)
    # What was read can be read on, as generation does.
    rows = torch.arange(len(members))
    more = read(model, past.aligned(), torch.full((len(members), 1), 9), None, rows, past.lengths)
    for row, i in enumerate(members):
        assert torch.allclose(more[row, 0], alone(model, [*sequences[i], 9])[-1], atol=2e-5)


@pytest.mark.parametrize("family", WINDOWED)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_truncated_is_reading_less(family: str, data: st.DataObject) -> None:
    model = pico.shared(family)
    tokens = st.integers(3, pico.VOCABULARY - 1)
    sequences = data.draw(st.lists(st.lists(tokens, min_size=1, max_size=24), min_size=1, max_size=4))
    rows = torch.arange(len(sequences))
    _, _, past = SharedPrefixes(model, sequences, rows.tolist()).read(rows.tolist())
    kept = [data.draw(st.integers(0, len(ids))) for ids in sequences]
    cut = past.truncated(torch.tensor(kept))
    assert cut.lengths.tolist() == kept
    assert cut.mask.shape[1] == max(kept)
    more = data.draw(st.lists(tokens, min_size=1, max_size=9))
    ids = torch.tensor([more] * len(sequences))
    states = read(model, cut, ids, None, rows, cut.lengths)
    for row, (sequence, length) in enumerate(zip(sequences, kept, strict=True)):
        assert torch.allclose(states[row], alone(model, sequence[:length] + more)[length:], atol=2e-5)
    # The original is as it was, and rows may be repeated and reordered.
    order = data.draw(st.lists(st.integers(0, len(sequences) - 1), min_size=1, max_size=5))
    chosen = past.select(torch.tensor(order)).aligned()
    states = read(model, chosen, torch.tensor([more] * len(order)), None, torch.tensor(order), chosen.lengths)
    for row, i in enumerate(order):
        assert torch.allclose(states[row], alone(model, sequences[i] + more)[-len(more) :], atol=2e-5)


def test_a_shared_beginning_is_read_once() -> None:
    model = pico.shared("llama")
    common = list(range(10, 60))
    prefixes = SharedPrefixes(model, [[*common, 70 + i, 3] for i in range(5)], list(range(5)))
    assert prefixes.remaining() == [2, 2, 2, 2, 2] or sum(prefixes.remaining()) <= 10
    assert SharedPrefixes(model, [[7, 8], [9, 8]], [0, 1]).remaining() == [2, 2]


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_separate_runs(family: str) -> None:
    model = pico.shared(family)
    head = "The list of cities of this country, in the order of their size, begins with "
    pairs = [
        (head, "Paris"),
        (head, "Rome and so on"),
        (head + "Lyon and ", "Nice"),
        ("x", "y"),
        (head, "P"),
        (head, "Paris"),
    ]
    together = score(model, pairs)
    for pair, scored in zip(pairs, together, strict=True):
        separate = score(model, [pair])[0]
        assert scored.token_log_probabilities == pytest.approx(separate.token_log_probabilities, abs=1e-5)
        prompt, own = encode(model, pair[0]), model.tokenizer(pair[1], add_special_tokens=False)["input_ids"]
        logits = model.anatomy.unembed(alone(model, prompt + own)).float().log_softmax(-1)
        truth = [float(logits[len(prompt) - 1 + i, token].detach()) for i, token in enumerate(own)]
        assert scored.token_log_probabilities == pytest.approx(truth, abs=1e-5)
        assert scored.log_probability == pytest.approx(sum(truth), abs=1e-4)
        assert scored.per_token == pytest.approx(sum(truth) / len(own), abs=1e-5)
    best, listed = choose(model, head, ["Paris", "Rome and so on", "P"])
    assert best == max(range(3), key=lambda i: listed[i].log_probability)
    assert score_tokens(model, []) == []


@pytest.mark.parametrize("pair", [([], [5, 6]), ([5], [])])
def test_scores_need_tokens(pair: tuple) -> None:
    with pytest.raises(DataError, match="pair 1 "):
        score_tokens(pico.shared("llama"), [([3], [4]), pair])


def test_equal_logits_keep_the_order_of_the_vocabulary() -> None:
    logits = torch.zeros(40, 5000)
    draws = [(i + 0.5) / 40 for i in range(40)]
    tokens = pick(logits, GenerationSettings(1, 1.0), draws)[0].tolist()
    assert tokens == [int(draw * 5000) for draw in draws]
    assert pick(logits[:1], GenerationSettings(1, 1.0), draws[7:8])[0].tolist() == tokens[7:8]


def test_samples_that_share_a_prompt_are_those_of_separate_runs() -> None:
    for family in WINDOWED:
        model = pico.shared(family)
        prompts = ["One and the same long beginning of every prompt, then " + tail for tail in ("a", "bb", "ccc d")]
        together = generate(model, prompts, SAMPLED)
        separate = generate(model, prompts, SAMPLED, rows=1)
        assert texts_of(together) == texts_of(separate)
        assert [i.log_probability for i in together] == pytest.approx([i.log_probability for i in separate], abs=1e-4)


def test_an_empty_cache_has_no_tokens() -> None:
    past = KeyValues.empty(3, torch.device("cpu"))
    assert past.lengths.tolist() == [0, 0, 0]
    assert past.aligned().lengths.tolist() == [0, 0, 0]


def sorted_draw(logits: torch.Tensor, chosen: GenerationSettings, draws: list[float]) -> torch.Tensor:
    """Inversion of the cumulative distribution with all tokens put in order: the plain definition."""
    scores, order = (logits / chosen.temperature).sort(dim=-1, descending=True, stable=True)
    weights = scores.softmax(-1, dtype=torch.float64)
    if chosen.top_k:
        weights[:, chosen.top_k :] = 0
    if chosen.top_p < 1:
        weights = weights * (weights.cumsum(-1) - weights < chosen.top_p * weights.sum(-1, keepdim=True))
    cumulative = weights.cumsum(-1)
    target = torch.tensor(draws, dtype=torch.float64)[:, None] * cumulative[:, -1:]
    return order.gather(-1, torch.searchsorted(cumulative, target, right=True))[:, 0]


@pytest.mark.parametrize("spread", [0.001, 0.5, 2.0, 8.0])  # from draws far down the order to ever the likeliest
@pytest.mark.parametrize("changes", [{}, {"top_k": 5}, {"top_k": 700}, {"top_p": 0.9}, {"top_p": 0.5, "top_k": 40}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])  # the latter has many equal logits
def test_draws_are_those_of_a_full_sort(spread: float, changes: dict, dtype: torch.dtype) -> None:
    chosen = GenerationSettings(temperature=0.8, samples=2, **changes)
    source = torch.Generator().manual_seed(1)
    logits = (torch.randn(12, 5000, generator=source) * spread).to(dtype).float()
    logits[3, 10:] = -torch.inf
    draws = torch.rand(12, generator=source, dtype=torch.float64).tolist()
    draws[0], draws[1] = 0.0, 1 - 2**-53
    assert torch.equal(pick(logits, chosen, draws)[0][2:], sorted_draw(logits[2:], chosen, draws[2:]))
    assert pick(logits, chosen, draws)[0][0] == logits[0].argmax()
