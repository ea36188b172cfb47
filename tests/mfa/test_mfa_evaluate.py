"""Baselines, structure, steering effects, tasks, several processes, and the tour's chapter, where the truth is known."""

import json

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import normalized_mutual_info_score
from sklearn.mixture import GaussianMixture

from pico import build
from scripts import run_script
from shammie.core.errors import DataError, NonFiniteError, ShammieError
from shammie.core.site import Site
from shammie.mfa.baselines import Principal, SparseAutoencoder, gaussians, nearest
from shammie.mfa.concepts import CONCEPTS, mentions
from shammie.mfa.em import fit_em
from shammie.mfa.evaluate import Effect, HeldOut, negative_log_likelihood, squared_error
from shammie.mfa.featurizers import dictionary
from shammie.mfa.interpretable import (
    Corpus,
    Parts,
    autoencoder_reader,
    ends_told_apart,
    interpretable_fraction,
    mixture_reader,
    principal_reader,
)
from shammie.mfa.localize import Exchange, accuracy, learn, prepare
from shammie.mfa.mixture import make_mixture
from shammie.mfa.planted import POWER, Toy, circle
from shammie.mfa.settings import LocalizeSettings, MfaSettings
from shammie.mfa.source import TensorSource, held_out_texts, sample
from shammie.mfa.steer import steer
from shammie.mfa.structure import geometry, mention_states, normalized_information
from shammie.mfa.tasks import (
    Pair,
    Question,
    choice_questions,
    city_questions,
    known,
    owner_questions,
    pairs_of,
    read_benchmark,
    read_choices,
    read_ravel,
)

SITE = Site("residual", 1)


def fitted(x, components, rank=2, **more):
    settings = MfaSettings(
        components, rank, ridge=1.0, passes=12, screen=0, candidates=min(4, components), restarts=3, **more
    )
    *_, last = fit_em(TensorSource(x), settings)
    return make_mixture(last.mixture, settings, SITE, {})


def test_principal_components_are_scikit_learns():
    _, x, _ = Toy(width=12).draw(0)
    ours, theirs = Principal.fit(x, 3), PCA(3).fit(x.numpy())
    nll = negative_log_likelihood(HeldOut(x, torch.arange(len(x))), ours.mixture())
    assert float(-nll.double().mean()) == pytest.approx(theirs.score(x.numpy()), abs=1e-2)
    rebuilt = theirs.inverse_transform(theirs.transform(x.numpy()))
    torch.testing.assert_close(ours.reconstruct(x), torch.from_numpy(rebuilt).float(), atol=1e-3, rtol=1e-3)


def test_a_mixture_beats_cells_and_one_gaussian_where_there_is_a_mixture():
    _, x, _ = Toy(components=5, spread=5.0).draw(1)
    held = HeldOut(Toy(components=5, spread=5.0).draw(1)[1][:800], torch.arange(800))
    mixture, source = fitted(x, 5), TensorSource(x)
    cells = gaussians(source, 15, "shared")
    nats = {name: float(negative_log_likelihood(held, m).mean()) for name, m in (
        ("mfa", mixture.parameters), ("cells", cells), ("diagonal", gaussians(source, 8, "component")),
        ("gaussian", Principal.fit(x, 3).mixture()),
    )}  # fmt: skip
    assert min(nats, key=nats.get) == "mfa"
    errors = [
        float(squared_error(held, f).mean()) for f in (mixture.reconstruct, lambda rows: nearest(rows, cells.means))
    ]
    assert errors[0] < errors[1] < 1


def test_gaussians_without_directions_are_scikit_learns():
    _, x, _ = Toy(components=4, spread=6.0).draw(2)
    ours = gaussians(TensorSource(x, held_out=0.0), 4, "component", passes=40)
    assert float(ours.loadings.abs().max()) == 0
    begun = {
        "weights_init": ours.weights / ours.weights.sum(),
        "means_init": ours.means,
        "precisions_init": 1 / ours.noise,
    }
    begun = {name: value.double().numpy() for name, value in begun.items()}
    theirs = GaussianMixture(4, covariance_type="diag", random_state=0, **begun).fit(
        x.numpy()
    )  # goes on where we ended
    nll = negative_log_likelihood(HeldOut(x, torch.arange(len(x))), ours)
    assert float(-nll.double().mean()) == pytest.approx(theirs.score(x.numpy()), abs=0.02)


def test_an_autoencoder_learns_sparse_directions():
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(12, 24, generator=generator), dim=1)
    code = torch.rand(4000, 12, generator=generator) * (torch.rand(4000, 12, generator=generator) < 0.15)
    source = TensorSource(code @ directions)
    module = SparseAutoencoder.fit(source, 24, 4, epochs=40, batch=256, rate=3e-3)
    x = code[:500] @ directions
    left = (module(x) - x).square().sum() / (x - x.mean(0)).square().sum()
    assert float(left) < 0.15
    values, _ = module.codes(x)
    assert values.shape == (500, 4)


def test_mutual_information_is_scikit_learns():
    draw = np.random.default_rng(0)
    a, b = draw.integers(0, 5, 300), draw.integers(0, 3, 300)
    assert normalized_information(a, b) == pytest.approx(normalized_mutual_info_score(a, b))
    assert normalized_information(a, a) == pytest.approx(1.0)


def test_a_planted_circle_is_found_and_a_line_is_no_circle():
    months = mentions(("month",))
    angle = torch.tensor([2 * np.pi * m.index / 12 for m in months])
    generator = torch.Generator().manual_seed(0)
    noise = 0.2 * torch.randn(len(months), 4, generator=generator)
    round_ = noise.clone()
    round_[:, :2] += torch.stack([angle.cos(), angle.sin()], 1)
    found = geometry(round_, months)
    assert found.r_squared > 0.8
    assert found.p_value < 0.01
    assert found.line < 0.6
    assert geometry(noise, months).p_value > 0.05


def test_local_directions_follow_a_manifold():
    x, tangent = circle(3000, 16, 0.3, torch.Generator().manual_seed(0))
    mixture = fitted(x, 12, rank=1)
    regions = mixture.regions(x)[0][:, 0]
    along = torch.nn.functional.normalize(mixture.loadings[regions, :, 0], dim=1)
    assert float((along * tangent).sum(1).abs().mean()) > 0.95


def test_steering_promotes_what_its_region_holds():
    model = build("gemma", hidden_size=32)
    effect = Effect(model, ["a b"], [("c d", " e f g")])
    mixture = fitted(torch.randn(300, 32, generator=torch.Generator().manual_seed(0)), 2)
    still = effect(steer(mixture, 0, 0.0), ["x", "y"])
    np.testing.assert_allclose(still.concept, 0, atol=1e-5)
    np.testing.assert_allclose(still.fluency, 0, atol=1e-5)
    moved = effect(steer(mixture, 0, 0.9), ["x", "y"])
    assert abs(moved.concept).max() > 0.01


def test_states_of_mentions_are_at_their_last_token():
    model = build("gemma", hidden_size=32)
    some = mentions(("weekday",))[:3]
    assert mention_states(model, SITE, some).shape == (3, 32)
    assert len({m.kind for m in mentions()}) == len(CONCEPTS)


def planted_pairs(model, count):
    """Pairs of one-letter entities: exchanging the whole state at the letter makes the model answer as for the source."""
    letters, found = "abcdefgh", []
    for number in range(count):
        base, source = letters[number % 8], letters[(number * 3 + 1) % 8]
        found.append(Pair(f"the {base}", f"the {source}", base, source, ("x", "y"), "x", "y"))
    return found


def test_the_full_vector_at_the_last_token_makes_base_answer_as_source():
    model = build("gemma", hidden_size=32)
    pairs = [Pair(p.base, p.source, "", "", p.answers, "x", "x") for p in planted_pairs(model, 12)]
    tokens = [model.tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in ("x", "y")]
    last = Site("residual", len(model.anatomy.layers) - 1)
    from shammie.core.batch import make_batch
    from shammie.core.capture import capture
    from shammie.core.position import LAST

    read = capture(model, make_batch(model, [p.source for p in pairs]), [last], positions=LAST, logits=True)
    expected = [("x", "y")[int(row.argmax())] for row in read.logits[:, tokens]]
    pairs = [Pair(p.base, p.source, "", "", p.answers, "x", want) for p, want in zip(pairs, expected, strict=True)]
    data = prepare(model, last, pairs)
    found, _ = accuracy(model, last, data, Exchange("full", 32, LocalizeSettings()))
    assert found.value == 1.0


def test_learning_lowers_the_loss_of_every_featurizer():
    model = build("gemma", hidden_size=32)
    data = prepare(model, SITE, planted_pairs(model, 16))
    x = torch.randn(300, 32, generator=torch.Generator().manual_seed(0))
    mixture, settings = fitted(x, 3), LocalizeSettings(epochs=30, batch=16, das_features=4)
    for kind in ("das", "neurons", "mfa", "pca", "sae"):
        exchange = Exchange(kind, 32, settings, dictionary(kind, mixture, TensorSource(x)))
        losses = learn(model, SITE, data, exchange, settings)
        assert losses[-1] < losses[0] - 1e-4, kind


def test_a_dictionary_rebuilds_what_its_featurizer_rebuilds():
    x = torch.randn(400, 12, generator=torch.Generator().manual_seed(0))
    mixture, source = fitted(x, 3), TensorSource(x)
    module = SparseAutoencoder.fit(source, 12, 3, epochs=2)
    rebuilt = {"mfa": mixture.reconstruct(x), "neurons": x, "pca": x, "sae": module(x) - module.centre * module.scale}
    for kind, expected in rebuilt.items():
        found = dictionary(kind, mixture, source, module)
        torch.testing.assert_close(found.features(x) @ found.directions, expected, atol=1e-4, rtol=1e-4)


def test_pairs_exchange_or_keep(tmp_path):
    questions = city_questions("continent")
    pairs = pairs_of(questions[:40], city_questions("language")[:40], 20, 0)
    assert sum(pair.expected != pair.base_answer for pair in pairs) == 10
    assert all(pair.expected in pair.answers for pair in pairs)
    owners = pairs_of(owner_questions(20, 0), [], 8, 0)
    assert all(p.base_answer != p.expected and {p.base_answer, p.expected} <= set(p.answers) for p in owners)
    assert all(p.answers[("Anna", "Ben", "Carl", "Dora").index(p.source.split()[-3])] == p.expected for p in owners)
    with pytest.raises(DataError, match="fewer than two values"):
        pairs_of(questions[:1], [], 4, 0)
    row = {
        "prompt": "Paris is in", "entity": "Paris", "attribute": "Country", "Country": "France", "Continent": "Europe",
        "attribute_counterfactual": {"prompt": "Rome is in", "entity": "Rome", "Country": "Italy", "Continent": "Europe"},
    }  # fmt: skip
    (tmp_path / "ravel.jsonl").write_text(json.dumps(row))
    (pair,) = read_ravel(tmp_path / "ravel.jsonl", "Country")
    assert (pair.base_answer, pair.expected) == (" France", " Italy")
    assert read_ravel(tmp_path / "ravel.jsonl", "Continent")[0].expected == " France"
    bare = {"prompt": "Oslo is in", "entity": "Oslo", "attribute": "Country"}
    row = {**bare, "label": " Norway", "attribute_counterfactual": {**bare, "prompt": "Lima is in", "entity": "Lima"}}
    (tmp_path / "bare.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match="line 1: the row lacks 'Country'"):
        read_ravel(tmp_path / "bare.jsonl", "Country")
    table = {"Oslo": {"Country": "Norway"}, "Lima": {"Country": "Peru"}}
    (tmp_path / "ravel_city_entity.json").write_text(json.dumps(table))
    (pair,) = read_benchmark(f"ravel:{tmp_path / 'bare.jsonl'}:Country")
    assert (pair.base_part, pair.source_part, pair.answers) == ("Oslo", "Lima", (" Norway", " Peru"))
    assert (pair.base_answer, pair.expected) == (" Norway", " Peru")
    choice = {"prompt": "q", "choices": {"label": ["A", "B"]}, "answerKey": 0}
    (tmp_path / "mcqa.jsonl").write_text(
        json.dumps({**choice, "answerPosition_counterfactual": {**choice, "answerKey": 1}})
    )
    assert read_choices(tmp_path / "mcqa.jsonl")[0].expected == " B"
    assert read_benchmark(f"mcqa:{tmp_path / 'mcqa.jsonl'}") == read_choices(tmp_path / "mcqa.jsonl")
    with pytest.raises(ShammieError, match="ravel:FILE:ATTRIBUTE"):
        read_benchmark("ravel:rows.jsonl")
    (tmp_path / "bad.jsonl").write_text(json.dumps(choice))
    with pytest.raises(DataError, match="line 1"):
        read_choices(tmp_path / "bad.jsonl")


def test_known_questions_are_those_answered_rightly():
    model = build("gemma", hidden_size=32)
    asked = [Question(f"the {letter}", letter, ("x", "y"), answer, "v") for letter in "abcdefgh" for answer in "xy"]
    firsts = [model.tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in "xy"]
    right = []
    for question in asked:
        ids = torch.tensor([model.tokenizer(question.prompt)["input_ids"]])
        said = "xy"[int(model.module(ids).logits[0, -1, firsts].argmax())]
        right += [question] if said == question.answer else []
    assert known(model, asked) == right
    assert len(right) == 8
    with pytest.raises(ShammieError, match="same token"):
        known(model, choice_questions(2, 0))  # its tokens are letters and " A" begins with a blank


def test_bad_activations_are_refused():
    with pytest.raises(NonFiniteError, match="token 3"):
        TensorSource(torch.full((5, 2), 1.0).index_fill(0, torch.tensor([3]), float("inf")))
    with pytest.raises(DataError, match="constant"):
        sample(TensorSource(torch.ones(50, 3)), 20)


def test_held_out_texts_are_whole_and_the_same_for_a_seed():
    text = torch.arange(40) // 4
    source = TensorSource(torch.arange(40.0)[:, None].expand(40, 2), 0.3, 5, text)
    (held,), (train,) = source.blocks("held_out", 0), source.blocks("train", 1)
    assert len(held) + len(train) == 40
    assert set((held[:, 0].long() // 4).tolist()).isdisjoint((train[:, 0].long() // 4).tolist())
    assert held_out_texts(10, 0.3, 5).sum() == 3


WORKER = """
import sys, torch
from shammie.mfa.em import fit_em
from shammie.mfa.planted import Toy
from shammie.mfa.processes import Processes
from shammie.mfa.settings import MfaSettings
from shammie.mfa.source import TensorSource

class Blocks(TensorSource):
    def blocks(self, part, number):
        for block in super().blocks(part, number):
            yield from block.split(300)

processes = Processes.launched()
_, x, _ = Toy().draw(0)
*_, last = fit_em(Blocks(x), MfaSettings(6, 2, passes=4, screen=0, candidates=6, tolerance=0.0), processes)
if processes.rank == 0:
    torch.set_printoptions(precision=8)
    print(last.held_out, float(last.mixture.means.double().square().sum()), float(last.mixture.noise.double().sum()))
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""


def test_two_processes_find_what_one_finds(tmp_path):
    (tmp_path / "work.py").write_text(WORKER)
    alone, both = (
        run_script(tmp_path, tmp_path / "work.py", processes=processes, ACCELERATE_USE_CPU="1") for processes in (1, 2)
    )
    one, two = ([float(v) for v in said.split()] for said in (alone, both))
    np.testing.assert_allclose(two, one, rtol=1e-4)


def test_the_chapter_measures_and_draws_on_any_model():
    from shammie.cli.tour.context import TourContext
    from shammie.mfa.tour import CHAPTER

    records = list(CHAPTER.measure(TourContext(build("gemma", hidden_size=32), limit=40)))
    assert {record["kind"] for record in records} == {"region", "kinds", "home", "steered", "gain"}
    assert CHAPTER.draw(json.loads(json.dumps(records)))


def test_two_regions_are_told_from_one():
    planted = [POWER.score(POWER.middle, seed) for seed in range(3)]
    nothing = [POWER.score(None, seed) for seed in range(3)]
    assert np.mean(planted) > max(nothing)


def test_the_interpretable_fraction_is_the_mass_that_words_tell():
    model = build("gemma", hidden_size=32)
    draw = torch.Generator().manual_seed(0)
    count = 4000
    token = torch.randint(4, (count,), generator=draw)
    hidden = torch.randint(2, (count,), generator=draw)  # nothing in the words tells it
    x = torch.stack([token.float(), hidden.float()], 1)

    def read(rows):
        feature = torch.stack([rows[:, 0].long(), 4 + rows[:, 1].long()], 1)
        mass = torch.tensor([3.0, 1.0]).expand(len(rows), 2)
        return Parts(feature, mass, mass)

    corpus = Corpus(x, np.arange(count) // 20, token)
    found = interpretable_fraction(read, HeldOut(x[:200], torch.arange(200)), corpus, model)
    assert found.features == 6
    assert found.fraction.value == pytest.approx(0.75)
    assert found.null < 0.05
    anywhere = interpretable_fraction(read, HeldOut(x[:200], torch.arange(200)), corpus, model, strongest=False)
    assert anywhere.fraction.value == pytest.approx(0.75)


def test_a_feature_that_means_something_at_its_peak_alone_is_not_interpretable_throughout():
    model = build("gemma", hidden_size=32)
    draw = torch.Generator().manual_seed(0)
    token = torch.randint(8, (8000,), generator=draw)
    weak = torch.rand(8000, generator=draw) < 0.5  # on at half of all tokens, whatever they are; strong at token 3

    def read(rows):
        mass = torch.where(rows[:, :1] == 3, 5.0, rows[:, 1:])
        return Parts(torch.zeros(len(rows), 1, dtype=torch.long), mass, mass)

    x = torch.stack([token.float(), weak.float()], 1)
    corpus, held = Corpus(x, np.arange(8000) // 20, token), HeldOut(x[:200], torch.arange(200))
    assert interpretable_fraction(read, held, corpus, model).share == 1
    assert interpretable_fraction(read, held, corpus, model, strongest=False).share == 0


def test_ends_are_told_apart_where_words_differ_and_nowhere_else():
    model = build("gemma", hidden_size=32)
    draw = torch.Generator().manual_seed(0)
    token = torch.randint(6, (8000,), generator=draw)
    x = torch.stack([token - 2.5, torch.randn(8000, generator=draw)], 1)  # one direction follows the token, one nothing

    def read(rows):
        return Parts(2 * torch.arange(2) + (rows < 0), rows.abs(), rows.abs())

    corpus, held = Corpus(x, np.arange(8000) // 20, token), HeldOut(x[:200], torch.arange(200))
    share, null = ends_told_apart(read, held, corpus, model, 0)
    assert (share.value, share.n) == (0.5, 2)
    assert null < 0.05


def test_readers_account_for_the_reconstruction():
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    mixture = fitted(x, 3)
    parts = mixture_reader(mixture)(x)
    assert parts.feature.shape == (300, 3)
    assert int(parts.feature.max()) < 3 + 2 * 3 * 2
    principal = Principal.fit(x, 3)
    length = principal_reader(principal)(x).mass.square().sum(1).sqrt()
    torch.testing.assert_close(length, (principal.reconstruct(x) - principal.centre).norm(dim=1))
    module = SparseAutoencoder.fit(TensorSource(x), 8, 2, epochs=1)
    assert autoencoder_reader(module)(x).feature.shape == (300, 2)
