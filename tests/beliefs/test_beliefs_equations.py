"""The room's equations against their definitions and brute force."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score

from shammie.beliefs import equations as eq
from shammie.beliefs.probe import fit_logistic


@given(st.lists(st.integers(0, 30), min_size=3, max_size=9))
@settings(max_examples=60)
def test_buckets_are_the_best_cut_of_the_order(values: list[int]) -> None:
    scores = torch.tensor(values, dtype=torch.float64)
    found = eq.buckets(scores)

    def within(labels) -> float:
        return sum(float((scores[labels == c] - scores[labels == c].mean()).square().sum()) for c in labels.unique())

    distinct = sorted(set(values))
    least = float("inf")
    for cuts in itertools.combinations(range(1, len(distinct)), min(3, len(distinct)) - 1):
        edges = [0, *cuts, len(distinct)]
        label = {v: n for n, (a, b) in enumerate(itertools.pairwise(edges)) for v in distinct[a:b]}
        least = min(least, within(torch.tensor([label[v] for v in values])))
    assert within(found) == pytest.approx(least, abs=1e-9)
    order = scores.argsort()
    assert bool((found[order].diff() >= 0).all())
    assert int(found.max()) + 1 == min(3, len(distinct))


@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 1000))
def test_dominance_is_the_mean_share_of_layers(positions: int, layers: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    one, other = (torch.rand(positions, layers, generator=draw) < 0.3 for _ in range(2))
    counted = eq.eligible(one, other, 1)
    shares = [float(row.double().mean()) for row, keep in zip(one, counted, strict=True) if keep]
    found = eq.dominance(one, counted)
    assert found == (pytest.approx(np.mean(shares)) if shares else None)
    assert bool(eq.eligible(one, other, 0).all())
    assert int(eq.eligible(one, other, layers + 1).sum()) == 0


def test_belief_vectors_and_lengths() -> None:
    states = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    assert eq.belief_vector(states, 0).tolist() == [1.0, -2.0]
    assert float(eq.of_length(states[2], 0.5).norm()) == pytest.approx(0.5)
    assert eq.of_length(torch.zeros(3), 2.0).tolist() == [0.0, 0.0, 0.0]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_balanced_accuracy_against_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    truth, said = (torch.tensor(side) for side in zip(*pairs, strict=True))
    peer = recall_score(truth, said, labels=truth.unique(), average="macro", zero_division=0)
    assert eq.balanced_accuracy(truth, said) == pytest.approx(peer)


def test_the_probe_against_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(90, 4))
    y = (x @ draw.normal(size=(4, 3)) + draw.normal(size=(90, 3))).argmax(1)
    peer = LogisticRegression(C=0.5, class_weight="balanced", max_iter=2000, tol=1e-8).fit(x, y)
    weights = fit_logistic(torch.tensor(x), torch.tensor(y), 3)
    ours = (torch.cat([torch.tensor(x), torch.ones(90, 1)], 1) @ weights.T).softmax(-1).numpy()
    assert np.abs(ours - peer.predict_proba(x)).max() < 2e-3
