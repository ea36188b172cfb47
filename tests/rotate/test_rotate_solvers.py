"""The solvers: the fast one against the paper's on the same neurons, and what both must keep."""

import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize

from shammie.rotate import fast, paper
from shammie.rotate.equations import Objective, moments
from shammie.rotate.fast import FastSettings, Spectrum
from shammie.rotate.neurons import Population
from shammie.rotate.paper import PaperSettings
from shammie.rotate.planted import Toy, plant
from shammie.rotate.pursue import Pursuit
from shammie.rotate.settings import RotateSettings

NEURONS = 16
PAPER = PaperSettings(learning_rate=1e-2, max_steps=1500)


@pytest.fixture(scope="module")
def problem():
    """Sixteen neurons of two concepts each in a vocabulary of clusters."""
    generator = torch.Generator().manual_seed(0)
    space, directions = Toy(tokens=2000, width=32, clusters=40).draw(generator)
    noise = normalize(torch.randn(NEURONS, 32, generator=generator), dim=-1)
    picked = torch.stack([torch.randperm(40, generator=generator)[:2] for _ in range(NEURONS)])
    return space, 3.0 * plant(noise, directions[picked], 0.6)


def start(seed, w):
    return torch.randn(w.shape, generator=torch.Generator().manual_seed(seed))


def by_paper(problem, seed, settings=PAPER):
    space, w = problem
    return paper.solve(w, space.tokens, space.weights.expand(len(w), -1), Objective(), start(seed, w), settings)


def by_fast(problem, seed, settings=FastSettings(), rows=slice(None)):  # noqa: B008 - frozen
    space, w = problem
    weights = space.weights.expand(len(w), -1).clone()[rows]
    return fast.solve(w[rows], space.tokens, weights, Objective(), start(seed, w)[rows], space.spectrum, settings)


@pytest.fixture(scope="module")
def solved(problem):
    return by_paper(problem, 0), by_paper(problem, 1), by_fast(problem, 0)


def jaccard(space, a, b):
    left, right = ((c @ space.tokens.T).topk(20).indices.tolist() for c in (a, b))
    shares = [len(set(x) & set(y)) / len(set(x) | set(y)) for x, y in zip(left, right, strict=True)]
    return sum(shares) / len(shares)


def test_fast_reaches_the_papers_objective(solved):
    first, second, ours = solved
    assert ours.value.mean() >= max(first.value.mean(), second.value.mean()) - 1e-4


def test_fast_is_no_further_from_paper_than_two_seeds_of_it_are(problem, solved):
    first, second, ours = solved
    between = cosine_similarity(first.channels, second.channels).mean()
    assert cosine_similarity(first.channels, ours.channels).mean() >= between - 0.02
    space = problem[0]
    assert jaccard(space, first.channels, ours.channels) >= jaccard(space, first.channels, second.channels) - 0.05


def test_the_value_is_the_objective_of_the_channel(problem, solved):
    space, w = problem
    for solution in solved:
        kurtosis = moments(solution.channels @ space.tokens.T).kurtosis
        value = Objective()(kurtosis, cosine_similarity(w, solution.channels))
        torch.testing.assert_close(solution.value, value, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(solution.channels.norm(dim=-1), w.norm(dim=-1))


def test_fast_ends_where_the_gradient_vanishes(problem, solved):
    space, w = problem
    s = normalize(solved[2].channels, dim=-1).double().requires_grad_()
    kurtosis = moments(s @ space.tokens.double().T).kurtosis
    Objective()(kurtosis, cosine_similarity(w.double(), s)).sum().backward()
    along = (s.grad * s).sum(-1, keepdim=True)
    assert (s.grad - along * s).norm(dim=-1).detach().median() < 0.02


def test_rows_are_solved_alike_alone_and_together(problem, solved):
    alone = by_fast(problem, 0, rows=slice(3, 5))
    torch.testing.assert_close(alone.value, solved[2].value[3:5], rtol=1e-3, atol=1e-3)


def test_the_size_of_blocks_changes_nothing(problem, solved, monkeypatch):
    monkeypatch.setattr(fast, "BLOCK_BYTES", (2**30, 2**30))
    torch.testing.assert_close(by_fast(problem, 0).value, solved[2].value, rtol=1e-3, atol=1e-3)


def test_closed_tokens_count_for_nothing(problem):
    space, w = problem
    weights = space.weights.expand(len(w), -1).clone()
    weights[:, :400] = 0.0
    found = fast.solve(w, space.tokens, weights, Objective(), start(0, w), space.spectrum)
    other = space.tokens.clone()
    other[:400] = torch.randn(400, 32, generator=torch.Generator().manual_seed(5))
    again = fast.solve(w, other, weights, Objective(), start(0, w), Spectrum.of(other, weights[0]))
    torch.testing.assert_close(found.value, again.value, rtol=2e-2, atol=2e-2)


def test_the_spectrum_is_that_of_the_weighted_covariance(problem):
    space, _ = problem
    weights = torch.rand(2000, generator=torch.Generator().manual_seed(1))
    spectrum = Spectrum.of(space.tokens, weights)
    rebuilt = (spectrum.vectors * spectrum.values) @ spectrum.vectors.T
    torch.testing.assert_close(
        rebuilt, torch.cov((space.tokens * weights[:, None]).T, correction=0), rtol=1e-4, atol=1e-6
    )


def test_the_papers_stop_rule_ends_a_batch(problem):
    quick = PaperSettings(learning_rate=1e-2, max_steps=1500, settled=1e9, settled_from=150)
    assert by_paper(problem, 0, quick).steps.tolist() == [150] * NEURONS


def test_paper_keeps_the_candidate_of_largest_kurtosis_it_scored(problem):
    space, _ = problem
    short, long = (by_paper(problem, 0, PaperSettings(learning_rate=1e-2, max_steps=n)) for n in (101, 601))
    kurtosis = [moments(s.channels @ space.tokens.T).kurtosis.abs() for s in (short, long)]
    assert (kurtosis[1] >= kurtosis[0] - 1e-4).all()


@pytest.mark.parametrize("solver", ["anchored", "fast"])
def test_the_same_seed_gives_the_same_bytes(problem, solver):
    space, w = problem
    settings = RotateSettings(solver=solver, channels=2)
    first, second = (Pursuit(space, Population.of(w), settings)(w, torch.Generator().manual_seed(3)) for _ in range(2))
    for name, values in vars(first).items():
        assert torch.equal(values, vars(second)[name]), name


def test_restarts_never_end_lower(problem):
    space, w = problem
    single, several = (
        Pursuit(space, Population.of(w), RotateSettings(solver="fast", channels=1, restarts=n))(
            w, torch.Generator().manual_seed(3)
        )
        for n in (1, 4)
    )
    assert (several.objective >= single.objective - 1e-3).all()
    assert several.objective.mean() >= single.objective.mean()


@pytest.mark.parametrize("solver", ["anchored", "fast", "paper"])
def test_later_channels_find_the_other_concept(problem, solver):
    generator = torch.Generator().manual_seed(4)
    space, directions = Toy(tokens=2000, width=64, clusters=40).draw(generator)
    noise = normalize(torch.randn(6, 64, generator=generator), dim=-1)
    truth = directions[torch.arange(12).view(6, 2)]
    w = plant(noise, truth, 0.65)
    settings = RotateSettings(solver=solver, channels=3, learning_rate=1e-2, max_steps=800)
    found = Pursuit(space, Population.isotropic(64), settings)(w, generator)
    match = torch.einsum("bcd,bpd->bcp", found.directions, truth).abs() > 0.7
    assert match.any(1).float().mean() >= (0.9 if solver == "anchored" else 0.7)
    assert (found.closed[:, 0] > 0).all()
