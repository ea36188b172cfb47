"""The algebra: against scipy, autograd and brute force, in float64."""

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity

from shammie.rotate.equations import (
    Circle,
    Objective,
    circle_sums,
    kurtosis_slope,
    moments,
    reconstruct,
    reflect,
    remove,
    symmetric_log,
    tail,
)

seeds = st.integers(0, 10_000)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seeds)
def test_a_reflection_keeps_the_norm_and_its_cosine_is_that_of_the_formula(seed):
    w, u = normal(seed, 2, 4, 9)
    c = reflect(w, u)
    torch.testing.assert_close(c.norm(dim=-1), w.norm(dim=-1))
    torch.testing.assert_close(reflect(c, u), w)
    torch.testing.assert_close(cosine_similarity(w, c), 1 - 2 * cosine_similarity(w, u).square())


@given(seeds)
def test_a_reflection_reaches_every_vector_of_the_norm(seed):
    w, aim = normal(seed, 2, 3, 6)
    aim = aim * (w.norm(dim=-1) / aim.norm(dim=-1))[:, None]
    torch.testing.assert_close(reflect(w, w - aim), aim)


@given(seeds)
def test_moments_are_scipys(seed):
    z = normal(seed, 3, 400).pow(3) + 2
    stats = moments(z)
    np.testing.assert_allclose(stats.kurtosis, scipy.stats.kurtosis(z.numpy(), axis=-1))
    np.testing.assert_allclose(stats.skewness, scipy.stats.skew(z.numpy(), axis=-1))


def test_a_gaussian_has_no_excess_kurtosis():
    assert moments(normal(0, 1, 200_000)).kurtosis.abs() < 0.1


@given(seeds)
def test_the_closed_form_slope_is_autograds(seed):
    z = (normal(seed, 2, 50).pow(3) + 1).requires_grad_()
    moments(z).kurtosis.sum().backward()
    stats = moments(z.detach())
    centred = z.detach() - stats.mean[:, None]
    slope = kurtosis_slope(centred, stats.m2, stats.m4) - stats.m3[:, None]
    torch.testing.assert_close(slope * (4 / (50 * stats.m2.square()))[:, None], z.grad)


@given(seeds)
def test_the_circle_gives_the_kurtosis_of_every_angle(seed):
    a, b = normal(seed, 2, 3, 80).pow(3)
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    halves = [circle_sums(a[:, part], b[:, part]) for part in (slice(0, 30), slice(30, None))]
    plane = Circle(*(sum(parts) / 80 for parts in zip(*halves, strict=True)))
    angles = normal(seed + 1, 3, 5)
    direct = [moments(a * t.cos()[:, None] + b * t.sin()[:, None]) for t in angles.T]
    torch.testing.assert_close(plane.kurtosis(angles), torch.stack([m.kurtosis for m in direct], 1))
    m2, m4 = plane.moments(angles[:, :1])
    torch.testing.assert_close((m2, m4), (direct[0].m2, direct[0].m4))


@given(st.floats(-1e6, 1e6))
def test_the_symmetric_logarithm_is_odd_and_grows(x):
    value = torch.tensor([x, -x, x + 1])
    low, mirrored, high = symmetric_log(value.double())
    assert low == -mirrored
    assert high > low


def test_the_objective_rewards_kurtosis_and_faithfulness():
    objective = Objective(kurtosis_weight=0.5, faithfulness_weight=2.0)
    assert objective(torch.tensor(0.0), torch.tensor(1.0)) == 0
    torch.testing.assert_close(objective(torch.tensor(np.e - 1), torch.tensor(0.75)), torch.tensor(0.0))


@pytest.mark.parametrize(("sign", "expected"), [(1, [0]), (-1, [1]), (0, [0, 1])])
def test_the_tail_follows_a_long_skew(sign, expected):
    z = normal(3, 1, 4000).clamp(-3, 3)
    z[0, 0], z[0, 1] = (60, -14) if sign > 0 else (14, -60) if sign < 0 else (12, -12)
    assert tail(z, 4.0).nonzero()[:, 1].tolist() == expected


@given(seeds)
def test_what_is_removed_is_gone_and_the_rest_stays(seed):
    w, direction, other = normal(seed, 3, 7)
    left = remove(w, direction)
    assert (left @ direction).abs() < 1e-10
    other = remove(other, direction)
    torch.testing.assert_close(left @ other, w @ other)


@given(seeds)
def test_reconstruction_improves_with_channels_and_duplicates_do_no_harm(seed):
    w, channels = normal(seed, 2, 8), normal(seed + 1, 2, 4, 8)
    errors = [(w - reconstruct(w, channels[:, :count], ridge=1e-9)).norm(dim=-1) for count in range(1, 5)]
    for more, fewer in zip(errors[1:], errors, strict=False):
        assert (more <= fewer + 1e-9).all()
    doubled = torch.cat([channels, channels], 1)
    torch.testing.assert_close(reconstruct(w, doubled), reconstruct(w, channels), rtol=0.02, atol=0.02)
    whole = normal(seed + 2, 2, 8, 8)
    torch.testing.assert_close(reconstruct(w, whole, ridge=1e-12), w, rtol=1e-5, atol=1e-5)
