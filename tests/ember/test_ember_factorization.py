"""Planted features come back; the scale of the embeddings changes nothing but the scale of the features."""

import pytest
import torch

from shammie.core.errors import DataError, NonFiniteError, ShammieError
from shammie.ember.factorization import factorize
from shammie.ember.features import score_features
from shammie.ember.planted import MIDDLE, POWER, detection, planted_slice
from shammie.ember.settings import FactorizationSettings, FeatureSettings
from shammie.ember.vocabulary import TokenSlice


def planted(seed):
    """40 features of 20 tokens each in 256 dimensions, noise of norm 0.3."""
    draw = torch.Generator().manual_seed(seed)
    features = torch.nn.functional.normalize(torch.randn(40, 256, generator=draw), dim=1)
    g = torch.zeros(2000, 40)
    for k in range(40):
        g[torch.randperm(2000, generator=draw)[:20], k] = torch.randn(20, generator=draw).sign() * (
            1 + torch.rand(20, generator=draw)
        )
    signal = g @ features  # most tokens are in no feature; a start from such rows must not leave features empty
    noise = 0.3 * 256**-0.5 * torch.randn(2000, 256, generator=draw) * (signal.norm(dim=1, keepdim=True) > 0)
    rows = signal + noise
    return rows, features, 1 - float((rows - signal).square().sum() / rows.square().sum())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_features_are_recovered(seed):
    rows, features, oracle = planted(seed)
    found = factorize(rows, FactorizationSettings(features=40, share=0.01), seed)
    cosines = torch.nn.functional.normalize(found.features, dim=1) @ features.T
    assert int((cosines.abs().max(0).values > 0.9).sum()) >= 37
    assert found.explained > oracle - 0.04


def test_the_kept_iteration_explains_what_it_says_and_repeats():
    rows = planted_slice(0.3, 1).rows
    found = factorize(rows, FactorizationSettings(features=20, share=0.03), 5)
    left = (rows - found.loadings @ found.features).square().sum() / rows.square().sum()
    assert found.explained == pytest.approx(1 - float(left), abs=1e-5)
    again = factorize(rows, FactorizationSettings(features=20, share=0.03), 5)
    assert torch.equal(found.features, again.features)
    assert torch.equal(found.value, again.value)


def test_a_power_of_two_on_the_embeddings_scales_the_features_alone():
    rows = planted_slice(0.3, 2).rows
    settings = FactorizationSettings(features=20, share=0.03)
    one, other = factorize(rows, settings, 0), factorize(32 * rows, settings, 0)
    assert torch.equal(one.index, other.index)
    torch.testing.assert_close(other.loadings @ other.features, 32 * (one.loadings @ one.features))


def test_what_cannot_be_factorized_is_refused():
    with pytest.raises(DataError, match="3 tokens cannot be cut into 100 features"):
        factorize(torch.randn(3, 4), FactorizationSettings())
    with pytest.raises(NonFiniteError, match="mend the model"):
        factorize(torch.full((5, 4), torch.inf), FactorizationSettings(features=2))
    with pytest.raises(ShammieError, match="share"):
        FactorizationSettings(share=0)
    with pytest.raises(ShammieError, match="criteria"):
        FeatureSettings(criteria=())


def scored(concept, **settings):
    found = planted_slice(0.2, 4, concept=concept)
    if concept:
        found.theirs[found.owners[0]] = 0
    here = TokenSlice(torch.arange(len(found.rows)), found.ours, found.theirs)
    g = torch.zeros(len(found.rows), len(found.owners)).scatter_(0, found.owners.T, 1.0)
    return score_features(g, here, FeatureSettings(**settings))


def test_the_concepts_feature_passes_and_no_other():
    assert scored(True, criteria=("keyness",)).passed.nonzero().flatten().tolist() == [0]
    assert not scored(False, criteria=("keyness",)).passed.any()


def test_the_permutation_test_finds_a_feature_of_one_side_whatever_its_scale():
    ours, theirs = torch.zeros(60), torch.zeros(60)
    ours[:30], theirs[30:] = 1, 1
    g = torch.rand(60, 4, generator=torch.Generator().manual_seed(0)) + 0.5
    g[:30, 0] *= 6
    g[:30] *= 100  # a gap of scale that lifts every plain ratio
    scores = score_features(g, TokenSlice(torch.arange(60), ours, theirs), FeatureSettings(criteria=("test",)))
    assert (scores.ratio > 50).all()
    assert scores.passed.tolist() == [True, False, False, False]


def test_a_ratio_over_two_tokens_is_no_feature():
    ours, theirs = torch.zeros(20), torch.zeros(20)
    ours[:10], theirs[10:] = 5, 5
    g = torch.zeros(20, 1)
    g[:2] = 1.0
    scores = score_features(g, TokenSlice(torch.arange(20), ours, theirs), FeatureSettings(criteria=("ratio",)))
    assert float(scores.ratio) > 1e6
    assert not scores.passed.any()


def test_the_power_test_separates_at_its_middle():
    assert POWER.middle == MIDDLE
    null = sorted(detection(None, seed) for seed in range(40))[37]
    assert sum(detection(MIDDLE, seed) > null for seed in range(20)) >= 16
