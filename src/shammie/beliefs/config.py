"""The commands of the room, one frozen dataclass each."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import OmitArgPrefixes

from shammie.beliefs.settings import FRAMES, AskSettings, ReadSettings
from shammie.core.errors import ShammieError
from shammie.core.fields import Dtype, ModelName
from shammie.core.task import Task

if TYPE_CHECKING:
    from shammie.core.run import RunRecord

Runs = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
_NAMED = ("none", "neutral", "credible", "non-credible")


def _check(frames: tuple[str, ...]) -> None:
    if unknown := [frame for frame in frames if frame not in FRAMES]:
        raise ShammieError(f"{unknown[0]!r} is no frame; the frames are {', '.join(FRAMES)}")
    if not frames or len(set(frames)) < len(frames):
        raise ShammieError("--frames must name at least one frame, and none twice")


@dataclass(frozen=True)
class BeliefsTrace:
    """Show which of two beliefs the states hold, token by token and layer by layer, while a model answers a question."""

    model: ModelName
    """Hub id, directory, GGUF file or bundled name."""
    question: str
    """What is asked."""
    base: tuple[str, ...]
    """Names of what the model knows, the usual one first."""
    counter: tuple[str, ...]
    """Names of what it is told."""
    claim: str = ""
    """A sentence for the second; made from question and name unless given."""
    third: tuple[str, ...] = ()
    """Names of something of the same kind that no one endorses."""
    frame: str = "neutral"
    """none, neutral, credible, non-credible, follow or ignore."""
    output_dir: Path | None = None
    """Directory of the run; thrown away when not given."""
    device: str | None = None
    """Where to run, such as cpu or cuda."""
    dtype: Dtype = "float32"
    """What the weights are loaded as."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say how many states would be decoded, and stop."""
    read: OmitArgPrefixes[ReadSettings] = field(default_factory=ReadSettings)
    """How beliefs are read."""
    ask: OmitArgPrefixes[AskSettings] = field(default_factory=AskSettings)
    """How the question is put."""

    def __post_init__(self) -> None:
        _check((self.frame,))

    def prepare(self) -> Task:
        """Load the model."""
        from shammie.beliefs.tasks import prepare_trace

        return prepare_trace(self)

    @staticmethod
    def page(record: RunRecord) -> str:
        """The map of positions and layers."""
        from shammie.beliefs.page import trace_page

        return trace_page(record)


@dataclass(frozen=True)
class BeliefsSettings:
    """Ask many cases under several frames, and measure which belief dominates the states and the answer."""

    model: ModelName
    """Hub id, directory, GGUF file or bundled name."""
    output_dir: Path
    """Directory of the run."""
    cases: str = "geonames:capital"
    """geonames:capital, geonames:continent, geonames:currency, winograd:, CounterFact's .json, or a .jsonl of cases."""
    frames: tuple[str, ...] = _NAMED
    """Any of none, neutral, credible, non-credible, follow, ignore."""
    limit: int | None = None
    """At most this many cases, the most popular."""
    chunk: int = 4
    """Cases in one item of work; what a killed run repeats at most."""
    device: str | None = None
    """Where to run, such as cpu or cuda."""
    dtype: Dtype = "float32"
    """What the weights are loaded as."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say how much there is to do, and stop."""
    read: OmitArgPrefixes[ReadSettings] = field(default_factory=ReadSettings)
    """How beliefs are read."""
    ask: OmitArgPrefixes[AskSettings] = field(default_factory=AskSettings)
    """How questions are put."""

    def __post_init__(self) -> None:
        _check(self.frames)
        if self.chunk < 1:
            raise ShammieError("--chunk must be at least 1")

    def prepare(self) -> Task:
        """Load the model and the cases."""
        from shammie.beliefs.tasks import prepare_settings

        return prepare_settings(self)

    @staticmethod
    def page(record: RunRecord) -> str:
        """Frames beside one another."""
        from shammie.beliefs.page import settings_page

        return settings_page(record)


@dataclass(frozen=True)
class BeliefsIntervene:
    """Put the belief that a model does not favour into its states, or take the favoured one out, beside controls."""

    model: ModelName
    """Hub id, directory, GGUF file or bundled name."""
    output_dir: Path
    """Directory of the run."""
    cases: str = "geonames:capital"
    """As for `settings`; belief vectors are made of all entities that the cases name."""
    frames: tuple[str, ...] = ("neutral",)
    """Any of none, neutral, credible, non-credible, follow, ignore."""
    strengths: tuple[float, ...] = (0.1, 0.2, 0.4)
    """Of what is put in, as shares of a state's length."""
    limit: int | None = None
    """At most this many cases, the most popular."""
    chunk: int = 4
    """Cases in one item of work."""
    seed: int = 0
    """Of the controls' entities and noise."""
    device: str | None = None
    """Where to run, such as cpu or cuda."""
    dtype: Dtype = "float32"
    """What the weights are loaded as."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say how much there is to do, and stop."""
    read: OmitArgPrefixes[ReadSettings] = field(default_factory=ReadSettings)
    """The window of layers."""
    ask: OmitArgPrefixes[AskSettings] = field(default_factory=AskSettings)
    """How questions are put."""

    def __post_init__(self) -> None:
        _check(self.frames)
        if self.chunk < 1 or not self.strengths or min(self.strengths) <= 0:
            raise ShammieError("--chunk must be at least 1, and --strengths name at least one number above 0")

    def prepare(self) -> Task:
        """Load the model and the cases."""
        from shammie.beliefs.tasks import prepare_intervene

        return prepare_intervene(self)

    @staticmethod
    def page(record: RunRecord) -> str:
        """What moves the margin, and what its controls move."""
        from shammie.beliefs.page import intervene_page

        return intervene_page(record)


@dataclass(frozen=True)
class BeliefsMonitor:
    """Ask a model how strongly it believed, after examples, beside probes that never look inside and under changed states."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The --output-dir of a run of `settings`."""
    output_dir: Path
    """Directory of the run."""
    targets: tuple[str, ...] = ("base", "counter", "difference")
    """Dominance of which belief, or their difference."""
    examples: int = 10
    """Examples of each of the three levels in the prompt."""
    held_out: int = 60
    """Texts that are asked about."""
    changed: int = 12
    """Of them, texts that are asked about under changed states too."""
    strength: float = 0.2
    """Of what is put in, as a share of a state's length."""
    seeds: int = 5
    """Draws of examples."""
    rows: int = 16
    """Texts in one batch."""
    model: str | None = None
    """The model, where it is no longer under the name that was measured."""
    device: str | None = None
    """Where to run, such as cpu or cuda."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say how much there is to do, and stop."""

    def __post_init__(self) -> None:
        if unknown := [target for target in self.targets if target not in ("base", "counter", "difference")]:
            raise ShammieError(f"{unknown[0]!r} is no target; the targets are base, counter and difference")
        if min(self.examples, self.held_out, self.seeds, self.rows) < 1 or self.changed < 0 or self.strength <= 0:
            raise ShammieError("--examples, --held-out, --seeds and --rows must be at least 1, and --strength above 0")

    def prepare(self) -> Task:
        """Read the run and load its model."""
        from shammie.beliefs.monitoring import prepare_monitor

        return prepare_monitor(self)

    @staticmethod
    def page(record: RunRecord) -> str:
        """What is said, beside what needs no looking inside."""
        from shammie.beliefs.page import monitor_page

        return monitor_page(record)


@dataclass(frozen=True)
class BeliefsReport:
    """The three claims clause by clause, from the runs of settings, intervene and monitor of one model."""

    runs: Runs
    """The --output-dir of each run."""
    output_dir: Path | None = None
    """Directory of the report; thrown away when not given."""
    resume: bool = False
    """Continue a report that was stopped."""
    dry_run: bool = False
    """Say what there is to report on, and stop."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ShammieError("name at least one run of beliefs settings, intervene or monitor")

    def prepare(self) -> Task:
        """Read the runs."""
        from shammie.beliefs.verdict import prepare_report

        return prepare_report(self)

    @staticmethod
    def page(record: RunRecord) -> str:
        """The verdict, then what it rests on."""
        from shammie.beliefs.page import report_page

        return report_page(record)
