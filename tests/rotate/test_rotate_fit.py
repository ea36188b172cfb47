"""The artifact: what was written into a model's weights is found, named, removed, and nothing else is touched."""

import pytest
import torch
from torch.nn.functional import normalize

from pico import build
from shammie.core.errors import MismatchError, ShammieError
from shammie.rotate.ablate import ablate
from shammie.rotate.channels import Channels
from shammie.rotate.find import concept_tokens, find
from shammie.rotate.fit import fit
from shammie.rotate.neurons import read_rows, weight_slice
from shammie.rotate.settings import RotateSettings
from shammie.rotate.tokens import token_space

NEURON, LAYER = 5, 1
SETTINGS = RotateSettings(channels=3, null_draws=60)


@pytest.fixture(scope="module")
def planted():
    """A model whose neuron 5 of layer 1 promotes the cluster around the token `k`, and is otherwise noise."""
    model = build("gemma", hidden_size=64, intermediate_size=512)
    space = token_space(model, "output")
    concept = space.centroid(torch.tensor(concept_tokens(model, "k")))
    direction = normalize(concept + space.centroid(space.nearest(concept[None], 10))[0], dim=0)
    rows = weight_slice(model, LAYER, "out").view(model.module)
    noise = normalize(rows[NEURON], dim=0)
    rows[NEURON] = rows[NEURON].norm() * normalize(0.9 * direction + 0.3 * noise, dim=0)
    return model, direction


@pytest.fixture(scope="module")
def channels(planted):
    return fit(planted[0], LAYER, "out", range(24), SETTINGS)


def test_the_planted_channel_stands_out_and_noise_does_not(planted, channels):
    row = channels.row(NEURON)
    assert channels.significant[row, 0]
    assert (channels.directions[row, 0] @ planted[1]).abs() > 0.6
    others = [channels.row(neuron) for neuron in range(24) if neuron != NEURON]
    assert channels.significant[others].sum() <= 1


def test_what_is_recorded_is_what_was_found(planted, channels):
    texts = [str(token) for token in range(260)]
    record = next(r for r in channels.records(texts) if r["neuron"] == NEURON and r["channel"] == 0)
    assert record["side"] == 1
    assert record["significant"]
    assert set(record["tokens"][:10]) == set(map(str, channels.tokens[NEURON, 0, :10].tolist()))
    w = read_rows(planted[0], LAYER, "out")[NEURON]
    cosine = torch.cosine_similarity(w, channels.vectors[NEURON, 0], dim=0)
    assert record["cosine"] == pytest.approx(float(cosine), abs=1e-3)


def test_the_same_fit_twice_is_the_same(planted, channels):
    again = fit(planted[0], LAYER, "out", range(24), SETTINGS)
    assert torch.equal(again.vectors, channels.vectors)
    assert torch.equal(again.p_value, channels.p_value)


def test_an_artifact_comes_back_whole(channels, tmp_path):
    channels.save_pretrained(tmp_path / "channels")
    back = Channels.from_pretrained(tmp_path / "channels")
    for name, value in vars(channels).items():
        other = getattr(back, name)
        assert torch.equal(other, value) if isinstance(value, torch.Tensor) else other == value, name


def test_another_model_is_refused(channels):
    with pytest.raises(MismatchError, match="fitted on weights"):
        ablate(build("gemma", hidden_size=64, intermediate_size=512, seed=3), channels, NEURON)


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("part", ["gate", "in", "out"])
def test_an_ablation_removes_the_channel_and_touches_one_row(part, fold):
    model = build("gemma2", hidden_size=64, intermediate_size=96)
    fitted = fit(model, LAYER, part, [3, 7], RotateSettings(channels=2, null_draws=20, fold_norm=fold))
    before = read_rows(model, LAYER, part, fold_norm=fold).clone()
    state = {name: value.clone() for name, value in model.module.state_dict().items()}
    with ablate(model, fitted, 7, 1).applied(model):
        after = read_rows(model, LAYER, part, fold_norm=fold)
        changed = (after != before).any(-1).nonzero()[:, 0].tolist()
        assert changed == [7]
        unit = normalize(fitted.vectors[1, 1], dim=0)
        assert (after[7] @ unit).abs() < 1e-4
        torch.testing.assert_close(after[7], before[7] - (before[7] @ unit) * unit, rtol=1e-3, atol=1e-4)
    assert all(torch.equal(value, state[name]) for name, value in model.module.state_dict().items())


def test_what_was_not_fitted_is_said(planted, channels):
    with pytest.raises(ShammieError, match="neuron 99 is not among the 24 of layer 1"):
        ablate(planted[0], channels, 99)
    with pytest.raises(ShammieError, match=r"channel 3 does not exist; .* 0 to 2"):
        ablate(planted[0], channels, NEURON, 3)


def test_find_names_the_neuron_and_random_directions_none(planted):
    search = find(planted[0], "k")
    first = search.mentions[0]
    assert (first.layer, first.part, first.neuron, first.significant) == (LAYER, "out", NEURON, True)
    assert search.by_chance <= 1
    assert [m.p_value for m in search.mentions] == sorted(m.p_value for m in search.mentions)
    assert len(search.mentions) == 3 * 3 * 512


def test_find_leaves_out_the_gate_that_a_family_lacks():
    model = build("gpt2")
    assert {mention.part for mention in find(model, "k").mentions} == {"in", "out"}
    with pytest.raises(ShammieError, match="no gate; search parts in and out"):
        find(model, "k", ["gate"])


def test_a_concept_that_is_no_token_is_said(planted):
    with pytest.raises(ShammieError, match="no form of 'Paris' is a single token"):
        find(planted[0], "Paris")
