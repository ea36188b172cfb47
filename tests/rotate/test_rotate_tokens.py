"""The vocabulary: which tokens count, what is near what; and the neurons of every family."""

import pytest
import torch
from torch.nn.functional import normalize

from pico import DENSE, SPARSE, TIED, build, shared
from shammie.core.batch import make_batch
from shammie.core.capture import capture
from shammie.core.errors import NonFiniteError, ShammieError, SiteError, UnsupportedModelError
from shammie.core.site import attention_out, mlp_in, residual_in
from shammie.core.vocabulary import norm_weight
from shammie.rotate.neurons import check_neurons, folded_scale, read_rows, weight_slice
from shammie.rotate.recipes import RECIPES, recipe
from shammie.rotate.settings import PARTS, RotateSettings, parse_numbers, parse_parts
from shammie.rotate.tokens import TokenSpace, choose_matrix, token_space, token_weights

GATED = [family for family in DENSE if family not in ("gpt2", "gpt_neox", "opt")]


def vocabulary(seed=0, count=1000, width=16):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_outlying_norms_count_for_little():
    tokens = vocabulary()
    tokens[5] *= 20
    weights = token_weights(tokens, torch.zeros(1000, dtype=torch.bool))
    assert weights[5] == pytest.approx(1e-4)
    assert (weights == weights[5]).sum() == 10
    assert (weights == 1).sum() == 990


def test_tokens_that_look_never_trained_are_dropped_with_those_that_were_not():
    tokens, common = vocabulary(), vocabulary(1, 1)[0]
    never = torch.zeros(1000, dtype=torch.bool)
    never[:10] = True
    lookalikes = slice(10, 14)
    tokens[:14] = 2 * common + 0.1 * tokens[:14]
    weights = token_weights(tokens, never)
    assert (weights[:14] == 0).all()
    assert (weights[lookalikes.stop :] == 0).float().mean() < 0.05


def test_unused_tokens_without_a_common_direction_drop_only_themselves():
    never = torch.zeros(1000, dtype=torch.bool)
    never[:10] = True
    assert (token_weights(vocabulary(), never) == 0).nonzero()[:, 0].tolist() == list(range(10))


def test_special_tokens_weigh_nothing():
    space = token_space(shared("llama"), "output")
    assert (space.weights[:3] == 0).all()
    assert space.ordinary.float().mean() > 0.9


def test_nearest_tokens_are_those_of_largest_centred_cosine_among_ordinary_ones():
    tokens, weights = vocabulary() + 3, torch.ones(1000)
    weights[:100] = 1e-4
    space, probe = TokenSpace(tokens, weights), vocabulary(2, 4)
    cosine = normalize(probe, dim=-1) @ normalize(tokens - tokens.mean(0), dim=-1).T
    cosine[:, :100] = -2
    assert torch.equal(space.nearest(probe, 7), cosine.topk(7).indices)
    torch.testing.assert_close(space.cosines(probe)[:, 100:], (cosine * probe.norm(dim=-1, keepdim=True))[:, 100:])
    centroid = space.centroid(torch.tensor([3, 8, 9]))
    torch.testing.assert_close(centroid, normalize(tokens[[3, 8, 9]].mean(0) - tokens.mean(0), dim=0))


def test_folding_multiplies_by_the_final_norms_scale():
    model = shared("gemma2")
    plain, folded = (token_space(model, "output", fold_norm=flag) for flag in (False, True))
    torch.testing.assert_close(folded.tokens, plain.tokens * norm_weight(model))
    torch.testing.assert_close(token_space(model, "input", fold_norm=True).tokens, plain.tokens)


def test_early_layers_of_untied_models_are_read_with_the_input_embedding():
    assert [choose_matrix(shared("llama"), layer, "auto") for layer in range(3)] == ["input", "input", "output"]
    assert {choose_matrix(shared(family), 0, "auto") for family in TIED} == {"output"}
    assert choose_matrix(shared("llama"), 2, "input") == "input"


def test_a_broken_unembedding_is_named():
    model = build("llama")
    model.anatomy.unembedding.weight.data[3, 0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"lm_head\.weight"):
        token_space(model, "output")


@pytest.mark.parametrize("family", DENSE)
def test_rows_are_what_the_families_mlps_multiply_with(family):
    model = shared(family)
    names = [part for part in PARTS if part != "gate" or family in GATED]
    rows = {part: read_rows(model, 1, part) for part in names}
    for part, matrix in rows.items():
        assert matrix.shape == (model.anatomy.neuron_count(1), model.anatomy.width), part
        assert torch.equal(matrix, weight_slice(model, 1, part).view(model.module))


@pytest.mark.parametrize("family", DENSE)
def test_the_norm_that_folding_uses_is_the_one_before_the_mlp(family):
    model = shared(family)
    path = model.anatomy.family.mlp_norm
    seen = capture(model, make_batch(model, ["a cat sat"]), [residual_in(1), attention_out(1), mlp_in(1)])
    stream = seen[residual_in(1)] + seen[attention_out(1)]
    if path is None:
        torch.testing.assert_close(seen[mlp_in(1)], stream)
        assert folded_scale(model, 1, "gate", True) is None
        return
    norm = model.anatomy.layers[1].get_submodule(path)
    options = (stream, seen[residual_in(1)])  # GPT-NeoX computes attention and MLP side by side
    assert any(torch.allclose(norm(option), seen[mlp_in(1)], atol=1e-5) for option in options)
    assert folded_scale(model, 1, "out", True) is None
    assert torch.equal(read_rows(model, 1, "in", fold_norm=True), read_rows(model, 1, "in") * norm_weight(model, norm))


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "opt"])
def test_mlps_of_two_matrices_have_no_gate(family):
    with pytest.raises(UnsupportedModelError, match="two matrices and no gate; use --part in,out"):
        weight_slice(shared(family), 0, "gate")


@pytest.mark.parametrize("family", SPARSE)
def test_sparse_layers_are_refused(family):
    with pytest.raises(UnsupportedModelError, match=r"layer 0 .* is sparse"):
        weight_slice(shared(family), 0, "in")


def test_what_does_not_exist_is_said():
    with pytest.raises(SiteError, match="layer 9 does not exist"):
        weight_slice(shared("llama"), 9, "in")
    with pytest.raises(SiteError, match="neuron 48 does not exist; layer 0 has neurons 0 to 47"):
        check_neurons(shared("llama"), 0, [1, 48])


@pytest.mark.parametrize(("value", "sentence"), [(0.0, "row of zeros"), (torch.inf, "NaN or infinity")])
def test_a_row_that_says_nothing_is_named(value, sentence):
    model = build("llama")
    weight_slice(model, 1, "in").view(model.module)[7] = value
    with pytest.raises(ShammieError, match=f"neuron 7 of layer 1 has a in row .*{sentence}|neuron 7.*{sentence}"):
        read_rows(model, 1, "in")


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("3", [3]), ("2:5", [2, 3, 4]), (":2", [0, 1]), ("8:", [8, 9]), ("5,1:3,2", [1, 2, 5]), ("all", list(range(10)))],
)
def test_numbers(text, numbers):
    assert parse_numbers(text, 10, "neuron") == numbers


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("x", "'x' names no layer"), ("", "'' names no layer"), ("10", "layer 10 does not exist"), ("4:2", "larger"),
     ("-1", "layer -1 does not exist"), ("3:11", "layer 10 does not exist"), ("1,,2", "'' names no layer")],
)  # fmt: skip
def test_numbers_that_name_nothing(text, sentence):
    with pytest.raises(ShammieError, match=sentence):
        parse_numbers(text, 10, "layer")


def test_parts_come_in_their_order():
    assert parse_parts("out, gate") == ("gate", "out")
    with pytest.raises(ShammieError, match="'up' is no part"):
        parse_parts("gate,up")


def test_recipes_are_the_papers():
    assert recipe("gemma-2-2b", 18, "out").kurtosis_weight == 0.5
    assert recipe("gemma-2-2b", 4, "out").learning_rate == 2e-3
    assert recipe("gemma-2-2b", 4, "in") == RotateSettings(solver="paper", channels=50)
    assert recipe("llama-3.1-8b", 12, "in").matrix == "input"
    assert recipe("llama-3.1-8b", 13, "in").threshold == 6.0
    assert [recipe("llama-3.1-8b", layer, "in").channels for layer in (8, 9, 16, 26)] == [30, 50, 30, 30]
    assert (recipe("llama-3.1-8b", 22, "in").threshold, recipe("llama-3.1-8b", 22, "in").learning_rate) == (8.0, 2e-3)
    assert all(recipe(name, 1, "in") for name in RECIPES)
    with pytest.raises(ShammieError, match="'llama' is no recipe"):
        recipe("llama", 1, "in")


@pytest.mark.parametrize(
    "wrong", [{"channels": 0}, {"restarts": 0}, {"null_draws": 3}, {"threshold": 0.0}, {"learning_rate": -1.0},
              {"kurtosis_weight": -0.1}, {"max_steps": 0}],
)  # fmt: skip
def test_settings_out_of_range(wrong):
    with pytest.raises(ShammieError):
        RotateSettings(**wrong)
