"""The commands of the room, one frozen dataclass each."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import OmitArgPrefixes

from shammie.core.errors import ShammieError
from shammie.core.fields import Dtype, ModelName
from shammie.core.schedule import TrainSettings
from shammie.core.task import Task
from shammie.thinking_states.settings import MethodSettings, Shape, ThinkingSettings

if TYPE_CHECKING:
    from shammie.core.run import RunRecord

TaskName = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASK")]
Text = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TEXT")]
Runs = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
SHIPPED = "shipped"
_TRAINING = TrainSettings(steps=2000, batch_size=16, learning_rate=2e-3, warmup=0.05, schedule="cosine", floor=0.05)


@dataclass(frozen=True)
class ThinkingTrain:
    """Teach a model to think while it reads, or a peer to reason its own way; the result is a Hugging Face checkpoint."""

    task: TaskName
    """parity, variables, hops, stories, or a .jsonl, .parquet or .txt file of questions, steps and answers."""
    output_dir: Path
    """Directory of the run; the model goes to artifacts/model in it."""
    model: str | None = None
    """Hub id, directory, GGUF file or bundled name of a model to begin with; by default a small one from scratch."""
    operations: int = 10
    """Most operations of a training problem."""
    problems: int = 100_000
    """Different training problems of a task."""
    judge: str | None = None
    """A model, or an endpoint, that says where in a file's questions each step can be known; by default a rule for sums does."""
    jumps: float | None = None
    """Size of random jumps of positions in training, so that longer texts than those trained on can be read; by default 300 for a
    model from scratch and none for others."""
    check_every: int = 100
    """Steps between checks; training ends when all checked problems are right. 0 checks nothing and trains to the last step."""
    checked: int = 200
    """Problems of a check, as long as those trained on."""
    lengths: tuple[int, ...] = ()
    """Operations of the problems that the model is tested on; by default once, twice, four times and ten times as many."""
    tested: int = 100
    """Problems tested at each length."""
    device: str | None = None
    """Where to run, such as cpu or cuda."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say how many weights and tokens there are, and stop."""
    shape: OmitArgPrefixes[Shape] = field(default_factory=Shape)
    """The model from scratch."""
    thinking: OmitArgPrefixes[ThinkingSettings] = field(default_factory=ThinkingSettings)
    """Where thoughts are made and put back."""
    reasoning: OmitArgPrefixes[MethodSettings] = field(default_factory=MethodSettings)
    """How the model reasons."""
    training: OmitArgPrefixes[TrainSettings] = field(default_factory=lambda: _TRAINING)
    """How to train."""

    def prepare(self) -> Task:
        """Make the model and the problems."""
        from shammie.thinking_states.running import prepare_train

        counts = (self.operations, self.problems, self.checked, self.tested, *self.lengths)
        if min(counts) < 1 or min(self.check_every, self.jumps or 0) < 0:
            raise ShammieError(
                "--operations, --problems, --checked, --tested, --lengths are at least 1, --check-every and --jumps not negative"
            )
        if self.model is not None and self.shape != Shape():
            raise ShammieError(
                "--layers, --width, --heads, --neurons and --window shape a model from scratch; leave them out with --model"
            )
        return prepare_train(self)

    @staticmethod
    def page(record: RunRecord) -> str:
        """The loss, accuracy by length, and some problems with their thoughts."""
        from shammie.thinking_states.page import train_page

        return train_page(record)


@dataclass(frozen=True)
class ThinkingEvaluate:
    """Measure a trained model: accuracy by length, thoughts, what becomes of answers without states, forward passes."""

    model: ModelName
    """artifacts/model of a run of `thinking-states train`, or `shipped`."""
    task: TaskName
    """parity, variables, hops, stories, or a file of questions, steps and answers."""
    lengths: tuple[int, ...] = (10, 20, 40)
    """Operations of the problems."""
    tested: int = 100
    """Problems at each length; of a file, problems in all."""
    seed: int = 0
    """Of the problems."""
    output_dir: Path | None = None
    """Directory of the run; by default the figures are only printed."""
    device: str | None = None
    """Where to run, such as cpu or cuda."""
    dtype: Dtype = "auto"
    """Dtype to run in."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say how much there is to measure, and stop."""

    def prepare(self) -> Task:
        """Load the model and the problems."""
        from shammie.thinking_states.running import prepare_evaluate

        if min(self.tested, *self.lengths, 1) < 1 or not self.lengths:
            raise ShammieError("--tested and --lengths must be at least 1")
        return prepare_evaluate(self)

    @staticmethod
    def page(record: RunRecord) -> str:
        """Accuracy by length, states, passes, and some problems with their thoughts."""
        from shammie.thinking_states.page import evaluate_page

        return evaluate_page(record)


@dataclass(frozen=True)
class ThinkingThink:
    """Read a text and show every thought beside the words that it came after, then the answer."""

    text: Text
    """What is read, in the model's own words."""
    model: str = SHIPPED
    """artifacts/model of a run of `thinking-states train`, or the small model that comes with the package."""
    output_dir: Path | None = None
    """Directory of the run; by default the thoughts are only printed."""
    device: str | None = None
    """Where to run, such as cpu or cuda."""
    dtype: Dtype = "auto"
    """Dtype to run in."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say how many tokens and chunks there are, and stop."""

    def prepare(self) -> Task:
        """Load the model and read the text's words."""
        from shammie.thinking_states.running import prepare_think

        return prepare_think(self)

    @staticmethod
    def page(record: RunRecord) -> str:
        """The text with its thoughts."""
        from shammie.thinking_states.page import think_page

        return think_page(record)


@dataclass(frozen=True)
class ThinkingCompare:
    """Set trainings of one task side by side: accuracy by length, forward passes, thoughts."""

    runs: Runs
    """Output directories of `thinking-states train`."""
    output_dir: Path | None = None
    """Directory of the run; by default the figures are only printed."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say how many runs there are, and stop."""

    def prepare(self) -> Task:
        """Read the runs."""
        from shammie.thinking_states.running import prepare_compare

        return prepare_compare(self)

    @staticmethod
    def page(record: RunRecord) -> str:
        """Accuracy by length of every way to reason, and what an answer costs."""
        from shammie.thinking_states.page import compare_page

        return compare_page(record)
