"""What the readings add up to: losses with controls, the trust filter, recall by injection, popularity."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import torch

from shammie.core.errors import DataError
from shammie.core.stats import auroc_interval, bootstrap, mean_interval, paired_difference, proportion, spearman
from shammie.entity_cells import equations as eq
from shammie.entity_cells.settings import Protocol, TrustSettings

Record = dict[str, Any]
_Key = tuple[str, str]  # entity, relation
_SHARE, _GAIN = 0.30, 0.05  # an injection succeeds from this RelProb on, and this far above each control
CONTROLS = ("other", "other_same_layer", "random")


class Readings:
    """Records of one run, looked up by fact and arm."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.facts: dict[_Key, Record] = {}
        self.ablated: dict[tuple[str, float, bool], dict[_Key, Record]] = defaultdict(dict)
        self.injected: dict[tuple[str, float], dict[_Key, Record]] = defaultdict(dict)
        self.cells: dict[str, Record] = {}
        for record in records:
            key = (str(record.get("entity")), str(record.get("relation")))
            if record["kind"] == "fact":
                self.facts[key] = record
            elif record["kind"] == "ablated":
                self.ablated[record["arm"], record["scale"], record["everywhere"]][key] = record
            elif record["kind"] == "injected":
                self.injected[record["arm"], record["strength"]][key] = record
            elif record["kind"] == "cell":
                self.cells[record["entity"]] = record

    def losses(self, arm: str, scale: float, keys: Sequence[_Key], everywhere: bool = False) -> list[float]:
        """Clipped loss of each fact."""
        edited = torch.tensor([self.ablated[arm, scale, everywhere][key]["p"] for key in keys])
        base = torch.tensor([self.facts[key]["p"] for key in keys])
        return eq.clipped_loss(edited.double(), base.double()).tolist()

    def by_entity(self, keys: Iterable[_Key]) -> dict[str, list[_Key]]:
        """Facts of each entity."""
        groups: dict[str, list[_Key]] = defaultdict(list)
        for key in keys:
            groups[key[0]].append(key)
        return dict(groups)


def best_scale(readings: Readings, relation: str) -> float:
    """The scale with the largest margin of own over other cells on one relation."""
    scales = sorted({scale for _, scale, everywhere in readings.ablated if not everywhere}, reverse=True)

    def margin(scale: float) -> float:
        keys = [k for k in readings.ablated["other", scale, False] if k[1] == relation]
        if not keys:
            raise DataError(f"no known fact of the relation {relation!r} was tested; choose by another relation")
        own, other = (fmean(readings.losses(arm, scale, keys)) for arm in ("own", "other"))
        return own - other

    return max(scales, key=margin)


def ablation_summary(readings: Readings, seed: int = 0) -> Iterator[Record]:
    """Mean clipped and signed loss of each arm, scale and relation, and the drop in log-likelihood of the whole answer."""
    for (arm, scale, everywhere), rows in sorted(readings.ablated.items()):
        for relation in ("all", *sorted({key[1] for key in rows})):
            keys = [key for key in rows if relation in ("all", key[1])]
            units = [key[0] for key in keys]
            losses = readings.losses(arm, scale, keys, everywhere)
            signed = [1 - rows[key]["p"] / readings.facts[key]["p"] for key in keys]
            drop = [readings.facts[key]["log_likelihood"] - rows[key]["log_likelihood"] for key in keys]
            knowledge = [_knowledge(readings.facts[key], rows[key]) for key in keys]
            record = {
                "kind": "ablation", "arm": arm, "scale": scale, "everywhere": everywhere, "relation": relation,
                "loss": mean_interval(losses, units, seed).as_dict(), "signed_loss": fmean(signed),
                "log_likelihood_drop": mean_interval(drop, units, seed).as_dict(),
                "knowledge": float(np.median(knowledge)),
            }  # fmt: skip
            control = {"own": "other", "own_group": "other_group"}.get(arm)
            if control and (against := readings.ablated.get((control, scale, everywhere))):
                both = [key for key in keys if key in against]
                own, other = (readings.losses(name, scale, both, everywhere) for name in (arm, control))
                record["minus_other"] = paired_difference(own, other, [key[0] for key in both], seed=seed).as_dict()
            yield record


def _knowledge(fact: Record, edited: Record) -> float:
    values = (torch.tensor([x]).double() for x in (math.log(edited["p"]), math.log(fact["p"]), fact["log_unknown"]))
    return float(eq.knowledge_score(*values)[0])


def trust(
    readings: Readings,
    settings: TrustSettings,
    protocol: Protocol,
    scale: float,
    *,
    arm: str = "own",
    relations: Sequence[str] | None = None,
) -> dict[str, bool]:
    """Whether each entity's cell passes the filter on its known facts. `arm="other"` puts another entity's cell in its place.

    unique: loss, margin over other entities' and random cells, no collapse. paper: dominance, layer, loss, no collapse.
    """
    rows = readings.ablated[arm, scale, False]
    keys = [key for key in rows if relations is None or key[1] in relations]
    verdicts = {}
    for entity, own in readings.by_entity(keys).items():
        probabilities = [rows[key]["p"] for key in own]
        ratio = fmean(rows[key]["p"] / readings.facts[key]["p"] for key in own)
        loss = fmean(readings.losses(arm, scale, own))
        passed = (
            loss >= settings.least_loss
            and fmean(probabilities) >= settings.least_probability
            and ratio <= settings.most_ratio
        )
        if protocol == "paper":
            cell = readings.cells[entity]
            inside = settings.first_layer <= cell["layer"] <= settings.last_layer
            passed = passed and inside and cell["dominance"] >= settings.least_dominance
        else:
            passed = passed and all(
                loss - other >= settings.least_margin for other in _control_losses(readings, own, scale, arm)
            )
        verdicts[entity] = passed
    return verdicts


def _control_losses(readings: Readings, keys: Sequence[_Key], scale: float, arm: str) -> Iterator[float]:
    for control in CONTROLS:
        rows = readings.ablated.get((control, scale, False), {})
        if control != arm and all(key in rows for key in keys):
            yield fmean(readings.losses(control, scale, keys))


def trust_summary(
    readings: Readings,
    settings: TrustSettings,
    protocol: Protocol,
    scale: float,
    relations: Sequence[str] | None = None,
) -> Record:
    """Share of entities with a trusted cell, beside the same with each entity given another's cell.

    `exclusive`: the cell is trusted and no other entity's cell besides.
    """
    own = trust(readings, settings, protocol, scale, relations=relations)
    shuffled = trust(readings, settings, protocol, scale, arm="other", relations=relations)
    if not own:
        raise DataError("no entity with a cell has a known fact that was tested; give entities that the model knows")
    layers = sorted(readings.cells[entity]["layer"] for entity, passed in own.items() if passed)
    return {
        "kind": "trust", "protocol": protocol, "scale": scale, "relations": relations and list(relations),
        "trusted": proportion(sum(own.values()), len(own)).as_dict(),
        "another_entitys_cell": proportion(sum(shuffled.values()), len(shuffled)).as_dict() if shuffled else None,
        "exclusive": proportion(sum(own[e] and not readings.cells[e]["shared_by"] for e in own), len(own)).as_dict(),
        "layers": layers, "entities": sorted(entity for entity, passed in own.items() if passed),
    }  # fmt: skip


def injection_summary(readings: Readings, choose_on: str | None, seed: int = 0) -> Iterator[Record]:
    """RelProb and pass@5 of every arm, at a strength chosen in two ways.

    First the strength that is best on the relation `choose_on`, read on the others; then, as the paper does, each
    entity's own best strength, read on the same facts (in_sample).
    """
    rows, facts = readings.injected, readings.facts
    strengths = sorted({strength for arm, strength in rows if arm == "own"})
    everything = sorted({key for strength in strengths for key in rows["own", strength]})
    if not everything:
        return
    held = [key for key in everything if key[1] != choose_on] or everything
    base = [key for key in everything if key[1] == choose_on] or everything
    yield _condition(readings, "entity_present", None, [(key, facts[key]) for key in held], seed)
    yield _condition(readings, "placeholder", None, [(key, facts[key]["placeholder"]) for key in held], seed)
    for arm in ("mean_entity", "whole_layer"):
        yield _condition(readings, arm, 1.0, [(key, rows[arm, 1.0][key]) for key in held], seed)
    for own, controls in (("own", CONTROLS), ("own_group", ("other_group",))):
        if not rows.get((own, strengths[0])):
            continue
        best = _best_strength(readings, own, strengths, base)
        for arm in (own, *controls):
            if chosen := {key: rows[arm, best][key] for key in held if key in rows.get((arm, best), {})}:
                yield _condition(readings, arm, best, chosen.items(), seed)
        groups = readings.by_entity(everything)
        picked = {entity: _best_strength(readings, own, strengths, keys) for entity, keys in groups.items()}
        for arm in (own, controls[0]):
            tables = {key: rows.get((arm, picked[key[0]]), {}) for key in everything}
            if chosen := {key: table[key] for key, table in tables.items() if key in table}:
                yield {**_condition(readings, arm, None, chosen.items(), seed), "in_sample": True}
        yield _successes(readings, own, controls[0], picked, everything)


def forms_summary(records: Iterable[Record], readings: Readings, choose_on: str, seed: int = 0) -> Iterator[Record]:
    """RelProb and pass@5 of what other forms of the names find, by form and arm, at the strength best on `choose_on`."""
    rows = [record for record in records if record["kind"] == "form_injected"]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm]
        base = [row for row in own if row["relation"] == choose_on]
        held = [row for row in own if row["relation"] != choose_on]
        if not base or not held:
            continue

        def share(strength: float, base: Sequence[Record] = base) -> float:
            return fmean(row["p"] for row in base if row["strength"] == strength)

        best = max(sorted({row["strength"] for row in base}), key=share)
        for kind in ("all", *dict.fromkeys(row["form_kind"] for row in held)):
            chosen = [
                ((row["entity"], row["relation"]), row)
                for row in held
                if row["strength"] == best and kind in ("all", row["form_kind"])
            ]
            found = _condition(readings, arm, best, chosen, seed)
            yield {**found, "kind": "form_injection", "form_kind": kind, "forms": len(chosen)}


def _best_strength(readings: Readings, arm: str, strengths: Sequence[float], keys: Sequence[_Key]) -> float:
    """The strength with the largest RelProb on some facts."""

    def share(strength: float) -> float:
        return _relprob(readings, [readings.injected[arm, strength][key] for key in keys], keys)

    return max(strengths, key=share)


def _relprob(readings: Readings, edited: Sequence[Record], keys: Sequence[_Key]) -> float:
    present = torch.tensor([readings.facts[key]["p"] for key in keys])
    return eq.relative_probability(torch.tensor([row["p"] for row in edited]), present)


def _condition(
    readings: Readings, arm: str, strength: float | None, rows: Iterable[tuple[_Key, Record]], seed: int
) -> Record:
    """RelProb, pass@5, top-1 and log-likelihood of the rows of some facts, with intervals by entity."""
    keys, edited = zip(*rows, strict=True)
    present = [readings.facts[key]["p"] for key in keys]
    units = [key[0] for key in keys]
    share = bootstrap(lambda a, b: a.mean() / b.mean(), [r["p"] for r in edited], present, clusters=units, seed=seed)
    return {
        "kind": "injection", "arm": arm, "strength": strength, "in_sample": False, "relprob": share.as_dict(),
        "pass_at_5": mean_interval([float(r["rank"] <= 5) for r in edited], units, seed).as_dict(),
        "top_1": mean_interval([float(r["rank"] == 1) for r in edited], units, seed).as_dict(),
        "log_likelihood": mean_interval([r["log_likelihood"] for r in edited], units, seed).as_dict(),
    }  # fmt: skip


def _successes(readings: Readings, own: str, control: str, picked: dict[str, float], keys: Sequence[_Key]) -> Record:
    """Entities whose own cells bring 0.30 of the probability back, and 0.05 more than nothing or another's cells do."""
    rows, won, total = readings.injected, 0, 0
    for entity, facts in readings.by_entity(keys).items():
        at = picked[entity]
        if not all(key in rows.get((control, at), {}) for key in facts):
            continue
        share = _relprob(readings, [rows[own, at][key] for key in facts], facts)
        nothing = _relprob(readings, [readings.facts[key]["placeholder"] for key in facts], facts)
        wrong = _relprob(readings, [rows[control, at][key] for key in facts], facts)
        total += 1
        won += share >= _SHARE and share - max(nothing, wrong) >= _GAIN
    return {"kind": "recalled", "arm": own, "in_sample": True, "entities": proportion(won, total).as_dict()}


def popularity_summary(popularity: dict[str, float], trusted: dict[str, bool], seed: int = 0) -> Record:
    """Whether popular entities are trusted more often: AUROC of popularity, and shares in thirds of the ranking."""
    names = sorted(trusted, key=lambda name: -popularity[name])
    values = [popularity[name] for name in names]
    flags = [trusted[name] for name in names]
    thirds = [part.tolist() for part in np.array_split(np.array(flags), min(3, len(flags)))]
    head: Record = {
        "kind": "popularity",
        "spearman": spearman(values, [float(f) for f in flags]) if len(set(flags)) > 1 else None,
    }
    return {
        **head, "auroc": auroc_interval(values, flags).as_dict() if 2 <= sum(flags) <= len(flags) - 2 else None,
        "thirds": [proportion(sum(part), len(part)).as_dict() for part in thirds], "seed": seed,
    }  # fmt: skip


def depth_summary(records: Sequence[Record], readings: Readings, seed: int = 0) -> Iterator[Record]:
    """RelProb of each arm of the depth curve by layer."""
    rows = [record for record in records if record["kind"] == "depth"]
    for arm, layer in sorted({(row["arm"], row["layer"]) for row in rows}):
        own = {(row["entity"], row["relation"]): row for row in rows if (row["arm"], row["layer"]) == (arm, layer)}
        found = _condition(readings, arm, None, own.items(), seed)
        yield {**found, "kind": "depth_curve", "layer": layer}


def localization_summary(findings: Sequence[Record], names: int) -> Record:
    """How many entities have a cell, how many cells there are, where they stand, and how many are the template's."""
    found = [finding for finding in findings if finding["cell"]]
    distinct = {finding["cell"] for finding in found}
    layers = [finding["layer"] for finding in found]
    return {
        "kind": "localization", "entities": names, "with_cell": proportion(len(found), names).as_dict(),
        "distinct_cells": len(distinct), "collisions": sum(finding["shared_by"] > 0 for finding in found),
        "template_neurons": sum(finding["template_neuron"] for finding in found),
        "halves_agree": proportion(sum(f["halves_agree"] for f in findings), names).as_dict(),
        "layers": {str(layer): layers.count(layer) for layer in sorted(set(layers))},
    }  # fmt: skip
