"""The room's equations against their definitions and limits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shammie.core.stats import pass_at_k
from shammie.recall import equations as eq

CURVES = st.lists(st.floats(0.01, 1), min_size=1, max_size=12)


@given(CURVES, st.floats(0.1, 3))
def test_omega_of_a_constant_ratio_is_that_ratio_less_one(plain: list[float], ratio: float) -> None:
    off = torch.tensor(plain, dtype=torch.float64)
    assert float(eq.omega(ratio * off, off)) == pytest.approx(ratio - 1)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=12))
def test_omega_against_its_sum(pairs: list[tuple[float, float]]) -> None:
    on, off = (torch.tensor(side, dtype=torch.float64) for side in zip(*pairs, strict=True))
    kept = [(k, a, b) for k, (a, b) in enumerate(pairs, 1) if b > 0]
    if not kept:
        assert eq.omega(on, off).isnan()
        return
    expected = sum(k * (a - b) / b for k, a, b in kept) / sum(k for k, _, _ in kept)
    assert float(eq.omega(on, off)) == pytest.approx(expected)


def test_omega_takes_batches() -> None:
    on, off = torch.rand(5, 8, dtype=torch.float64), torch.rand(5, 8, dtype=torch.float64) + 0.1
    assert torch.allclose(eq.omega(on, off), torch.stack([eq.omega(a, b) for a, b in zip(on, off, strict=True)]))


@given(st.integers(2, 30), st.integers(0, 10_000))
@settings(max_examples=25)
def test_lines_against_numpy(count: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    x, y = draw.random(count), draw.random(count)
    weight = draw.integers(0, 4, count).astype(float) + 0.5
    slope = eq.slope_through_origin(torch.tensor(x), torch.tensor(y), torch.tensor(weight))
    root = np.sqrt(weight)
    assert float(slope) == pytest.approx(np.linalg.lstsq((root * x)[:, None], root * y, rcond=None)[0][0])
    assert eq.line(torch.tensor(x), torch.tensor(y)) == pytest.approx(tuple(np.polyfit(x, y, 1)), abs=1e-8)


@given(st.integers(1, 12), st.integers(1, 6))
def test_guessing_is_the_limit_of_pass_at_k(k: int, right: int) -> None:
    share = right / 10
    many = 100_000
    limit = pass_at_k(many, int(share * many), k)
    assert float(eq.guessing(torch.tensor([share]), k)[0]) == pytest.approx(float(limit), abs=2e-3)


def test_selection_falls_back_where_nothing_is_eligible() -> None:
    correct = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]])
    eligible = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert eq.selected(correct, eligible).tolist() == [0.5, 0.25]
    assert torch.equal(eq.selected(correct, torch.ones_like(correct)), correct.mean(1))
