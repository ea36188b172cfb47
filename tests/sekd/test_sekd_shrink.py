"""A shrunk model computes what its teacher does with the other layers skipped, in every family, also after a reload."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from pico import FAMILIES, build
from records import results
from shammie.core.batch import make_batch
from shammie.core.errors import ShammieError, UnsupportedModelError
from shammie.core.generate import GenerationSettings, generate
from shammie.core.model import load
from shammie.core.run import Run
from shammie.sekd.shrink import choose_layers, prepare_shrink, shrink, shrink_to

TEXTS = ["the windows of these tiny models are short", "abc"]
pytestmark = pytest.mark.filterwarnings("ignore:The explicitly set RoPE")


def deep(family, **changes):
    return build(family, num_hidden_layers=5, **({"n_layer": 5} if family == "gpt2" else {}), **changes)


def logits(model, skipped=()):
    """Logits at real tokens, with a hook that makes each skipped layer hand on what it was given."""
    batch = make_batch(model, TEXTS)

    def identity(_module, args, kwargs, _output):
        return args[0] if args else kwargs["hidden_states"]

    hooks = [model.anatomy.layers[i].register_forward_hook(identity, with_kwargs=True) for i in skipped]
    with torch.no_grad():
        found = model.module(**batch.inputs(), use_cache=False).logits[batch.mask.bool()]
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kept", [[0, 1, 2, 3, 4], [0, 2, 3], [1, 4], [0, 2, 4], [3]], ids=str)
def test_it_is_the_teacher_with_layers_skipped(family, kept):
    teacher = deep(family)
    student = shrink(teacher, kept)
    torch.testing.assert_close(logits(student), logits(teacher, sorted(set(range(5)) - set(kept))))
    assert len(student.anatomy.layers) == len(kept)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3_text", "qwen3_moe", "gpt_oss"])
def test_it_is_written_as_a_plain_checkpoint_that_generates(family, tmp_path):
    teacher = deep(family)
    shrink_to(teacher, [0, 1, 3], tmp_path / "student")
    student = load(tmp_path / "student")
    torch.testing.assert_close(logits(student), logits(teacher, [2, 4]))
    assert student.module.config.num_hidden_layers == 3
    with_cache = generate(student, TEXTS, GenerationSettings(max_new_tokens=12))
    for text, made in zip(TEXTS, with_cache, strict=True):
        ids = student.tokenizer(text)["input_ids"]
        for token in made.tokens:  # without one: the whole text is read anew for each token
            with torch.no_grad():
                assert int(student.module(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()) == token
            ids = [*ids, token]


def test_windows_written_as_a_rule_over_layer_numbers_stay_with_their_layers(tmp_path):
    teacher = deep("qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=2)
    shrink_to(teacher, [1, 3, 4], tmp_path / "student")
    torch.testing.assert_close(logits(load(tmp_path / "student")), logits(teacher, [0, 2]))


def test_a_step_between_sparse_layers_becomes_a_list_of_dense_ones():
    teacher = deep("qwen3_moe", mlp_only_layers=[], decoder_sparse_step=2)
    student = shrink(teacher, [1, 2, 3])
    assert [student.anatomy.is_sparse(layer) for layer in range(3)] == [True, False, True]
    torch.testing.assert_close(logits(student), logits(teacher, [0, 4]))


def test_training_the_student_leaves_the_teacher_alone():
    teacher = deep("llama")
    before = logits(teacher)
    student = shrink(teacher, 3)
    with torch.no_grad():
        for parameter in student.module.parameters():
            parameter.zero_()
    torch.testing.assert_close(logits(teacher), before)


def test_dtype_and_ties_are_kept(tmp_path):
    made = deep("gemma3_text", dtype=torch.bfloat16)
    made.module.save_pretrained(tmp_path)
    made.tokenizer.save_pretrained(tmp_path)
    teacher = load(tmp_path)  # rotary tables in float32, which casting a module in memory rounds
    student = shrink(teacher, 2)
    assert student.dtype == torch.bfloat16
    assert student.anatomy.tied
    torch.testing.assert_close(logits(student), logits(teacher, [1, 2, 3]))


def test_shrinking_draws_no_random_numbers():
    teacher = deep("llama")
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    shrink(teacher, 3)
    assert torch.rand(1) == expected


@pytest.mark.parametrize(("count", "layers", "kept"), [(30, 2, [0, 29]), (5, 3, [0, 1, 4]), (4, 4, [0, 1, 2, 3])])
def test_a_count_is_taken_from_both_ends(count, layers, kept):
    assert choose_layers(count, layers) == kept


def test_every_count_keeps_that_many():
    for count in range(2, 40):
        for layers in range(2, count + 1):
            kept = choose_layers(count, layers)
            assert (len(kept), kept[0], kept[-1]) == (layers, 0, count - 1)
            assert sum(b - a > 1 for a, b in pairwise(kept)) == (layers < count)  # one block is left out


@pytest.mark.parametrize("layers", [0, 1, 6, -2, [], [1, 0], [2, 2], [0, 5], [-1, 2]])
def test_impossible_choices_are_refused(layers):
    with pytest.raises(ShammieError, match=r"layers"):
        choose_layers(5, layers)


def test_attention_scaled_by_layer_number_cannot_be_cut_with_a_gap():
    teacher = deep("gpt2", scale_attn_by_inverse_layer_idx=True)
    torch.testing.assert_close(logits(shrink(teacher, [0, 1, 2])), logits(teacher, [3, 4]))
    with pytest.raises(UnsupportedModelError, match="its first layers, such as 0 to 1"):
        shrink(teacher, [0, 2])


def test_the_command_writes_a_checkpoint_and_says_what_it_is(tmp_path):
    teacher = deep("llama")
    teacher.module.save_pretrained(tmp_path / "teacher")
    teacher.tokenizer.save_pretrained(tmp_path / "teacher")
    config = SimpleNamespace(model=str(tmp_path / "teacher"), layers=3, keep=(), device=None, dtype="auto")
    task = prepare_shrink(config)
    assert task.estimate()["layers"] == "0 1 4"
    with Run.open("sekd shrink", {}, tmp_path / "run", inputs=task.inputs) as run:
        assert task.execute(run) == 0
    (record,) = results(tmp_path / "run")
    student = load(tmp_path / "run" / "artifacts" / "student")
    assert record["layers"] == [0, 1, 4]
    assert record["parameters"] == sum(p.numel() for p in student.module.parameters()) < record["teacher_parameters"]
    torch.testing.assert_close(logits(student), logits(teacher, [2, 3]))
