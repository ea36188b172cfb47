"""Conflicts: a question with what the model knows (base) and what it is told (counter)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shammie.core import files, geonames
from shammie.core.answers import contains_match, normalize
from shammie.core.data import load_records
from shammie.core.errors import DataError
from shammie.core.plain import from_plain

GEONAMES, WINOGRAD = "geonames:", "winograd:"
_PAIRS = Path(__file__).with_name("pairs.json")
_ASKED = {
    "capital": ("What is the capital of {subject}?", "The capital of {subject} is {object}."),
    "continent": ("On which continent is {subject}?", "{subject} is on the continent of {object}."),
    "currency": ("Which currency is used in {subject}?", "The currency of {subject} is the {object}."),
}


@dataclass(frozen=True)
class Case:
    """A question, the two beliefs that compete for its answer, and what is told in favour of the second.

    Attributes:
        base, counter: names of each belief, the usual one first.
        third: a name of the same kind that no one endorses, for the control of mere mention.
        context: what stands before the question whether anything is claimed or not.
        claim: a sentence that asserts the counter belief.
    """

    id: str
    question: str
    base: tuple[str, ...]
    counter: tuple[str, ...]
    claim: str
    third: tuple[str, ...] = ()
    subject: str = ""
    relation: str = ""
    context: str = ""
    popularity: float | None = None

    @property
    def flags(self) -> list[str]:
        """What makes a case easy to misread: a belief's name in the question, or names that begin alike."""
        found = []
        for name, belief in (("base", self.base), ("counter", self.counter)):
            if contains_match(f"{self.question} {self.subject}", belief):
                found.append(f"{name} in the question")
        firsts = [{normalize(name).split()[0] for name in belief} for belief in (self.base, self.counter)]
        if firsts[0] & firsts[1]:
            found.append("names begin alike")
        return found


@dataclass(frozen=True)
class CaseSet:
    """Cases and where they came from; `sha256` is of everything in them."""

    cases: tuple[Case, ...]
    source: str
    sha256: str

    @classmethod
    def of(cls, cases: Sequence[Case], source: str) -> CaseSet:
        """Check cases and make a set of them. Errors: DataError naming the case and what is wrong with it."""
        if not cases:
            raise DataError(f"{source} holds no cases; give a source with at least one")
        seen: set[str] = set()
        for case in cases:
            _check(case, source)
            if case.id in seen:
                raise DataError(f"{source} has two cases with the id {case.id!r}; give each its own")
            seen.add(case.id)
        text = files.to_json([asdict(case) for case in cases], source)
        return cls(tuple(cases), source, files.sha256_bytes(files.encode(text)))


def _check(case: Case, source: str) -> None:
    for name, belief in (("base", case.base), ("counter", case.counter)):
        if not any(text.strip() for text in belief):
            raise DataError(f"{source}: the case {case.id} has no {name} belief; give it at least one name")
    if {normalize(name) for name in case.base} & {normalize(name) for name in case.counter}:
        raise DataError(
            f"{source}: the case {case.id} has the same name for both beliefs; they could not be told apart"
        )
    if not case.question.strip() or not case.claim.strip():
        raise DataError(f"{source}: the case {case.id} lacks a question or a claim; give it both")


def load_cases(source: str, *, limit: int | None = None) -> CaseSet:
    """`geonames:capital` (or continent, currency), `winograd:`, CounterFact's .json, or a .jsonl of cases."""
    if source.startswith(GEONAMES):
        found = list(_geonames(source))
    elif source == WINOGRAD:
        found = list(_pairs())
    elif source.lower().endswith(".json"):
        found = list(_counterfact(Path(source)))
    elif not Path(source).suffix:
        sets = ", ".join([*(GEONAMES + name for name in _ASKED), WINOGRAD])
        raise DataError(f"there are no cases {source!r}; give {sets}, or a .json or .jsonl file")
    else:
        found = list(load_records(Path(source), Case).records)
    if limit is not None and limit < 1:
        raise DataError(f"a limit of {limit} leaves no cases of {source}; give at least 1")
    return CaseSet.of(found[:limit], source)


def _geonames(source: str) -> Iterator[Case]:
    """Populous countries first; the counter belief is that of another country of the continent, the third of one more."""
    relation = source.removeprefix(GEONAMES)
    if relation not in _ASKED:
        raise DataError(f"{source!r} is not one of {', '.join(GEONAMES + name for name in _ASKED)}")
    question, statement = _ASKED[relation]
    places = [place for place in geonames.countries() if relation in place.known]
    for place in places:
        near = [p for p in places if relation == "continent" or p.known["continent"] == place.known["continent"]]
        base = place.known[relation]
        others = list(dict.fromkeys(p.known[relation] for p in near if not _alike(p.known[relation], base)))
        if contains_match(place.name, base) or len(others) < 2:
            continue
        at = sum(map(ord, place.id))  # the same for a country whatever else is asked
        counter, third = others[at % len(others)], others[(at + 1) % len(others)]
        claim = statement.format(subject=place.name, object=counter[0])
        yield Case(
            f"{relation}/{place.id}", question.format(subject=place.name), base, counter, claim, third, place.name, relation,
            popularity=float(place.population),
        )  # fmt: skip


def _alike(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two beliefs share a name or a first word."""
    names = {normalize(name) for name in one} & {normalize(name) for name in other}
    return bool(names) or bool({normalize(n).split()[0] for n in one} & {normalize(n).split()[0] for n in other})


def _pairs() -> Iterator[Case]:
    """Sentences with a pronoun that one of two people is meant by; the claim names the other."""
    for number, row in enumerate(files.read_json(_PAIRS)["pairs"]):
        for which, sentence in enumerate(row["sentences"].values()):
            meant = sentence["referent"]
            other = next(name for name in row["names"] if name != meant)
            claim = row["claim"].replace("$name", other)
            yield Case(
                f"pair/{number}-{which}", row["question"], (meant,), (other,), claim, (row["third"],), relation="pronoun",
                context=sentence["text"],
            )  # fmt: skip


@dataclass(frozen=True)
class _Target:
    str: str


@dataclass(frozen=True)
class _Rewrite:
    prompt: str
    subject: str
    target_new: Any
    target_true: Any
    relation_id: str = ""


def _counterfact(path: Path) -> Iterator[Case]:
    rows = files.read_json(path)
    if not isinstance(rows, list):
        raise DataError(f"{path} is not CounterFact's list of cases; use a .jsonl")
    for number, row in enumerate(rows):
        where = f"{path}, case {number}"
        if not isinstance(row, Mapping) or not isinstance(row.get("requested_rewrite"), Mapping):
            raise DataError(f"{where}: no requested_rewrite; give CounterFact's own file")
        names = ("prompt", "subject", "target_new", "target_true", "relation_id")
        made = from_plain(_Rewrite, {k: v for k, v in row["requested_rewrite"].items() if k in names})
        old, new = (from_plain(_Target, {"str": dict(t).get("str")}).str for t in (made.target_true, made.target_new))
        stem = made.prompt.format(made.subject)
        yield Case(
            str(row.get("case_id", number)), f"Complete: {stem} …", (old.strip(),), (new.strip(),), f"{stem} {new.strip()}.",
            subject=made.subject, relation=made.relation_id,
        )  # fmt: skip
