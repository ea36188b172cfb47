"""The measures: each on ground where the answer is known."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity, normalize

from pico import shared
from shammie.core.batch import encode, make_batch
from shammie.core.capture import capture
from shammie.core.power import measure_power, summarize
from shammie.core.site import mlp_in, neurons
from shammie.rotate import evaluate
from shammie.rotate.neurons import read_rows
from shammie.rotate.planted import POWER, Toy
from shammie.rotate.reading import Reading, read
from shammie.rotate.tokens import TokenSpace

TEXTS = ["a cat sat on the mat", "dogs run", "x", "the rain in spain stays mainly"]


def reading(states, current, activity=None, following=None):
    count = len(states)
    zeros = torch.zeros(count, dtype=torch.long)
    return Reading(
        torch.as_tensor(current), zeros if following is None else torch.as_tensor(following), zeros, torch.arange(count),
        states, torch.zeros(count, 1) if activity is None else activity[:, None],
    )  # fmt: skip


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_reading_holds_what_the_layer_saw():
    model = shared("qwen3")
    seen = read(model, 1, [4, 9], TEXTS, max_tokens=8)
    for at in range(len(seen.current)):
        text, position = int(seen.text[at]), int(seen.position[at])
        kept = [t for t in TEXTS if len(encode(model, t)) > 2][text]
        ids = encode(model, kept)[:8]
        assert 0 < position < len(ids) - 1
        assert (int(seen.current[at]), int(seen.following[at])) == (ids[position], ids[position + 1])
        alone = capture(model, make_batch(model, [kept]), [mlp_in(1), neurons(1)])
        torch.testing.assert_close(seen.states[at], alone[mlp_in(1)][0, position], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(seen.activity[at], alone[neurons(1)][0, position, [4, 9]], rtol=1e-3, atol=1e-4)


@given(st.integers(0, 1000))
def test_the_control_has_the_channels_norm_and_cosine(seed):
    w, channel = noise(seed, 2, 20)
    control = evaluate.matched_direction(w, channel, torch.Generator().manual_seed(seed))
    torch.testing.assert_close(control.norm(), channel.norm(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        cosine_similarity(w, control, dim=0), cosine_similarity(w, channel, dim=0), rtol=1e-3, atol=1e-4
    )


def test_selectivity_is_one_where_only_own_tokens_hold_the_direction():
    direction = normalize(noise(0, 8), dim=0)
    states = torch.cat([direction + 0.1 * noise(1, 10, 8), 0.1 * noise(2, 30, 8)])
    text = reading(states, [7] * 10 + [8] * 10 + [9] * 20)
    own, others = (evaluate.touched(text, torch.tensor(ids), following=False) for ids in ([7], [8, 7]))
    assert evaluate.input_selectivity(text, direction, 1, own, others) == 1.0
    assert evaluate.input_selectivity(text, direction, -1, own, others) == 0.0
    none = evaluate.touched(text, torch.tensor([3]), following=False)
    assert evaluate.input_selectivity(text, direction, 1, none, others) is None


def test_the_better_reading_is_chosen():
    w = torch.tensor([1.0, 0.0])
    states = torch.stack([torch.linspace(-1, 1, 20), torch.zeros(20)], 1)
    late = [5 if value > 0 else 6 for value in states[:, 0]]
    text = reading(states, [5, 6] * 10, following=late)
    assert evaluate.reads_following(text, w, torch.tensor([5]), 1)
    assert evaluate.faithfulness(text, w, torch.tensor([5]), 1, following=True) == 1.0
    assert evaluate.faithfulness(text, w, torch.tensor([5]), 1, following=False) < 0.7


def test_removing_a_promoted_token_takes_its_logit():
    model = shared("llama")
    layer, neuron = 2, 3
    probe = evaluate.OutputProbe(
        model, layer, neuron, [encode(model, "a cat"), encode(model, "dogs run")], torch.ones(2)
    )
    active = capture(model, probe.batch, [neurons(layer)])[neurons(layer)]
    probe.sign = torch.stack([active[row, int(n) - 1, neuron].sign() for row, n in enumerate(probe.batch.lengths)])
    w = read_rows(model, layer, "out")[neuron]
    unembedding = model.anatomy.unembedding_weights.view(model.module)
    order = (unembedding @ w).argsort(descending=True)
    before = probe._logits()
    score = probe.selectivity(w, w, 1, order[:10], order[-20:])
    assert score > 0.9
    assert torch.equal(probe._logits(), before)


def test_explained_norm_grows_to_one():
    w, channels = noise(0, 3, 6), noise(1, 3, 6, 6)
    shares = evaluate.explained(w, channels)
    assert (shares.diff(dim=1) > -1e-2).all()
    assert (shares[:, -1] > 0.95).all()


def test_completeness_counts_the_named_firing_positions():
    activity = torch.zeros(500)
    activity[:10] = 5.0
    text = reading(torch.zeros(500, 2), [1] * 5 + [2] * 5 + [3] * 490)
    assert evaluate.completeness(text, activity, torch.tensor([1])) == pytest.approx((0.5, 0.01))
    assert evaluate.firing(-activity).nonzero()[:, 0].tolist() == list(range(10))


@given(st.integers(0, 1000))
def test_agreement_does_not_depend_on_order_or_sign(seed):
    channels, tokens = (
        noise(seed, 4, 10),
        torch.randperm(100, generator=torch.Generator().manual_seed(seed)).view(4, 25),
    )
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed + 1))
    same = evaluate.agreement(channels, -channels[order], tokens, tokens[order])
    assert (same.cosine, same.jaccard) == (pytest.approx(1, abs=1e-5), 1.0)


@given(st.integers(0, 1000))
def test_the_pairing_is_the_best_of_all(seed):
    from itertools import permutations

    gain = noise(seed, 4, 4).double().numpy()
    best = max(sum(gain[i, p[i]] for i in range(4)) for p in permutations(range(4)))
    assert sum(gain[i, j] for i, j in evaluate.best_pairing(gain)) == pytest.approx(best)


@pytest.fixture
def spoken():
    """A neuron that fires at tokens 0 to 4, a cluster, of a toy vocabulary, on two halves of a text."""
    space, _ = Toy(tokens=300, width=32, clusters=20, size=5).draw(torch.Generator().manual_seed(0))
    halves = []
    for seed in (1, 2):
        current = torch.randint(300, (2000,), generator=torch.Generator().manual_seed(seed))
        halves.append(reading(torch.zeros(2000, 2), current, activity=(current < 5).float() + 0.01 * noise(seed, 2000)))
    return space, halves


def test_a_true_description_foretells_the_neuron_and_a_false_one_does_not(spoken):
    space, (tuning, held_out) = spoken
    right = evaluate.description_auroc(space, tuning, held_out, 0, torch.arange(5))
    part = evaluate.description_auroc(space, tuning, held_out, 0, torch.arange(2))
    wrong = evaluate.description_auroc(space, tuning, held_out, 0, torch.arange(50, 55))
    assert right > 0.75  # a sixth of the firing positions are noise
    assert part > 0.7
    assert abs(wrong - 0.5) < 0.2


def test_the_baselines_name_what_they_should(spoken):
    space, (tuning, _) = spoken
    assert set(evaluate.activating_tokens(tuning, 0, 5).tolist()) == set(range(5))
    w = space.centroid(torch.arange(5))
    assert set(evaluate.projection_tokens(space, w, 5, "gate").tolist()) == set(range(5))
    both = evaluate.projection_tokens(space, -w, 10, "out")
    assert set(range(5)) <= set(both.tolist())
    layer = torch.outer(noise(0, 50), w) + 0.01 * noise(1, 50, 32)
    directions = evaluate.principal_directions(layer)
    named = evaluate.component_tokens(space, directions, w, 5, 1)
    assert set(named.tolist()) == set(range(5))


def test_the_planted_problem_is_scored():
    scores = {level: np.mean([POWER.score(level, seed) for seed in range(8)]) for level in (None, 0.7, 0.5, 0.2)}
    assert scores[0.7] > scores[0.5] > scores[None]
    assert scores[0.2] < scores[None]


@pytest.mark.real
def test_power_at_the_middle_difficulty():
    records = [record for _, block in measure_power(POWER) for record in block]
    found = summarize(POWER, records)
    assert found.passed
    assert found.false_positive_rate.low <= 0.05


def test_a_toy_vocabulary_has_the_geometry_it_claims():
    toy = Toy(tokens=400, width=64, clusters=20, size=10, tightness=0.8, overlap=0.5)
    space, directions = toy.draw(torch.Generator().manual_seed(0))
    assert isinstance(space, TokenSpace)
    torch.testing.assert_close(
        (directions[0::2] * directions[1::2]).sum(-1), torch.full((10,), 0.5), rtol=1e-4, atol=1e-5
    )
    cosines = cosine_similarity(space.tokens[:200].view(20, 10, 64), directions[:, None], dim=-1)
    assert (cosines.mean() - 0.8).abs() < 0.05
