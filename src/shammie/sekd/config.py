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
from shammie.sekd.settings import DistillSettings, SampleSignal, recipe

if TYPE_CHECKING:
    from shammie.core.run import RunRecord

StudentName = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STUDENT")]
TeacherName = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TEACHER")]


@dataclass(frozen=True)
class SekdScore:
    """Read all windows of a text once and choose those that are worth distilling on."""

    student: StudentName
    """Hub id, directory, GGUF file or bundled name of the student before training."""
    texts: Path
    """.txt (a text a line), .jsonl or .parquet with a field `text`, or hf:owner/name[:split]."""
    output_dir: Path
    """Directory of the run; the choice is read from it by the other commands."""
    signal: SampleSignal = "student_entropy"
    """What scores a window: the mean over its valid positions; random is the control."""
    keep: float = 0.2
    """Share of the windows that is kept."""
    teacher: str | None = None
    """The teacher, for signals that read it."""
    window: int = 512
    """Tokens of a window."""
    limit: int | None = None
    """Read only the first texts."""
    batch_size: int = 8
    """Windows read at once."""
    seed: int = 0
    """Of random."""
    device: str | None = None
    """Where to run, such as cpu or cuda."""
    dtype: Dtype = "auto"
    """Dtype to run in; bfloat16 is faster where the processor has it."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say how many windows and minutes it would take, and stop."""

    def prepare(self) -> Task:
        """Load the models and cut the texts."""
        from shammie.sekd.scoring import prepare_score

        if not 0 < self.keep <= 1 or self.batch_size < 1:
            raise ShammieError(f"--keep must be above 0 and at most 1, but is {self.keep}; --batch-size at least 1")
        return prepare_score(self)


@dataclass(frozen=True)
class SekdCache:
    """Write what a teacher says of a text to disk, on few classes, so that students train without it."""

    teacher: TeacherName
    """Hub id, directory, GGUF file or bundled name."""
    texts: Path
    """.txt (a text a line), .jsonl or .parquet with a field `text`, or hf:owner/name[:split]."""
    output_dir: Path
    """Directory of the run."""
    samples: Path | None = None
    """The --output-dir of `sekd score`: only the windows it chose."""
    draws: int = 50
    """Classes drawn at each position, with replacement."""
    temperature: float = 1.0
    """Of the teacher's distribution; the student must train at the same."""
    statistics: tuple[str, ...] = ()
    """Also kept of each position, 2 bytes each, for signals that read the teacher: teacher_entropy, teacher_ce."""
    window: int = 512
    """Tokens of a window."""
    limit: int | None = None
    """Read only the first texts."""
    windows_per_shard: int = 64
    """Windows in one file."""
    batch_size: int = 4
    """Windows read at once."""
    cache: Path | None = None
    """Directory of the cache, where several processes write one; by default artifacts/cache of the run."""
    part: str = "1/1"
    """Which part of the shards this process writes, such as 2/4; each has its own --output-dir and the same --cache."""
    seed: int = 0
    """Of the draws."""
    device: str | None = None
    """Where to run, such as cpu or cuda."""
    dtype: Dtype = "auto"
    """Dtype to run in."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say how many positions, bytes and minutes it would take, and stop."""

    def prepare(self) -> Task:
        """Load the teacher and cut the texts."""
        from shammie.sekd.caching import prepare_cache

        return prepare_cache(self)


@dataclass(frozen=True)
class SekdTrain:
    """Distil a teacher, or a cache of one, into a student; the result is a plain Hugging Face checkpoint."""

    student: StudentName
    """Hub id, directory, GGUF file or bundled name; `sekd shrink` makes one from the teacher."""
    texts: Path
    """.txt (a text a line), .jsonl or .parquet with a field `text`, or hf:owner/name[:split]."""
    output_dir: Path
    """Directory of the run; the student goes to artifacts/student in it."""
    teacher: str | None = None
    """The teacher to run beside the student; beside --cache it must be the cache's, and only measures."""
    cache: Path | None = None
    """The --output-dir of `sekd cache` or its --cache, to train without running the teacher."""
    samples: Path | None = None
    """The --output-dir of `sekd score`: only the windows it chose."""
    recipe: str | None = None
    """Settings of distillation by name: full-kd, random-20, se-kd, rs-kd, se-kd-3x."""
    window: int = 512
    """Tokens of a window."""
    limit: int | None = None
    """Read only the first texts."""
    held_out: int = 16
    """Last windows of the text, never trained on, on which the student is measured before and after."""
    lora_rank: int = 0
    """Train adapters of this rank and merge them; 0 trains all weights."""
    checkpointing: bool = False
    """Compute the student's activations twice instead of keeping them."""
    teacher_dtype: Dtype = "auto"
    """Dtype that the teacher runs in."""
    tracker: str | None = None
    """Send each step's numbers to tensorboard, wandb, trackio or another of accelerate's trackers too."""
    device: str | None = None
    """Where to run, such as cpu or cuda."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say how many windows, tokens and bytes it would take, and stop."""
    distill: OmitArgPrefixes[DistillSettings] = field(default_factory=DistillSettings)
    """Where to distil."""
    training: OmitArgPrefixes[TrainSettings] = field(default_factory=TrainSettings)
    """How to train."""

    def prepare(self) -> Task:
        """Load student and teacher or cache, and cut the texts."""
        from shammie.sekd.distilling import prepare_train

        if self.teacher is None and self.cache is None:
            raise ShammieError("a student learns from a teacher or a cache of one; give --teacher or --cache")
        if self.recipe is not None and self.distill != DistillSettings():
            raise ShammieError("--recipe brings its own settings; leave the others out, or the recipe")
        if self.lora_rank < 0 or self.held_out < 0:
            raise ShammieError("--lora-rank and --held-out must not be negative")
        return prepare_train(self)

    @property
    def distillation(self) -> DistillSettings:
        """The recipe's settings, or those given one by one."""
        return recipe(self.recipe) if self.recipe else self.distill

    @staticmethod
    def page(record: RunRecord) -> str:
        """The run's page from its records."""
        from shammie.sekd.page import train_page

        return train_page(record)


@dataclass(frozen=True)
class SekdShrink:
    """Make a student of some of a model's layers with its embeddings, norms and head, as a plain Hugging Face checkpoint."""

    model: ModelName
    """Hub id, directory, GGUF file or bundled name."""
    output_dir: Path
    """Directory of the run; the student goes to artifacts/student in it."""
    layers: int | None = None
    """How many layers to keep: the first half of them and the last half."""
    keep: tuple[int, ...] = ()
    """The layers to keep, by number from 0, instead of a count."""
    device: str | None = None
    """Where to work, such as cpu or cuda."""
    dtype: Dtype = "auto"
    """Dtype of the checkpoint; auto keeps the stored one."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say which layers are kept, how many parameters that leaves and how much disk they take, and stop."""

    def prepare(self) -> Task:
        """Load the model and check the choice of layers."""
        from shammie.sekd.shrink import prepare_shrink

        if (self.layers is None) == (not self.keep):
            raise ShammieError("give either --layers, a count, or --keep, the numbers of the layers")
        return prepare_shrink(self)


@dataclass(frozen=True)
class SekdEvaluate:
    """Measure a student: how far it is from its teacher, what it knows, how sure it is, how it follows instructions."""

    student: StudentName
    """Hub id, directory, GGUF file or bundled name."""
    teacher: str | None = None
    """The teacher, for divergences over the texts."""
    ask_teacher: bool = False
    """Put everything but the texts to the teacher too."""
    texts: Path | None = None
    """Running text for perplexity and divergences: .txt, .jsonl or .parquet with a field `text`, or hf:owner/name[:split]."""
    window: int = 512
    """Tokens of a window of text."""
    last_words: Path | None = None
    """Passages without their last word: .jsonl or .parquet with the fields text and answer (the layout of LAMBADA)."""
    choices: tuple[Path, ...] = ()
    """Sets of questions with the fields question, choices and answer (an index from 0, a letter from A or a choice's text)."""
    instructions: bool = False
    """Instructions of the package whose following is checked by rule."""
    harness: tuple[str, ...] = ()
    """Tasks of lm-evaluation-harness, such as arc_easy or gsm8k, run on the stored checkpoint; their data come from the Hub."""
    limit: int | None = None
    """Only the first texts and questions of each kind."""
    seed: int = 0
    """Of the intervals."""
    device: str | None = None
    """Where to run, such as cpu or cuda."""
    dtype: Dtype = "auto"
    """Dtype that the models run in; probabilities are float32 always."""
    output_dir: Path | None = None
    """Directory of the run; by default the figures are only printed."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say how much there is to measure and how long it would take, and stop."""

    def prepare(self) -> Task:
        """Load the models and what they are asked."""
        from shammie.sekd.evaluate import prepare_evaluate

        if self.ask_teacher and self.teacher is None:
            raise ShammieError("--ask-teacher needs --teacher")
        if self.teacher is not None and self.texts is None and not self.ask_teacher:
            raise ShammieError("--teacher has nothing to do here; give --texts, or --ask-teacher")
        if self.limit is not None and self.limit < 1:
            raise ShammieError(f"--limit must be at least 1, but is {self.limit}")
        return prepare_evaluate(self)

    @staticmethod
    def page(record: RunRecord) -> str:
        """The run's page from its records."""
        from shammie.sekd.page import evaluate_page

        return evaluate_page(record)
