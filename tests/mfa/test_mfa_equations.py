"""The equations against dense oracles, scipy and scikit-learn; theorems of EM and of the rotation."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.decomposition import FactorAnalysis
from sklearn.mixture import GaussianMixture

from shammie.core.site import Site
from shammie.mfa.em import Pass, fit_em, gather, reseed
from shammie.mfa.equations import Parameters, covariance, joint_log_density, maximize, penalty, readout, table, varimax
from shammie.mfa.expectation import Expectation, leading_dimensions
from shammie.mfa.mixture import make_mixture
from shammie.mfa.planted import Toy, recovery
from shammie.mfa.processes import Processes
from shammie.mfa.settings import MfaSettings
from shammie.mfa.source import TensorSource


def random_mixture(seed, count=4, width=7, rank=2, noise_rows=1, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    weights = torch.rand(count, generator=g, dtype=dtype) + 0.1
    return Parameters(
        weights / weights.sum(), 3 * torch.randn(count, width, generator=g, dtype=dtype),
        torch.randn(count, width, rank, generator=g, dtype=dtype), torch.rand(noise_rows, width, generator=g, dtype=dtype) + 0.2,
    )  # fmt: skip


def oracle(mixture, x):
    rows = []
    for k in range(len(mixture.weights)):
        noise = mixture.noise[k if len(mixture.noise) > 1 else 0]
        dense = covariance(mixture.loadings[k], noise).numpy()
        rows.append(
            multivariate_normal(mixture.means[k].numpy(), dense).logpdf(x.numpy()) + float(mixture.weights[k].log())
        )
    return torch.tensor(np.stack(rows, 1))


@given(seed=st.integers(0, 10_000), rank=st.integers(1, 5), shared=st.booleans())
def test_log_density_is_that_of_a_dense_normal_by_both_ways(seed, rank, shared):
    mixture = random_mixture(seed, rank=rank, noise_rows=1 if shared else 4)
    x = 4 * torch.randn(9, 7, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    expected = oracle(mixture, x)
    step = Expectation(mixture, None, 4)
    torch.testing.assert_close(step.dense(x), expected, atol=1e-8, rtol=1e-8)
    posterior = step.posterior(x)
    torch.testing.assert_close(posterior.joint, expected.gather(1, posterior.components), atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(posterior.responsibilities.sum(-1), torch.ones(9, dtype=torch.float64))


def test_float32_keeps_its_digits_far_from_zero():
    mixture = random_mixture(0)
    far = mixture._replace(means=mixture.means + 3000)
    x = far.means[:1] + torch.randn(5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    single = Parameters(*(part.float() for part in far))
    step = Expectation(single, None, 4)
    torch.testing.assert_close(
        step.posterior(x.float()).joint.double(), Expectation(far, None, 4).posterior(x).joint, atol=5e-3, rtol=0
    )


def test_all_dimensions_as_screen_lose_nothing_and_few_lose_little():
    truth, x, _ = Toy(components=8, width=24).draw(0)
    full = Expectation(truth, None, 8).posterior(x).log_density
    for dims, error in ((24, 1e-3), (8, 0.05)):
        screened = Expectation(truth, leading_dimensions(truth, dims), 3).posterior(x).log_density
        assert float((full - screened).mean()) < error
        assert float((full - screened).min()) > -1e-3, "candidates alone can only lose density"


def test_latents_are_the_conditional_mean():
    mixture = random_mixture(3)
    artifact = make_mixture(mixture, MfaSettings(4, 2, screen=0, candidates=4), Site("residual", 1), {})
    x = torch.randn(6, 7, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    components = torch.tensor([0, 1, 2, 3, 0, 1])
    for row, k in enumerate(components.tolist()):
        w, c = artifact.loadings[k], covariance(artifact.loadings[k], artifact.noise[0])
        expected = w.T @ torch.linalg.solve(c, x[row] - artifact.means[k])
        torch.testing.assert_close(artifact.latents(x, components)[row], expected)
    torch.testing.assert_close(artifact.codes(x) @ artifact.dictionary(), artifact.reconstruct(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("noise", ["shared", "component"])
def test_the_penalized_likelihood_never_falls(noise):
    _, x, _ = Toy(components=4, tokens=400).draw(2)
    source = TensorSource(x.double(), held_out=0.0)
    settings = MfaSettings(4, 2, noise=noise, ridge=3.0, screen=0, candidates=4)
    mixture = random_mixture(1, 4, 24, 2, 1 if noise == "shared" else 4)._replace(means=x[:4].double())
    former = float("inf")
    for number in range(15):
        statistics, nll = gather(Pass(number, mixture, None, None), source, settings, Processes())
        objective = nll * len(x) + float(penalty(mixture, settings.ridge))
        assert objective <= former + 1e-2  # responsibilities below 1e-5 are left out
        former = objective
        mixture = maximize(statistics, settings.ridge, mixture)


def test_one_component_is_factor_analysis():
    _, x, _ = Toy(components=1, rank=2, width=10, tokens=2000).draw(4)
    settings = MfaSettings(1, 2, ridge=0.0, passes=150, tolerance=1e-9, screen=0, held_out=0.0)
    *_, last = fit_em(TensorSource(x.double(), held_out=0.0), settings)
    ours = -last.train
    theirs = FactorAnalysis(2, tol=1e-8, max_iter=3000).fit(x.double().numpy()).score(x.double().numpy())
    assert abs(ours - theirs) < 2e-3


def test_without_much_covariance_it_is_a_gaussian_mixture():
    _, x, _ = Toy(components=3, rank=1, width=6, tokens=1500, spread=0.05, distance=8).draw(5)
    settings = MfaSettings(
        3, 1, noise="component", ridge=1e3, passes=60, tolerance=1e-8, screen=0, candidates=3, restarts=4
    )
    *_, last = fit_em(TensorSource(x.double(), held_out=0.0), settings)
    theirs = GaussianMixture(3, covariance_type="diag", n_init=4, random_state=0).fit(x.numpy()).score(x.numpy())
    assert abs(-last.train - theirs) < 0.02


@pytest.mark.parametrize("seed", range(3))
def test_planted_regions_are_found(seed):
    truth, x, _ = Toy(distance=9.0).draw(seed)
    settings = MfaSettings(6, 2, ridge=1.0, passes=60, tolerance=1e-6, screen=8, candidates=4, restarts=4, seed=seed)
    *_, last = fit_em(TensorSource(x, seed=seed), settings)
    found = recovery(truth, last.mixture)
    assert found.centroid_error < 0.1
    assert found.span > 0.95


def test_a_dead_component_splits_the_heaviest():
    mixture = random_mixture(7)
    moved, count = reseed(mixture, torch.tensor([5.0, 0.0, 9.0, 3.0]))
    heavy = int(mixture.weights.argmax())
    assert count == 1
    torch.testing.assert_close(0.5 * (moved.means[1] + moved.means[heavy]), mixture.means[heavy])
    torch.testing.assert_close(moved.weights.sum(), torch.ones((), dtype=torch.float64))
    assert reseed(mixture, torch.ones(4))[1] == 0


def test_varimax_turns_without_changing_the_density():
    mixture = random_mixture(8, width=12, rank=3)
    rotation = varimax(mixture.loadings[0])
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3, dtype=torch.float64))
    turned = mixture._replace(loadings=torch.stack([w @ varimax(w) for w in mixture.loadings]))
    x = torch.randn(5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    origin = torch.zeros(12, dtype=torch.float64)
    one, other = (joint_log_density(x, table(m, readout(m), origin)) for m in (mixture, turned))
    torch.testing.assert_close(one, other)
    simple = torch.eye(12, 3, dtype=torch.float64)[torch.randperm(12, generator=torch.Generator().manual_seed(1))]
    mixed = (
        simple @ torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))).Q
    )
    again = (mixed @ varimax(mixed)).abs()
    torch.testing.assert_close(again.sum(1), again.amax(1), atol=1e-4, rtol=1e-4)
