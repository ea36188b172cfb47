"""Significance: noise is not called a finding, on either null, and what is planted is."""

import numpy as np
import pytest
import scipy.stats
import torch
from torch.nn.functional import normalize

from shammie.rotate.evidence import Null, evidence, held_out_null, residual, significance, surprise
from shammie.rotate.neurons import Population
from shammie.rotate.planted import Toy, coloured, nulls_for, plant, recovery
from shammie.rotate.pursue import Pursuit
from shammie.rotate.settings import RotateSettings

SETTINGS = RotateSettings(channels=2, null_draws=200)
TOY = Toy(tokens=1500, width=64, clusters=60)


@pytest.fixture(scope="module", params=["gaussian", "coloured"])
def place(request):
    generator = torch.Generator().manual_seed(0)
    space, directions = TOY.draw(generator)
    population = Population.isotropic(64) if request.param == "gaussian" else coloured(64, generator)
    return space, directions, population, nulls_for(space, population, SETTINGS)


def test_noise_passes_five_percent_of_the_time_and_yields_no_discovery(place):
    space, _, population, nulls = place
    generator = torch.Generator().manual_seed(9)
    found = Pursuit(space, population, SETTINGS)(population.draw(400, generator), generator)
    p_values, significant = significance(nulls, found.evidence)
    assert (p_values <= 0.05).mean() <= 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5
    assert significant.sum() == 0


def test_noise_that_was_held_out_is_no_finding(place):
    shares = held_out_null([null.evidence for null in place[3]])
    assert shares["p_at_most_0.05"]["low"] <= 0.05
    assert shares["significant"]["value"] <= 0.01


@pytest.mark.parametrize("planted", [1, 2])
def test_planted_directions_are_found(place, planted):
    space, directions, population, nulls = place
    generator = torch.Generator().manual_seed(2)
    picked = torch.stack([torch.randperm(60, generator=generator)[:planted] for _ in range(40)])
    truth = directions[picked]
    w = plant(population.draw(40, generator), truth, 0.69)
    found = recovery(space, population, w, truth, nulls, SETTINGS)
    assert found.found >= 0.9 * found.planted
    assert found.false <= 0.1 * max(1, found.significant)


def test_p_values_fall_with_evidence_and_stay_probabilities():
    null = Null(torch.randn(200, 1, generator=torch.Generator().manual_seed(0)).abs() + 2)
    p_values = null.p_values(torch.linspace(-1, 30, 100)[:, None])[:, 0]
    assert (np.diff(p_values) <= 0).all()
    assert 0 < p_values.min() < 1e-12
    assert p_values.max() == 1


def test_within_the_null_the_p_value_is_the_rank():
    null = Null(torch.arange(1.0, 100.0)[:, None] / 30)
    assert null.p_values(torch.tensor([[1.0]]))[0, 0] == pytest.approx((99 - 30 + 1 + 1) / 100)


def test_the_larger_p_value_of_the_nulls_counts():
    low, high = (Null(torch.randn(100, 1, generator=torch.Generator().manual_seed(0)) + shift) for shift in (0, 2))
    found = torch.tensor([[3.0]])
    both, _ = significance([low, high], found)
    assert both == high.p_values(found)
    assert both > low.p_values(found)


def test_surprise_is_scipys_survival():
    z = torch.tensor([-3.0, 0.0, 4.0, 40.0])
    np.testing.assert_allclose(surprise(z), -scipy.stats.norm.logsf(z.numpy()), rtol=1e-6)


def test_evidence_of_noise_along_a_fixed_direction_is_standard_normal():
    population = coloured(16, torch.Generator().manual_seed(1))
    rows = population.draw(20_000, torch.Generator().manual_seed(2))
    direction = normalize(torch.randn(16, generator=torch.Generator().manual_seed(3)), dim=0)
    own = Population.of(rows)
    z = evidence(own, rows - own.mean, direction.expand_as(rows))
    assert z.mean().abs() < 1e-3
    assert z.std() == pytest.approx(1, abs=1e-3)


def test_a_residual_has_nothing_left_along_what_was_found():
    generator = torch.Generator().manual_seed(0)
    w, directions = (
        torch.randn(3, 12, generator=generator),
        normalize(torch.randn(3, 2, 12, generator=generator), dim=-1),
    )
    left = residual(Population.isotropic(12), w, directions)
    assert (directions @ left[:, :, None]).abs().max() < 1e-3


def test_draws_have_the_populations_mean_and_covariance():
    population = coloured(8, torch.Generator().manual_seed(0))
    values, vectors = torch.linalg.eigh(population.covariance)
    drawn = population.draw(50_000, torch.Generator().manual_seed(1))
    assert (drawn.norm(dim=-1) - 1).abs().max() < 1e-5
    spread = (drawn @ vectors).var(0)
    assert torch.corrcoef(torch.stack([spread, values]))[0, 1] > 0.98
    torch.testing.assert_close(population.spread(vectors.T), values.sqrt(), rtol=1e-4, atol=1e-5)
