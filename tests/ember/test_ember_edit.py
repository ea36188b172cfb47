"""The edit: which rows change, by how much, under tied and scaled embeddings; and what cannot be edited."""

from dataclasses import replace

import pytest
import torch
from ember_planted import SETTINGS

import pico
from shammie.core.errors import DataError, MismatchError, NonFiniteError
from shammie.ember.edit import ConceptDirections, find_directions, random_directions
from shammie.ember.factorization import factorize
from shammie.ember.settings import EmberSettings, FactorizationSettings, FeatureSettings
from shammie.ember.vocabulary import embedding_scale, token_slice


def made_for(model, tokens=(70, 80, 90)):
    draw = torch.Generator().manual_seed(0)
    components = torch.randn(len(tokens), model.anatomy.width, generator=draw)
    ids = torch.tensor(tokens)
    provenance = {"model": model.name, "model_hash": model.hash, "concept": "test"}
    return ConceptDirections(
        ids, components, torch.ones(len(tokens)), embedding_scale(model), None, 0.0, [], provenance
    )


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text"])
def test_the_model_sees_rows_less_delta_times_the_component(family):
    model = pico.build(family)
    found = made_for(model)
    ids = torch.arange(pico.VOCABULARY)[None]
    embed, head = model.anatomy.embedding, model.anatomy.unembedding
    before, output, stored = embed(ids)[0].detach(), head.weight.detach().clone(), model.hash
    with found.patch(model, 2.0).applied(model):
        after = embed(ids)[0].detach()
        assert torch.equal(model.anatomy.unembedding.weight, output)
        assert not model.anatomy.tied
    torch.testing.assert_close(before[found.tokens] - after[found.tokens], 2.0 * found.components, atol=2e-5, rtol=1e-5)
    others = torch.ones(pico.VOCABULARY, dtype=torch.bool)
    others[found.tokens] = False
    assert torch.equal(before[others], after[others])
    assert model.hash == stored
    assert torch.equal(embed(ids)[0], before)


def test_both_sides_of_a_tie_change_on_request():
    model = pico.build("gemma3_text")
    found = made_for(model)
    with found.patch(model, 1.0, tied="both").applied(model):
        assert model.anatomy.tied
        changed = model.anatomy.unembedding.weight
    assert changed is model.anatomy.embedding.weight


def test_scale_is_what_the_embedding_multiplies_by():
    for family, wanted in (("llama", 1.0), ("gemma3_text", 32**0.5)):
        model = pico.shared(family)
        ids = torch.tensor([[7]])
        seen = model.anatomy.embedding(ids)[0, 0] / model.anatomy.embedding.weight[7]
        assert embedding_scale(model) == pytest.approx(wanted)
        torch.testing.assert_close(seen, torch.full_like(seen, wanted), rtol=1e-3, atol=0)


def test_strength_zero_changes_nothing_and_an_infinite_one_is_refused(model, directions):
    with directions.patch(model, 0.0).applied(model):
        pass
    row = model.anatomy.embedding.weight[int(directions.tokens[0])].clone()
    with directions.patch(model, 0.0).applied(model):
        assert torch.equal(model.anatomy.embedding.weight[int(directions.tokens[0])], row)
    with pytest.raises(NonFiniteError, match="choose a smaller one"):
        directions.patch(model, float("inf"))


def test_with_every_feature_at_strength_one_the_factorizations_residual_is_left(model, pack):
    settings = EmberSettings(
        factorizations=1, least_keyness=0.0, factorization=SETTINGS.factorization,
        select=FeatureSettings(criteria=("ratio",), ratio=1e-12, least_tokens=1),
    )  # fmt: skip
    found = find_directions(model, pack, settings, 0)
    vocabulary = token_slice(model, pack.concept_sentences, pack.neutral_sentences)
    rows = model.anatomy.embedding.weight.detach()[vocabulary.ids]
    cut = factorize(rows, settings.factorization, 0)
    # Features without a concept token have ratio 0 and lie outside; they load on none of the edited tokens.
    residual = rows - cut.loadings @ cut.features
    place = torch.searchsorted(vocabulary.ids, found.tokens)
    with found.patch(model, 1.0).applied(model):
        after = model.anatomy.embedding.weight[found.tokens].detach()
    torch.testing.assert_close(after, residual[place], atol=1e-5, rtol=1e-4)


def test_only_tokens_of_the_concept_alone_are_edited(model, pack, directions):
    neutral = {i for text in pack.neutral_sentences for i in model.tokenizer(text)["input_ids"]}
    assert neutral.isdisjoint(directions.tokens.tolist())
    subjects = {i for text in pack.concept_sentences for i in model.tokenizer(text.split()[1])["input_ids"]}
    assert subjects <= set(directions.tokens.tolist())


def test_the_control_has_as_many_tokens_and_the_same_sizes(model, pack, directions):
    control = random_directions(model, pack, SETTINGS, directions, 0)
    assert len(control.tokens) == len(directions.tokens)
    sizes = [d.components.norm(dim=1).sort().values for d in (control, directions)]
    torch.testing.assert_close(*sizes)


def test_directions_are_saved_and_bound_to_their_weights(model, directions, tmp_path):
    directions.save_pretrained(tmp_path / "d")
    again = ConceptDirections.from_pretrained(tmp_path / "d")
    assert again.patch(model, 3.0).hash == directions.patch(model, 3.0).hash
    with pytest.raises(MismatchError, match="was fitted on"):
        again.patch(pico.shared("llama"), 1.0)


def test_what_cannot_be_found_is_one_sentence(model, pack):
    unknown = replace(pack, concept_sentences=("zzz qqq", "xxx"))
    with pytest.raises(DataError, match="no token that planted-0 knows"):
        find_directions(model, unknown, SETTINGS)
    same = replace(pack, concept_sentences=pack.neutral_sentences[:4])
    with pytest.raises(DataError, match="occurs in the concept sentences alone"):
        find_directions(model, same, SETTINGS)
    strict = replace(SETTINGS, select=FeatureSettings(criteria=("ratio",), least_tokens=10_000))
    with pytest.raises(DataError, match="no feature of the embeddings passes"):
        find_directions(model, pack, strict)
    with pytest.raises(DataError, match="lower votes or least_keyness"):
        find_directions(model, pack, replace(SETTINGS, least_keyness=1e6))
    with pytest.raises(DataError, match="cannot be cut"):
        find_directions(model, pack, EmberSettings(factorization=FactorizationSettings(features=5000)))
