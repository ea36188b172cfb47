"""`shammie tour`: the config, the list of chapters, and the page."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from shammie.cli.running import carry_out
from shammie.core.errors import ShammieError
from shammie.core.fields import Dtype
from shammie.core.task import Task

if TYPE_CHECKING:
    from shammie.core.run import Run, RunRecord
    from shammie.report import Chapter

# A room adds its chapter with one line here: a module that holds CHAPTER.
CHAPTERS: dict[str, str] = {
    "who": "shammie.cli.tour.who",
    "knows": "shammie.cli.tour.knows",
    "forms": "shammie.cli.tour.forms",
    "decided": "shammie.cli.tour.decided",
    "exact": "shammie.cli.tour.exact",
    "rotate": "shammie.rotate.tour",
    "ember": "shammie.ember.tour",
    "mfa": "shammie.mfa.tour",
    "entity-cells": "shammie.entity_cells.tour",
    "sekd": "shammie.sekd.tour",
    "recall": "shammie.recall.tour",
    "beliefs": "shammie.beliefs.tour",
    "bonafide": "shammie.bonafide.tour",
    "routing": "shammie.routing.tour",
    "thinking-states": "shammie.thinking_states.tour",
}
_SECONDS = {
    "who": 10,
    "knows": 45,
    "forms": 15,
    "decided": 45,
    "exact": 10,
    "rotate": 40,
    "ember": 45,
    "mfa": 40,
    "entity-cells": 45,
    "sekd": 40,
    "recall": 40,
    "beliefs": 40,
}  # two cores, reduced


@dataclass(frozen=True)
class Tour:
    """Open a model up, chapter by chapter, into one HTML page."""

    model: str = "smollm2-135m"
    """Hub id, directory, GGUF file or bundled name."""
    only: tuple[str, ...] = ()
    """Chapters to make; all of them unless named."""
    full: bool = False
    """Measure on all facts instead of the reduced number."""
    limit: int | None = None
    """At most this many items in each measurement, for a quick look."""
    seed: int = 0
    """Seed of shuffles, random directions and bootstraps."""
    device: str | None = None
    """Such as cpu or cuda."""
    dtype: Dtype = "auto"
    """What the weights are loaded as."""
    output_dir: Path | None = Path("tour")
    """Where the run is written."""
    resume: bool = False
    """Go on with the chapters that are missing in output_dir."""
    dry_run: bool = False
    """Only say what would be done."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.only if name not in CHAPTERS]
        if unknown:
            raise ShammieError(f"the tour has no chapter {unknown[0]!r}; its chapters are {', '.join(CHAPTERS)}")
        if self.limit is not None and self.limit < 2:
            raise ShammieError("--limit must be at least 2, so that there is something to compare")

    def run(self) -> int:
        """Carry the tour out."""
        return carry_out("tour", self)

    def prepare(self) -> Task:
        """Load the model."""
        from shammie.cli.models import open_model, weight_bytes
        from shammie.cli.tour.context import TourContext

        model = open_model(self.model, device=self.device, dtype=self.dtype)
        context = TourContext(model, self.seed, self.full, self.limit)
        names = self.only or tuple(CHAPTERS)

        def estimate() -> Mapping[str, Any]:
            seconds = sum(_SECONDS.get(name, 45) for name in names) * (5 if self.full else 1)
            size = f"{weight_bytes(model) * 2 / 2**30:.1f} GB"
            return {
                "chapters": ", ".join(names),
                "seconds_on_two_cores": f"about {seconds}",
                "memory": size,
                "disk": "under 5 MB",
            }

        def execute(run: Run) -> int:
            for name in run.items(names, "tour"):
                records = (dict(record) for record in chapter(name).measure(context))
                run.record(name, [{"chapter": name, **record} for record in records])
            return 0

        return Task({"model": model.hash}, estimate, execute)

    @staticmethod
    def page(record: RunRecord) -> str:
        """The tour's page from its records alone."""
        from shammie.report import Section, render_page

        sections = []
        for name in dict.fromkeys(result["chapter"] for result in record.results):
            part = chapter(name)
            own = [result for result in record.results if result["chapter"] == name]
            sections.append(Section(name, part.title, part.question, part.command, part.draw(own)))
        return render_page(
            f"Inside {record.config['model']}",
            "A real language model opened up: what it is, what it knows, how its answers form, and how to change them.",
            list(_facts(record)),
            sections,
            footer="Every number stands in results.jsonl beside this page, with its interval and its control.",
            eyebrow="shammie tour",
        )


def chapter(name: str) -> Chapter:
    """A chapter by name."""
    return cast("Chapter", importlib.import_module(CHAPTERS[name]).CHAPTER)


def _facts(record: RunRecord) -> Iterator[tuple[str, str]]:
    yield "weights", str(record.inputs["model"])[:12]
    yield "settings", "full" if record.config["full"] else "reduced (--full measures more)"
    if record.config["limit"]:
        yield "limit", str(record.config["limit"])
    yield "seed", str(record.config["seed"])
    for name in ("shammie", "torch", "transformers"):
        yield name, str(record.versions.get(name))
    yield "made", record.started[:10]
