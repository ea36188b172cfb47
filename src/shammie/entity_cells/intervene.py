"""Ablation, injection, the depth curve and surface forms: what each yields is records, one a reading."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from shammie.core.batch import pad
from shammie.core.capture import capture
from shammie.core.model import LanguageModel
from shammie.core.position import RowSpans
from shammie.core.site import Site, mlp_out, neurons, residual
from shammie.entity_cells import equations as eq
from shammie.entity_cells.arms import Arms
from shammie.entity_cells.cells import Cells
from shammie.entity_cells.data import Entity, EntitySet, Fact
from shammie.entity_cells.localize import Localizer
from shammie.entity_cells.measure import (
    Change,
    Job,
    Question,
    Reading,
    ask,
    check_answers,
    next_log_probs,
    placeholder,
    renamed,
)
from shammie.entity_cells.settings import CausalSettings
from shammie.entity_cells.texts import ORDINARY_NAMES

Record = dict[str, Any]


class Bench:
    """A model, a set of entities with their cells, and the facts that the model knows."""

    def __init__(
        self, model: LanguageModel, entities: EntitySet, cells: Cells, settings: CausalSettings | None = None
    ) -> None:
        """Errors: DataError for relations whose answers share their first token, MismatchError for other weights."""
        cells.check_model(model)
        self.model, self.entities, self.cells = model, entities.entities, cells
        self.settings = settings or CausalSettings()
        self.arms = Arms(cells, self.settings.seed, self.settings.group)
        self._anchors: dict[str, Float[Tensor, " V"]] = {}
        relations: dict[str, list[Question]] = {}
        for entity in self.entities:
            for fact in entity.facts:
                relations.setdefault(fact.relation, []).append(Question.of(model, fact, entity.name))
        for relation, questions in relations.items():
            check_answers(questions, relation)

    def facts(self, numbers: Sequence[int]) -> list[tuple[int, Fact]]:
        """Entities' numbers with each of their facts."""
        return [(number, fact) for number in numbers for fact in self.entities[number].facts]

    def untouched(self, numbers: Sequence[int]) -> Iterator[Record]:
        """Every fact as it is; known ones with the placeholder for the name, and with ordinary names (the unknown anchor)."""
        facts = self.facts(numbers)
        questions = [Question.of(self.model, fact, self.entities[number].name) for number, fact in facts]
        readings = ask(self.model, [(question, ()) for question in questions])
        known = [at for at, reading in enumerate(readings) if reading.rank <= self.settings.known_within]
        blanks = [placeholder(self.model, facts[at][1], self.entities[facts[at][0]].name) for at in known]
        without = dict(zip(known, ask(self.model, [(question, ()) for question in blanks]), strict=True))
        for at, ((number, fact), reading) in enumerate(zip(facts, readings, strict=True)):
            record = {**self._head("fact", number, fact), "known": at in without, **_reading(reading)}
            if at in without:
                record["placeholder"] = _reading(without[at])
                record["log_unknown"] = self._unknown(fact, self.entities[number].name, questions[at])
            yield record

    def _unknown(self, fact: Fact, name: str, question: Question) -> float:
        """Mean log-probability of the answer's first token after ordinary names; such prompts are read once."""
        values = []
        for other in ORDINARY_NAMES:
            prompt = renamed(fact, name, other).prompt
            if prompt not in self._anchors:
                self._anchors[prompt] = next_log_probs(self.model, prompt)
            values.append(float(self._anchors[prompt][list(question.firsts)].max()))
        return sum(values) / len(values)

    def ablated(self, known: Sequence[tuple[int, Fact]]) -> Iterator[Record]:
        """Known facts under each arm at each scale."""
        jobs: list[Job] = []
        heads = []
        for number, fact in known:
            question = Question.of(self.model, fact, self.entities[number].name)
            for arm in self.arms.of(number):
                for everywhere, scales in ((False, self.settings.scales), (True, self.settings.everywhere)):
                    for factor in scales:
                        jobs.append((question, arm.ablation(factor, everywhere=everywhere)))
                        place = {"arm": arm.name, "scale": factor, "everywhere": everywhere}
                        heads.append({**self._head("ablated", number, fact), **place})
        yield from _joined(heads, ask(self.model, jobs))

    def injected(self, known: Sequence[tuple[int, Fact]]) -> Iterator[Record]:
        """Known facts with the placeholder for the name: mean entity alone, each arm at each strength, the whole layer."""
        jobs: list[Job] = []
        heads = []
        for number, fact in known:
            question = placeholder(self.model, fact, self.entities[number].name)
            layer, vector = self.arms.layer_vector(number)
            mean = self.cells.mean[self.cells.where(layer)]
            for name, values in (("mean_entity", mean), ("whole_layer", vector)):
                jobs.append((question, [Change(neurons(layer), shift=values)]))
                heads.append({**self._head("injected", number, fact), "arm": name, "strength": 1.0})
            for arm in self.arms.of(number):
                for strength in self.settings.strengths:
                    jobs.append((question, arm.injection(self.cells, strength)))
                    heads.append({**self._head("injected", number, fact), "arm": arm.name, "strength": strength})
        yield from _joined(heads, ask(self.model, jobs))

    def injected_forms(self, localizer: Localizer, known: Sequence[tuple[int, Fact]]) -> Iterator[Record]:
        """Known facts with the placeholder for the name and what another form of the name has put in its place.

        Arms: `form`, the best cell that is found from the form itself; `form_group`, its best together; `own_at_form`, the
        entity's own cell with the activity that the form gives it.
        """
        jobs: list[Job] = []
        heads = []
        for number in dict.fromkeys(number for number, _ in known):
            forms = self.entities[number].forms
            statistics = localizer.read([form for _, form in forms]) if forms else None
            for row, (kind, form) in enumerate(forms):
                assert statistics is not None
                for arm in self.arms.of_form(localizer, statistics, row, number):
                    for fact in [fact for owner, fact in known if owner == number]:
                        question = placeholder(self.model, fact, self.entities[number].name)
                        for strength in self.settings.strengths:
                            jobs.append((question, arm.injection(self.cells, strength)))
                            head = self._head("form_injected", number, fact)
                            heads.append(
                                {**head, "form": form, "form_kind": kind, "arm": arm.name, "strength": strength}
                            )
        yield from _joined(heads, ask(self.model, jobs)) if jobs else ()

    def depth(self, known: Sequence[tuple[int, Fact]], step: int = 1) -> Iterator[Record]:
        """Known facts with the placeholder for the name and, layer by layer, the entity's own states put in its place.

        `residual` is the stream after one layer; `mlps` the MLP outputs of all layers up to it, attention left alone.
        """
        layers = range(len(self.model.anatomy.layers))
        shown = sorted({*layers[::step], layers[-1]})
        sites = [site for layer in layers for site in (residual(layer), mlp_out(layer))]
        jobs: list[Job] = []
        heads = []
        for number, fact in known:
            name = self.entities[number].name
            full, question = Question.of(self.model, fact, name), placeholder(self.model, fact, name)
            states = self._states(full, sites)
            for layer in shown:
                mlps = [Change(mlp_out(below), shift=states[mlp_out(below)]) for below in range(layer + 1)]
                arms = {"residual": [Change(residual(layer), shift=states[residual(layer)])], "mlps": mlps}
                for arm, changes in arms.items():
                    jobs.append((question, changes))
                    heads.append({**self._head("depth", number, fact), "arm": arm, "layer": layer})
        yield from _joined(heads, ask(self.model, jobs))

    def _states(self, question: Question, sites: Sequence[Site]) -> dict[Site, Tensor]:
        batch = pad([list(question.ids)], device=self.model.device)
        at = RowSpans(((question.entity, question.entity + 1),))
        return {site: state[0] for site, state in capture(self.model, batch, sites, positions=at).states.items()}

    def _head(self, kind: str, number: int, fact: Fact) -> Record:
        return {"kind": kind, "entity": self.cells.names[number], "relation": fact.relation}


def _reading(reading: Reading) -> Record:
    return {"p": reading.probability, "rank": reading.rank, "log_likelihood": reading.log_likelihood}


def _joined(heads: Sequence[Record], readings: Sequence[Reading]) -> Iterator[Record]:
    for head, reading in zip(heads, readings, strict=True):
        yield {**head, **_reading(reading)}


def surface_forms(localizer: Localizer, entities: Sequence[Entity], cells: Cells) -> Iterator[Record]:
    """For every other form of a name: its own cell, and how the entity's cell stands among the form's neurons."""
    pairs = [(number, kind, form) for number, entity in enumerate(entities) for kind, form in entity.forms]
    pairs = [pair for pair in pairs if cells.found(pair[0])]
    if not pairs:
        return
    statistics = localizer.read([form for _, _, form in pairs])
    for row, (number, kind, form) in enumerate(pairs):
        ranking = localizer.ranking(statistics, row, number)
        cell = localizer.layout.index(int(cells.layer[number]), int(cells.neuron[number]))
        z = statistics.whole.mean[row]
        others = localizer.references[0].others(number)[cell]
        yield {
            "kind": "form", "entity": cells.names[number], "form": form, "form_kind": kind,
            "same_cell": int(localizer.top(ranking, 1)[0]) == cell,
            "rank": int((ranking > ranking[cell]).sum()) + 1 if bool(ranking[cell].isfinite()) else None,
            "mean_z": float(z[cell]), "own_mean_z": float(localizer.statistics.whole.mean[number, cell]),
            "uniqueness": float(eq.uniqueness(z[cell].abs(), others)),
            "value": float(localizer.activity(statistics, row)[cell]),
        }  # fmt: skip
