"""The model: every dense rotary family, its checkpoint, thoughts forced and free, and both ways of reading."""

import json
import subprocess
import sys

import pytest
import torch
from torch.nn import functional

import pico
from shammie import load
from shammie.core.batch import pad
from shammie.core.errors import ShammieError, UnsupportedModelError
from shammie.core.model import LanguageModel
from shammie.thinking_states.methods import Thinking
from shammie.thinking_states.modeling import wrap
from shammie.thinking_states.problems import Layout, Problem, Step
from shammie.thinking_states.reading import Reader, ThinkingStepper
from shammie.thinking_states.settings import MethodSettings, ThinkingSettings

ROTARY = tuple(family for family in pico.DENSE if family not in ("gpt2", "opt"))
SETTINGS = ThinkingSettings(chunk=4, longest=6)
IDS = torch.randint(4, 250, (2, 13), generator=torch.Generator().manual_seed(0))
QUESTIONS = [list(range(10, 10 + n)) for n in (13, 4, 9, 1, 16)]


def thinking(family, settings=SETTINGS, mixed=0.0):
    """A random thinking model; with `mixed` some thoughts are empty and some are not, which by chance all or none would be."""
    module = wrap(pico.shared(family).module, settings, 2)
    model = LanguageModel(module, pico.tokenizer(), f"thinking-{family}")
    if mixed:
        ids = torch.tensor([QUESTIONS[0][:12], QUESTIONS[4][:12]])
        none = torch.zeros(6, 0, dtype=torch.long)
        with torch.no_grad():
            module(input_ids=ids)
            states = module.think(module.extracted.reshape(6, 4, -1), torch.ones(6, 4, dtype=torch.bool), none)[:, 0]
            mean, apart = states.mean(0), states[0] - states.mean(0)
            apart -= mean * (apart @ mean) / (mean @ mean)  # what tells chunks apart, not what they share
            module.thinker.get_output_embeddings().weight[2] = mixed * apart / apart.norm()
    return model


def reasoner(model):
    return Thinking(model, Layout(model.tokenizer, model.module.settings.chunk), MethodSettings())


def examples(model, texts=("a b c d e f g", "hello there", "x")):
    layout = Layout(model.tokenizer, model.module.settings.chunk)
    found = []
    for text in texts:
        steps = tuple(Step(f"s{n}", n) for n in range(1, len(text), 3))
        found.append(layout.encode(Problem(text, steps, "yes")))
    return found


@pytest.mark.parametrize("family", ROTARY)
def test_without_states_it_is_its_backbone_and_is_read_back_whole(family, tmp_path):
    plain = pico.shared(family).module
    model = thinking(family)
    with torch.no_grad():
        torch.testing.assert_close(model.module(input_ids=IDS).logits, plain(input_ids=IDS).logits, rtol=0, atol=0)
    model.module.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "shammie_thinking"
    assert again.anatomy.tied == pico.shared(family).anatomy.tied
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(tensor, again.module.state_dict()[name]), name


def test_a_fresh_process_reads_it_and_stock_transformers_refuses(tmp_path):
    model = thinking("llama")
    model.module.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    with torch.no_grad():
        wanted = model.module(input_ids=IDS[:1, :5]).logits[0, -1, :4].tolist()
    ours = f"from shammie import load; m = load({str(tmp_path)!r}).module; import torch\n"
    ours += f"print(m(input_ids=torch.tensor([{IDS[0, :5].tolist()}])).logits[0, -1, :4].tolist())"
    found = subprocess.run([sys.executable, "-c", ours], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == pytest.approx(wanted, abs=1e-6)
    stock = f"from transformers import AutoModelForCausalLM as A; A.from_pretrained({str(tmp_path)!r})"
    refused = subprocess.run([sys.executable, "-c", stock], capture_output=True, text=True)
    assert refused.returncode != 0
    assert "shammie_thinking" in refused.stderr


@pytest.mark.parametrize(("family", "word"), [("gpt2", "rotary"), ("opt", "rotary"), ("mixtral", "experts")])
def test_models_that_cannot_carry_states_are_refused(family, word):
    with pytest.raises(UnsupportedModelError, match=word):
        wrap(pico.shared(family).module, SETTINGS, 2)


def test_layers_must_lie_one_above_the_other():
    with pytest.raises(ShammieError, match="--inject must lie below --extract"):
        wrap(pico.shared("llama").module, ThinkingSettings(inject=2, extract=1), 2)


@pytest.mark.parametrize("family", ROTARY)
def test_free_thoughts_are_what_forcing_them_predicts(family):
    model = thinking(family).module
    noise = torch.Generator().manual_seed(1)
    hidden = torch.randn(3, 4, 32, generator=noise)
    filled = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]).bool()
    made = model.thoughts(model.begin(hidden, filled))
    targets = pad([[*thought, model.end] for thought in made])
    with torch.no_grad():
        said = model.thought_logits(model.think(hidden, filled, targets.ids[:, :-1])).argmax(-1)
    for row, thought in enumerate(made):
        ended = [*thought, model.end] if len(thought) < SETTINGS.longest else thought
        assert said[row, : len(ended)].tolist() == ended
    assert [token == model.end for token in model.begin(hidden, filled).token.tolist()] == [not t for t in made]
    some = torch.tensor([2, 0])
    assert model.thoughts(model.begin(hidden, filled).select(some)) == [made[row] for row in some]
    other = torch.where(filled[..., None], hidden, 9.0)  # of a partial chunk only what is in it counts
    assert model.thoughts(model.begin(other, filled)) == made


@pytest.mark.parametrize("family", ROTARY)
def test_a_state_does_not_depend_on_the_other_thoughts_and_an_empty_one_is_nothing(family):
    model = thinking(family).module
    thoughts = [[5, 6], [], [7, 8, 9, 10, 11, 12]]
    with torch.no_grad():
        together = model.compress(thoughts)
        for row, thought in enumerate(thoughts):
            torch.testing.assert_close(together[row], model.compress([thought])[0], rtol=1e-5, atol=1e-6)
    assert not together[1].any()
    assert together[0].abs().sum(-1).min() > 0  # every slot knows of the thought, so that a partial chunk gets it too
    ends = wrap(pico.shared(family).module, ThinkingSettings(4, longest=6, trivial="end"), 2)
    assert ends.compress([[]]).any()


@pytest.mark.parametrize(
    ("family", "trivial", "mixed"),
    [(family, "zero", 60.0) for family in ROTARY] + [("llama", "end", 20.0), ("llama", "zero", 0.0)],
)
def test_speculation_reads_what_one_chunk_after_another_does(family, mixed, trivial):
    model = thinking(family, ThinkingSettings(4, longest=6, trivial=trivial), mixed)
    slow, fast = (Reader(model, prefill).read(QUESTIONS) for prefill in ("sequential", "speculative"))
    assert slow.thoughts == fast.thoughts
    assert [len(own) for own in slow.thoughts] == [-(-len(ids) // 4) for ids in QUESTIONS]
    assert slow.cut == fast.cut
    assert slow.cut == [sum(len(thought) >= 6 for thought in own) for own in slow.thoughts]
    torch.testing.assert_close(slow.states, fast.states, rtol=1e-4, atol=1e-4)
    assert fast.passes <= slow.passes + 1
    for row, ids in enumerate(QUESTIONS):
        alone = Reader(model).read([ids])
        assert alone.thoughts[0] == fast.thoughts[row]


def test_some_thoughts_are_empty_and_some_are_not_in_that_test():
    kinds = [bool(thought) for own in Reader(thinking("llama", mixed=60.0)).read(QUESTIONS).thoughts for thought in own]
    assert 0.1 < sum(kinds) / len(kinds) < 0.9


@pytest.mark.parametrize("family", ROTARY)
def test_the_parallel_pass_sees_what_reading_with_the_same_thoughts_sees(family):
    model = thinking(family)
    own = examples(model)
    forced = reasoner(model)
    batch = pad([example.question for example in own])
    with torch.no_grad():
        position = torch.arange(batch.ids.shape[1]).expand(len(own), -1)
        states, hidden = forced.forced(own, batch.ids, batch.mask, position)
        gold = forced.gold_states(own)
        reader = Reader(model)
        found = reader.read([example.question for example in own], gold)
    for row, example in enumerate(own):
        size = len(example.question)
        alone = Reader(model).read([example.question], gold[row : row + 1, : len(example.thoughts) + 1])
        assert int(found.past.lengths[row]) == size == int(alone.past.lengths[0])
        torch.testing.assert_close(model.module.extracted[0, :size], hidden[row, :size], rtol=1e-3, atol=1e-4)
    assert states.shape[1] == batch.ids.shape[1]


def test_the_last_state_reaches_the_first_tokens_after_the_question_in_training_and_in_generation():
    model = thinking("llama")
    own = examples(model)[:2]
    forced = reasoner(model)
    marker = forced.layout.answer_marker
    rows = [[*example.question, *marker, *example.answer[:-1]] for example in own]
    batch = pad(rows)
    with torch.no_grad():
        position = torch.arange(batch.ids.shape[1]).expand(len(own), -1)
        states, _ = forced.forced(own, batch.ids, batch.mask, position)
        wanted = model.anatomy.unembed(states)
        stepper = ThinkingStepper(Reader(model), len(marker), forced.gold_states(own))
        logits = stepper.start([[*example.question, *marker] for example in own], [0, 1])
        for row, example in enumerate(own):
            torch.testing.assert_close(
                logits[row], wanted[row, len(example.question) + len(marker) - 1], rtol=1e-3, atol=1e-3
            )
        for n in range(len(own[0].answer) - 1):
            logits = stepper.step(torch.tensor([example.answer[n] for example in own]))
            for row, example in enumerate(own):
                at = len(example.question) + len(marker) + n
                torch.testing.assert_close(logits[row], wanted[row, at], rtol=1e-3, atol=1e-3)


def test_the_loss_is_answers_and_mean_thoughts_of_each_question_alone():
    model = thinking("llama")
    own = examples(model)
    forced, generator = reasoner(model), torch.Generator()
    with torch.no_grad():
        together = forced.loss(own, 0.0, generator)
        alone = [forced.loss([example], 0.0, generator) for example in own]
    assert together.weight == len(own)
    torch.testing.assert_close(together.total, sum(found.total for found in alone), rtol=1e-4, atol=1e-4)
    example = own[0]
    marker = forced.layout.answer_marker
    ids = torch.tensor([[*example.question, *marker, *example.answer]])
    with torch.no_grad():
        position = torch.arange(ids.shape[1] - 1)[None]
        states, hidden = forced.forced([example], ids[:, :-1], torch.ones_like(ids[:, :-1]), position)
        logits = model.anatomy.unembed(states)[0, len(example.question) + len(marker) - 1 :]
        answer = functional.cross_entropy(logits, torch.tensor(example.answer), reduction="sum")
        thought = 0.0
        for number, gold in enumerate(example.thoughts):
            part = hidden[:, 4 * number : min(4 * number + 4, len(example.question))]
            filled = torch.arange(4)[None] < part.shape[1]
            part = torch.nn.functional.pad(part, (0, 0, 0, 4 - part.shape[1]))
            made = model.module.thought_logits(model.module.think(part, filled, torch.tensor([gold], dtype=torch.long)))
            thought += functional.cross_entropy(made[0], torch.tensor([*gold, 2]))
    torch.testing.assert_close(alone[0].total, answer + thought, rtol=1e-4, atol=1e-4)


def test_gradients_reach_backbone_and_both_blocks_without_going_back_through_time():
    model = thinking("llama")
    own = examples(model)[:1]
    loss = reasoner(model).loss(own, 0.0, torch.Generator()).total
    loss.backward()
    for name, parameter in model.module.named_parameters():
        assert parameter.grad is not None, name
    assert model.module.thinker.model.layers[0].mlp.up_proj.weight.grad.any()
    assert model.module.compressor.layers[0].mlp.up_proj.weight.grad.any()
    model.module.zero_grad()
