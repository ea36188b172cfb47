"""The commands of the room, one frozen dataclass each."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import OmitArgPrefixes

from shammie.core.errors import ShammieError
from shammie.core.fields import Dtype, ModelName
from shammie.core.task import Task
from shammie.entity_cells.settings import CausalSettings, LocalizeSettings, TrustSettings

if TYPE_CHECKING:
    from shammie.core.run import RunRecord

CellsRun = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CELLS")]


@dataclass(frozen=True)
class CellsLocalize:
    """Find the neuron that stands for each entity of a set."""

    model: ModelName
    """Hub id, directory, GGUF file or bundled name."""
    output_dir: Path
    """Directory of the run; cells go to artifacts/cells in it."""
    entities: str = "geonames:countries"
    """geonames:countries, geonames:cities, a .csv, or PopQA-like .jsonl, .parquet or hf:owner/name:split."""
    limit: int | None = None
    """At most this many entities, the most popular."""
    least_facts: int = 1
    """Leave out entities with fewer questions."""
    device: str | None = None
    """Where to run, such as cpu or cuda."""
    dtype: Dtype = "float32"
    """What the weights are loaded as; in bfloat16 random neurons have effects too."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say how much there is to do, and stop."""
    settings: OmitArgPrefixes[LocalizeSettings] = field(default_factory=LocalizeSettings)
    """How cells are found."""

    def prepare(self) -> Task:
        """Load the model and the entities."""
        from shammie.entity_cells.tasks import prepare_localize

        return prepare_localize(self)

    @staticmethod
    def page(record: RunRecord) -> str:
        """Where cells stand, and each entity's."""
        from shammie.entity_cells.page import localize_page

        return localize_page(record)


@dataclass(frozen=True)
class CellsAblate:
    """Make a model forget one entity: a weight patch, and what it does to that entity and to others."""

    cells: CellsRun
    """The --output-dir of a localization."""
    entity: str
    """Name or id of the entity."""
    output_dir: Path
    """Directory of the run; the patch goes to artifacts/patch in it."""
    scale: float = -1.0
    """What the cell's output is multiplied by: 0 silences it, -1 turns it round."""
    group: int = 1
    """Best neurons of the entity to edit."""
    controls: int = 20
    """Other entities whose facts are asked too."""
    model: str | None = None
    """The model, where it is no longer under the name that was localized."""
    device: str | None = None
    """Where to run, such as cpu or cuda."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say what would be edited, and stop."""

    def __post_init__(self) -> None:
        if self.group < 1 or self.controls < 1:
            raise ShammieError("--group and --controls must be at least 1")

    def prepare(self) -> Task:
        """Load the cells and the model they were found in."""
        from shammie.entity_cells.tasks import prepare_ablate

        return prepare_ablate(self)


@dataclass(frozen=True)
class CellsInject:
    """Make a model recall an entity that its prompt does not name, by its cell alone, beside controls."""

    cells: CellsRun
    """The --output-dir of a localization."""
    entity: str
    """Name or id of the entity."""
    output_dir: Path | None = None
    """Directory of the run; thrown away when not given."""
    model: str | None = None
    """The model, where it is no longer under the name that was localized."""
    device: str | None = None
    """Where to run, such as cpu or cuda."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say how much there is to do, and stop."""
    settings: OmitArgPrefixes[CausalSettings] = field(default_factory=CausalSettings)
    """Strengths, groups and controls."""

    def prepare(self) -> Task:
        """Load the cells and the model they were found in."""
        from shammie.entity_cells.tasks import prepare_inject

        return prepare_inject(self)


@dataclass(frozen=True)
class CellsReport:
    """The atlas of a set: ablation, injection, trust, surface forms, depth and popularity of all its entities."""

    cells: CellsRun
    """The --output-dir of a localization."""
    output_dir: Path
    """Directory of the run."""
    choose_on: str | None = None
    """The relation on which scale and strength are chosen; the others are read. The first one unless named."""
    relations: tuple[str, ...] = ()
    """Only these relations."""
    chunk: int = 10
    """Entities in one item of work; what a killed run repeats at most."""
    depth: int = 20
    """Facts behind the depth curve."""
    step: int = 2
    """Layers from one point of the depth curve to the next."""
    forms: int = 20
    """Facts behind the recall from other forms of the names."""
    model: str | None = None
    """The model, where it is no longer under the name that was localized."""
    device: str | None = None
    """Where to run, such as cpu or cuda."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say how much there is to do, and stop."""
    settings: OmitArgPrefixes[CausalSettings] = field(default_factory=CausalSettings)
    """Scales, strengths, groups and controls."""
    trust: OmitArgPrefixes[TrustSettings] = field(default_factory=TrustSettings)
    """When a cell is trusted."""

    def __post_init__(self) -> None:
        if min(self.chunk, self.step) < 1 or min(self.depth, self.forms) < 0:
            raise ShammieError("--chunk and --step must be at least 1, and --depth and --forms not negative")

    def prepare(self) -> Task:
        """Load the cells and the model they were found in."""
        from shammie.entity_cells.atlas import prepare_report

        return prepare_report(self)

    @staticmethod
    def page(record: RunRecord) -> str:
        """The atlas."""
        from shammie.entity_cells.page import report_page

        return report_page(record)
