"""The commands of the room, one frozen dataclass each."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import OmitArgPrefixes

from shammie.core.errors import ShammieError
from shammie.core.fields import Dtype
from shammie.core.task import Task
from shammie.recall.settings import RecallSettings, SwitchSettings

if TYPE_CHECKING:
    from shammie.core.run import RunRecord

Runs = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
OneRun = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


@dataclass(frozen=True)
class RecallRun:
    """Ask every question many times with reasoning, without, and with other things in reasoning's place."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Hub id, directory, GGUF file, bundled name, vllm:MODEL, or URL#MODEL of an OpenAI-compatible server."""
    output_dir: Path
    """Directory of the run."""
    questions: str = "geonames:countries"
    """geonames:countries or geonames:cities; .jsonl, .parquet or hf:owner/name[:split] with question and answers; .csv of
    SimpleQA; .json of TriviaQA or EntityQuestions, or a directory of the latter."""
    limit: int | None = None
    """At most this many questions, drawn by the seed."""
    relations: tuple[str, ...] = ()
    """Only questions of these relations."""
    knowledge: str | None = None
    """What is true, to check facts by: geonames: or a .jsonl of subject, relation, objects."""
    judge: str | None = None
    """A model that says what is a fact and, where `knowledge` is silent, whether it is true; written as MODEL."""
    tokenizer: str | None = None
    """Whose tokenizer a server's prompts are built with: Hub id, directory or bundled name."""
    rows: int = 64
    """Completions in one batch; a killed run repeats at most one item of about as many."""
    device: str | None = None
    """Where to run, such as cpu or cuda."""
    dtype: Dtype = "auto"
    """Dtype to run in; auto keeps the stored one."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say how much there is to sample, and stop."""
    settings: OmitArgPrefixes[RecallSettings] = field(default_factory=RecallSettings)
    """How questions are asked."""
    switch: SwitchSettings = field(default_factory=SwitchSettings)
    """How reasoning is switched on and off."""

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ShammieError("--rows must be at least 1")

    def prepare(self) -> Task:
        """Open the backend and the questions."""
        from shammie.recall.running import prepare_run

        return prepare_run(self)

    @staticmethod
    def page(record: RunRecord) -> str:
        """Accuracy by condition, so far."""
        from shammie.recall.page import run_page

        return run_page(record)


@dataclass(frozen=True)
class RecallReport:
    """Does reasoning help, is it the computation or the facts, do false facts hurt, what would filtering gain."""

    runs: Runs
    """The --output-dir of one run, or of several models to compare."""
    output_dir: Path | None = None
    """Directory of the report; thrown away when not given."""
    ks: tuple[int, ...] = ()
    """The k of pass@k that are shown; powers of two and the number of samples unless given."""
    seed: int = 0
    """Of the intervals."""
    resume: bool = False
    """Continue a report that was stopped."""
    dry_run: bool = False
    """Say what there is to report on, and stop."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ShammieError("name at least one run, the --output-dir of shammie recall run")

    def prepare(self) -> Task:
        """Read the runs."""
        from shammie.recall.reporting import prepare_report

        return prepare_report(self)

    @staticmethod
    def page(record: RunRecord) -> str:
        """The four answers in pictures."""
        from shammie.recall.page import report_page

        return report_page(record)


@dataclass(frozen=True)
class RecallSelect:
    """Answer each question by vote among its samples: all, those with facts, or those whose facts are not false."""

    run: OneRun
    """The --output-dir of a run."""
    output_dir: Path | None = None
    """Directory of the answers; thrown away when not given."""
    seed: int = 0
    """Of the intervals."""
    resume: bool = False
    """Continue a selection that was stopped."""
    dry_run: bool = False
    """Say what there is to select from, and stop."""

    def prepare(self) -> Task:
        """Read the run."""
        from shammie.recall.reporting import prepare_select

        return prepare_select(self)
