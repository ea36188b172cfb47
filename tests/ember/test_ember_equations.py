"""The algebra against independent oracles and by its theorems."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from shammie.ember import equations as eq

SEEDS = st.integers(0, 10_000)


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(SEEDS)
def test_features_and_loadings_solve_their_ridge_problems(seed):
    rows, g = normal(seed, 12, 5), normal(seed + 1, 12, 3)
    lam = eq.RIDGE * float((g.T @ g).diagonal().mean())
    augmented = np.vstack([g.numpy(), math.sqrt(lam) * np.eye(3)])
    wanted = np.linalg.lstsq(augmented, np.vstack([rows.numpy(), np.zeros((3, 5))]), rcond=None)[0]
    features = eq.solve_features(g.T @ rows, eq.gram(g))
    np.testing.assert_allclose(features.numpy(), wanted, atol=1e-8)
    lam = eq.RIDGE * float((features @ features.T).diagonal().mean())
    augmented = np.vstack([features.T.numpy(), math.sqrt(lam) * np.eye(3)])
    wanted = np.linalg.lstsq(augmented, np.vstack([rows.T.numpy(), np.zeros((3, 12))]), rcond=None)[0].T
    np.testing.assert_allclose(eq.solve_loadings(rows, features).numpy(), wanted, atol=1e-7)


@given(SEEDS)
def test_sparse_products_and_the_gram_error_equal_dense_ones(seed):
    rows, dense = normal(seed, 15, 6), normal(seed + 1, 15, 4)
    index, value = eq.winner_take_all(dense, 5)
    g = eq.scatter(index, value, 15)
    for k in range(4):
        kept = set(np.argsort(-dense[:, k].abs().numpy())[:5].tolist())
        assert {i for i in range(15) if g[i, k] != 0} == kept
        assert all(g[i, k] == dense[i, k] for i in kept)
    product = eq.gather_product(rows, index, value)
    torch.testing.assert_close(product, g.T @ rows)
    features = normal(seed + 2, 4, 6)
    error = eq.squared_error(rows.square().sum(), product, features, eq.gram(g))
    torch.testing.assert_close(error, (rows - g @ features).square().sum())


def test_an_unsolvable_gram_matrix_gets_a_larger_ridge_and_then_nan():
    singular = torch.ones(3, 3)
    assert eq.ridge_solve(singular, torch.ones(3, 1), 1e-9).isfinite().all()
    assert eq.ridge_solve(torch.full((3, 3), torch.nan), torch.ones(3, 1), 1e-4).isnan().all()


@given(SEEDS, st.floats(0.01, 1000))
def test_row_normalized_activity_knows_no_scale(seed, gap):
    g = normal(seed, 20, 4)
    scaled = g * torch.where(torch.arange(20) < 10, gap, 1.0)[:, None]
    torch.testing.assert_close(eq.activity(scaled, by_row=True), eq.activity(g, by_row=True))


@given(st.integers(0, 30), st.integers(0, 30), st.integers(40, 200), st.integers(40, 200))
def test_keyness_is_the_likelihood_ratio_of_two_poisson_rates(ours, theirs, our_size, their_size):
    if not ours + theirs:
        return
    found = float(
        eq.keyness(
            torch.tensor([float(ours)]).double(),
            torch.tensor([float(theirs)]).double(),
            float(our_size),
            float(their_size),
        )
    )
    rate = (ours + theirs) / (our_size + their_size)

    def likelihood(a, b):
        return float(stats.poisson.logpmf(ours, a) + stats.poisson.logpmf(theirs, b))

    wanted = 2 * (likelihood(ours, theirs) - likelihood(our_size * rate, their_size * rate))
    assert abs(found) == pytest.approx(wanted, abs=1e-9)
    assert (found >= 0) == (ours / our_size >= theirs / their_size) or wanted < 1e-9


def test_pooled_keyness_is_standard_normal_where_both_texts_use_tokens_alike():
    draw = torch.Generator().manual_seed(0)
    values = []
    for _ in range(400):
        ours, theirs = torch.poisson(torch.full((2, 60), 8.0), generator=draw)
        keyness = eq.keyness(ours, theirs, float(ours.sum()), float(theirs.sum()))
        values.append(
            float(eq.pooled_keyness(torch.rand(60, 1, generator=draw) * (torch.arange(60) < 6)[:, None], keyness))
        )
    assert stats.kstest(values, "norm").pvalue > 0.01
    z = torch.tensor([-1.0, 0.0, 1.645, 3.0])
    np.testing.assert_allclose(eq.normal_tail(z).numpy(), stats.norm.sf(z.numpy()), rtol=1e-4)


def test_permutation_p_counts_the_data_and_ties():
    null = torch.tensor([[0.0], [1.0], [2.0]])
    assert float(eq.permutation_p(torch.tensor([1.0]), null)) == pytest.approx(3 / 4)


@given(SEEDS, st.floats(-3, 8))
def test_ablation_multiplies_the_component_by_one_minus_delta(seed, delta):
    rows, direction = normal(seed, 4, 6), normal(seed + 1, 6)
    direction = direction / direction.norm()
    after = rows + eq.ablate_direction(rows, direction, delta)
    torch.testing.assert_close(after @ direction, (1 - delta) * (rows @ direction))
    across = normal(seed + 2, 6)
    across = across - (across @ direction) * direction
    torch.testing.assert_close(after @ across, rows @ across)


@given(SEEDS)
def test_the_multiplicative_update_never_raises_the_error(seed):
    states, features = normal(seed, 10, 6), normal(seed + 1, 3, 6)
    g = torch.rand(10, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1

    def error(loadings):
        return float((states - loadings @ features).square().sum())

    better = eq.semi_nmf_loadings(g, states @ features.T, features @ features.T)
    assert (better >= 0).all()
    assert error(better) <= error(g) * (1 + 1e-6)


def test_npo_starts_like_gradient_ascent_and_is_bounded():
    log_p = torch.tensor([-3.0, -5.0], requires_grad=True)
    eq.npo_loss(log_p, log_p.detach(), 0.1).backward()
    torch.testing.assert_close(log_p.grad, torch.ones(2))  # as if log p itself were the loss
    assert float(eq.npo_loss(torch.tensor([-1e4]), torch.tensor([0.0]), 0.1)) == pytest.approx(0, abs=1e-6)


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=5))
def test_the_harmonic_mean_lies_between_least_and_mean(terms):
    found = eq.harmonic_mean(*terms)
    assert min(terms) - 1e-12 <= found <= sum(terms) / len(terms) + 1e-12
    assert eq.harmonic_mean(*terms, 0.0) == 0


def test_choice_probability_is_the_logistic_of_the_margin():
    scores = torch.tensor([1.0, -2.0, 0.5])
    margin = scores[0] - torch.logsumexp(scores[1:], 0)
    torch.testing.assert_close(eq.choice_probability(scores, 0), torch.sigmoid(margin))
    assert eq.retained(0.6, 0.5, 0.25) == 1
    assert eq.retained(0.2, 0.5, 0.25) == 0
    assert eq.retained(0.375, 0.5, 0.25) == pytest.approx(0.5)


def test_guidance_moves_from_the_expert_to_the_novice():
    plain, novice, expert = torch.zeros(2, 3), torch.tensor([[2.0, 0, 0]] * 2), torch.tensor([[0, 2.0, 0]] * 2)
    scores = eq.guided(plain, novice, expert, torch.tensor([0.0, 1.0]))
    assert scores[0].std() < 1e-6
    assert scores[1].argmax() == 0
    assert scores[1].argmin() == 1
