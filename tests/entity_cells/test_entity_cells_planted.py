"""The whole pipeline where the truth is known: wired entities are found, spread ones and shuffled labels are not."""

import pytest
import torch

from shammie.core.model import load
from shammie.core.stats import proportion
from shammie.entity_cells import planted
from shammie.entity_cells.edit import ablation_patch
from shammie.entity_cells.evaluate import (
    Readings,
    ablation_summary,
    best_scale,
    depth_summary,
    forms_summary,
    injection_summary,
    localization_summary,
    popularity_summary,
    trust,
    trust_summary,
)
from shammie.entity_cells.intervene import Bench, surface_forms
from shammie.entity_cells.localize import Localizer
from shammie.entity_cells.planted import CELL_LAYER
from shammie.entity_cells.settings import CausalSettings, LocalizeSettings, TrustSettings


@pytest.fixture(scope="module")
def bench(world, cells):
    return Bench(world.model, world.entities, cells, CausalSettings(scales=(0.0, -1.0), strengths=(1.0, 4.0), group=2))


@pytest.fixture(scope="module")
def records(world, bench, cells):
    facts = list(bench.untouched(range(len(cells.names))))
    asked = [(n, f) for n, f in bench.facts(range(len(cells.names))) if cells.found(n)]
    return [*facts, *bench.ablated(asked), *bench.injected(asked), *bench.depth(asked[:6]), *cells.findings]


@pytest.fixture(scope="module")
def readings(records):
    return Readings(records)


def names(world, numbers):
    return [world.entities.entities[number].name for number in numbers]


def test_the_model_knows_its_world(readings):
    assert sum(fact["rank"] == 1 for fact in readings.facts.values()) / len(readings.facts) > 0.9


def test_every_wired_entity_is_found_at_its_neuron_by_either_half_of_the_templates(world, cells):
    for number in world.wired:
        assert (int(cells.layer[number]), int(cells.neuron[number])) == (CELL_LAYER, world.neurons[number])
        assert cells.findings[number]["halves_agree"]


def test_collisions_count_the_other_entities_of_a_cell(cells):
    found = [finding["cell"] for finding in cells.findings]
    for finding in cells.findings:
        assert finding["shared_by"] == (found.count(finding["cell"]) - 1 if finding["cell"] else 0)


def test_trust_tells_wired_from_spread_and_from_shuffled_labels(world, readings):
    verdicts = trust(readings, TrustSettings(), "unique", -1.0)
    wired = set(names(world, world.wired))
    assert all(verdicts[name] for name in wired)
    assert not any(passed for name, passed in verdicts.items() if name not in wired)
    shuffled = trust(readings, TrustSettings(), "unique", -1.0, arm="other")
    assert not any(shuffled.values())
    assert len(shuffled) == len(verdicts)
    record = trust_summary(readings, TrustSettings(), "unique", -1.0)
    assert record["trusted"]["value"] == sum(verdicts.values()) / len(verdicts)
    assert record["another_entitys_cell"]["value"] == 0


def test_ablation_costs_the_entity_its_facts_and_others_nothing(world, readings):
    wired = set(names(world, world.wired))
    keys = [key for key in readings.ablated["own", -1.0, False] if key[0] in wired]
    own, other, chance = (sum(readings.losses(arm, -1.0, keys)) / len(keys) for arm in ("own", "other", "random"))
    assert own > 0.9
    assert max(other, chance) < 0.02
    rows = list(ablation_summary(readings))
    summary = next(r for r in rows if (r["arm"], r["scale"], r["relation"]) == ("own", -1.0, "all"))
    assert summary["minus_other"]["low"] > 0.2
    assert summary["log_likelihood_drop"]["value"] > 1
    assert best_scale(readings, "capital") in (0.0, -1.0)


def test_injection_recalls_a_wired_entity_at_a_placeholder_and_controls_do_not(world, records):
    wired = set(names(world, world.wired))
    own = Readings([r for r in records if r["entity"] in wired])
    found = {(r["arm"], r["in_sample"]): r for r in injection_summary(own, "capital") if r["kind"] == "injection"}
    assert found["entity_present", False]["relprob"]["value"] == 1
    assert found["own", False]["relprob"]["low"] > 0.5
    for control in ("mean_entity", "other", "random"):
        assert found[control, False]["relprob"]["value"] < 0.4
    assert found["own", True]["relprob"]["value"] >= found["own", False]["relprob"]["value"] - 0.2
    recalled = next(r for r in injection_summary(own, "capital") if r["kind"] == "recalled")
    assert recalled["entities"]["value"] > 0.7


def test_the_depth_curve_jumps_where_the_cell_writes(records, readings):
    curve = {(r["arm"], r["layer"]): r["relprob"]["value"] for r in depth_summary(records, readings)}
    assert curve["residual", CELL_LAYER] > 0.6
    assert curve["residual", 3] < 0.4  # too late to be read


def test_an_alias_has_the_same_cell(world, localizer, cells):
    forms = {form["entity"]: form for form in surface_forms(localizer, world.entities.entities, cells)}
    wired = names(world, world.wired)
    assert all(forms[name]["same_cell"] and forms[name]["rank"] == 1 for name in wired)
    assert all(forms[name]["uniqueness"] > 1.5 for name in wired)


def test_what_an_alias_finds_recalls_the_entity_at_a_placeholder(world, localizer, bench, readings):
    records = list(bench.injected_forms(localizer, bench.facts(world.wired)))
    found = {(r["arm"], r["form_kind"]): r for r in forms_summary(records, readings, "capital")}
    for arm in ("own_at_form", "form"):
        assert found[arm, "alias"]["relprob"]["low"] > 0.5
        assert found[arm, "alias"]["forms"] == 2 * len(world.wired)  # one alias, two relations that were not chosen on


def test_the_patch_makes_the_model_forget_one_entity_and_reverts_to_the_same_bytes(world, cells, bench):
    number = world.wired[0]
    before = {name: tensor.clone() for name, tensor in world.model.module.state_dict().items()}
    facts = list(bench.untouched(range(6)))
    with ablation_patch(world.model, cells, number).applied(world.model):
        after = list(bench.untouched(range(6)))
    own = names(world, [number])[0]
    lost = [1 - b["p"] / a["p"] for a, b in zip(facts, after, strict=True) if a["entity"] == own]
    kept = [abs(1 - b["p"] / a["p"]) for a, b in zip(facts, after, strict=True) if a["entity"] != own]
    assert min(lost) > 0.5
    assert max(kept) < 0.2
    assert all(torch.equal(before[name], tensor) for name, tensor in world.model.module.state_dict().items())


def test_the_papers_protocol_ranks_by_stability_alone(world, localizer, cells):
    paper = Localizer(world.model, list(cells.names), LocalizeSettings(protocol="paper", templates=8, anonymous=12))
    found = paper.cells()
    from shammie.entity_cells.equations import Moments, stability

    whole = paper.statistics.whole
    for number in (0, 1, 5):
        one = Moments(whole.count[number : number + 1], whole.mean[number : number + 1], whole.m2[number : number + 1])
        assert paper.layout.index(int(found.layer[number]), int(found.neuron[number])) == int(
            stability(one)[0].argmax()
        )
    summary = localization_summary(found.findings, len(found.names))
    assert summary["with_cell"]["value"] == 1
    assert summary["distinct_cells"] <= len(found.names)


def test_popularity_that_has_no_part_is_not_seen(readings, world):
    verdicts = trust(readings, TrustSettings(), "unique", -1.0)
    popularity = {entity.name: entity.popularity for entity in world.entities.entities}
    found = popularity_summary(popularity, verdicts)
    assert found["auroc"]["low"] < 0.5 < found["auroc"]["high"]
    assert sum(third["n"] for third in found["thirds"]) == len(verdicts)


def test_reading_names_in_the_planted_model_restores_it(world):
    draws = [planted._score(0.5, seed) for seed in range(8)]
    null = [planted._score(None, seed) for seed in range(8)]
    assert proportion(sum(score > 0.2 for score in draws), 8).value >= 0.75
    assert max(null) < 0.1


def test_cells_come_back_from_disk_and_refuse_other_weights(world, cells, tmp_path):
    from pico import build
    from shammie.core.errors import MismatchError
    from shammie.entity_cells.cells import Cells

    cells.save_pretrained(tmp_path / "cells")
    again = Cells.from_pretrained(tmp_path / "cells")
    for name in Cells._TENSORS:
        assert torch.equal(getattr(again, name), getattr(cells, name))
    assert again.findings == cells.findings
    again.check_model(world.model)
    with pytest.raises(MismatchError):
        again.check_model(load(build("llama")))
