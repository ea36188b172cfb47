"""The equations against independent ways to compute the same, and by their properties."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shammie.entity_cells import equations as eq
from shammie.entity_cells.equations import Moments, Reference

shapes = st.tuples(st.integers(2, 9), st.integers(1, 4), st.integers(1, 6), st.integers(0, 2**31))


def drawn(prompts, rows, neurons, seed):
    return torch.randn(prompts, rows, neurons, generator=torch.Generator().manual_seed(seed)) * 3 + 5


def running(values):
    moments = Moments.zeros(values.shape[1], values.shape[2])
    rows = torch.arange(values.shape[1])
    for value in values:
        moments.count += 1
        moments.add(rows, slice(0, values.shape[2]), value, moments.count)
    return moments


@given(shapes)
@settings(max_examples=50, deadline=None)
def test_running_moments_are_those_of_all_values_and_merge_exactly(shape):
    values = drawn(*shape)
    whole, cut = running(values), 1 + shape[3] % (shape[0] - 1)
    merged = running(values[:cut]).merged(running(values[cut:]))
    for moments in (whole, merged):
        assert moments.count.tolist() == [len(values)] * shape[1]
        np.testing.assert_allclose(moments.mean, values.mean(0), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(moments.deviation(), values.numpy().std(0), rtol=1e-3, atol=1e-4)


def test_merging_with_nothing_changes_nothing():
    some = running(drawn(4, 2, 3, 0))
    for merged in (some.merged(Moments.zeros(2, 3)), Moments.zeros(2, 3).merged(some)):
        torch.testing.assert_close(merged.mean, some.mean)
        torch.testing.assert_close(merged.m2, some.m2)


@given(shapes)
@settings(max_examples=30, deadline=None)
def test_standardized_moments_give_the_stability_of_standardized_values(shape):
    values = drawn(*shape)
    mu, sigma = values.mean((0, 1)) - 1, values.std((0, 1)) + 0.5
    z = (values.double().numpy() - mu.double().numpy()) / (sigma.double().numpy() + 1e-6)
    wanted = z.mean(0) ** 2 / (z.std(0) + 1e-6)
    found = eq.stability(eq.standardized(running(values), mu, sigma))
    np.testing.assert_allclose(found, wanted, rtol=5e-3)


def test_stability_ignores_the_sign_and_turns_what_is_not_finite_to_zero():
    moments = running(drawn(5, 1, 4, 1))
    flipped = Moments(moments.count, -moments.mean, moments.m2)
    torch.testing.assert_close(eq.stability(moments), eq.stability(flipped))
    broken = Moments(moments.count, moments.mean * float("nan"), moments.m2)
    assert eq.stability(broken).tolist() == [[0.0] * 4]


def test_dominance_is_the_score_over_the_next_five_of_the_layer():
    scores = torch.tensor([1.0, 20.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.5])
    assert abs(eq.dominance(scores, 1) - 20 / 4) < 1e-5


@given(st.integers(2, 12), st.floats(0.01, 0.6), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_the_quantile_of_the_others_is_that_of_a_list_without_oneself(rows, share, seed):
    values = torch.rand(rows, 5, generator=torch.Generator().manual_seed(seed))
    values[0] = values[-1]  # ties
    reference = Reference.of(values, share)
    rank = max(1, int(np.ceil(share * (rows - 1))))
    for own in range(rows):
        others = np.delete(values.numpy(), own, 0)
        np.testing.assert_allclose(reference.others(own), -np.sort(-others, 0)[rank - 1])
    np.testing.assert_allclose(reference.others(None), -np.sort(-values.numpy(), 0)[rank - 1])


def test_identities_of_the_effect_sizes():
    base, unknown = torch.tensor([-0.5, -1.0]), torch.tensor([-6.0, -4.0])
    assert eq.knowledge_score(base, base, unknown).tolist() == [1.0, 1.0]
    assert eq.knowledge_score(unknown, base, unknown).tolist() == [0.0, 0.0]
    p = torch.tensor([0.2, 0.8])
    assert eq.relative_probability(p, p) == 1.0
    assert eq.clipped_loss(p, p).tolist() == [0.0, 0.0]
    assert eq.clipped_loss(2 * p, p).tolist() == [0.0, 0.0]
    torch.testing.assert_close(eq.clipped_loss(p / 4, p), torch.tensor([0.75, 0.75]))


@given(st.floats(-4, 16), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_injection_moves_only_the_chosen_neurons_along_the_line_to_the_entity(strength, seed):
    mean, value = torch.randn(2, 6, generator=torch.Generator().manual_seed(seed))
    chosen = torch.tensor([1, 4])
    state = eq.injected(mean, value, chosen, strength)
    rest = torch.tensor([0, 2, 3, 5])
    assert torch.equal(state[rest], mean[rest])
    torch.testing.assert_close(state[chosen] - mean[chosen], strength * (value - mean)[chosen], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(eq.injected(mean, value, chosen, 0.0), mean)
