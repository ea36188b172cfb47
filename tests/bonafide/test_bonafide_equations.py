"""Owen values against the orders that their tree allows, and what is made of them."""

import itertools
import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shammie.bonafide import equations as eq


def orders(low, high):
    """Every order of groups in which the halves of each node stay together."""
    if high - low == 1:
        return [(low,)]
    middle = (low + high) // 2
    sides = list(itertools.product(orders(low, middle), orders(middle, high)))
    return [a + b for a, b in sides] + [b + a for a, b in sides]


def game(seed, tokens=3):
    worth = {}

    def value(coalition):
        if coalition not in worth:
            rng = random.Random(f"{seed} {sorted(coalition)}")
            worth[coalition] = torch.tensor([rng.gauss(0, 1) for _ in range(tokens)], dtype=torch.float64)
        return worth[coalition]

    return value, worth


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_owen_values_are_averages_over_orders(groups):
    value, _ = game(groups)
    expected = torch.zeros(groups, 3, dtype=torch.float64)
    every = orders(0, groups)
    for order in every:
        for place, group in enumerate(order):
            before = frozenset(order[:place])
            expected[group] += (value(before | {group}) - value(before)) / len(every)
    torch.testing.assert_close(eq.owen_values(value, groups), expected)


@pytest.mark.parametrize("groups", [2, 4, 8, 16])
def test_the_coalitions_are_those_that_are_used(groups):
    value, worth = game(0)
    eq.owen_values(value, groups)
    assert set(worth) == set(eq.coalitions(groups))
    assert len(eq.coalitions(16)) <= 200


@given(st.integers(0, 10**6))
def test_values_add_up_and_only_what_matters_has_any(seed):
    value, _ = game(seed)
    found = eq.owen_values(value, 8)
    torch.testing.assert_close(found.sum(0), value(frozenset(range(8))) - value(frozenset()))
    only = eq.owen_values(lambda coalition: torch.tensor([float(3 in coalition)], dtype=torch.float64), 8)
    assert only[:, 0].tolist() == [0, 0, 0, 1, 0, 0, 0, 0]


def test_contributions_and_their_cosine_by_hand():
    values = torch.tensor([[3.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    assert eq.contributions(values).tolist() == [0.375, -0.125]  # the second token is moved by nothing
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])
    assert eq.similarity(a, b) == pytest.approx(math.sqrt(0.5))
    assert eq.similarity(a, torch.zeros(2)) == 0.0
    odds = eq.log_odds(torch.tensor([math.log(0.5), math.log(0.75), 0.0], dtype=torch.float64))
    assert odds[0].item() == pytest.approx(0.0)
    assert odds[1].item() == pytest.approx(math.log(3))
    assert odds.isfinite().all()
