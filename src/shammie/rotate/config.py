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
from shammie.rotate.settings import Part, RotateSettings

if TYPE_CHECKING:
    from shammie.core.run import RunRecord

RunName = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


@dataclass(frozen=True)
class Fit:
    """Take the neurons of a model's MLPs apart into channels, from their weights alone."""

    model: ModelName
    """Hub id, directory, GGUF file or bundled name."""
    layers: str
    """Layers: 12, 3:6 (without 6), several separated by commas, or all."""
    output_dir: Path
    """Directory of the run; channels go to artifacts/ in it."""
    neurons: str = "all"
    """Neurons of each layer: 5, 0:200, several separated by commas, or all."""
    part: str = "gate,in,out"
    """Parts of each neuron, separated by commas; MLPs of two matrices have no gate."""
    recipe: str | None = None
    """Settings by name, such as gemma-2-2b (the paper's), instead of those below."""
    shard: int = 128
    """Neurons in one item of work; what a killed run repeats at most."""
    device: str | None = None
    """Where to run, such as cpu or cuda."""
    dtype: Dtype = "auto"
    """What weights are loaded as; the search itself is in float32."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say how long it would take and how much memory and disk, and stop."""
    settings: OmitArgPrefixes[RotateSettings] = field(default_factory=RotateSettings)
    """How to take neurons apart."""

    def prepare(self) -> Task:
        """Load the model and check what is asked for."""
        from shammie.rotate.fitting import prepare_fit

        if self.recipe is not None and self.settings != RotateSettings():
            raise ShammieError("--recipe brings its own settings; leave the others out, or the recipe")
        if self.shard < 1:
            raise ShammieError("--shard must be at least 1")
        return prepare_fit(self)

    @staticmethod
    def page(record: RunRecord) -> str:
        """The run's page from its records."""
        from shammie.rotate.page import fit_page

        return fit_page(record)


@dataclass(frozen=True)
class Describe:
    """Say what neurons are about, from the channels of a fit that noise does not reach."""

    fit: RunName
    """The --output-dir of a fit."""
    layer: int | None = None
    """Only this layer."""
    neurons: str = "all"
    """Only these neurons: 5, 0:200, several separated by commas."""
    part: str = "gate,in,out"
    """Only these parts."""
    insignificant: bool = False
    """Show also the channels that noise reaches."""
    judge: str | None = None
    """A model that writes a sentence on each neuron: URL#MODEL, vllm:MODEL, or what load takes."""
    output_dir: Path | None = None
    """Directory of the run; by default the answers are only printed."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say how many neurons would be described, and stop."""

    def prepare(self) -> Task:
        """Read the fit."""
        from shammie.rotate.describe import prepare_describe

        return prepare_describe(self)


@dataclass(frozen=True)
class Find:
    """Find the neurons and channels of a model that speak of a token or concept."""

    model: ModelName
    """Hub id, directory, GGUF file or bundled name."""
    concept: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CONCEPT")]
    """A word, or several that name one concept, separated by commas."""
    fit: Path | None = None
    """The --output-dir of a fit of this model, whose channels are searched too."""
    part: str = "gate,in,out"
    """Parts of the neurons to search; a gate is left out where there is none."""
    top: int = 20
    """Neurons and channels to show at most."""
    insignificant: bool = False
    """Show also what noise reaches."""
    fold_norm: bool = False
    """Multiply the norms' scales into the weights."""
    device: str | None = None
    """Where to run, such as cpu or cuda."""
    dtype: Dtype = "auto"
    """What weights are loaded as."""
    output_dir: Path | None = None
    """Directory of the run; by default the answers are only printed."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say how many neurons would be searched, and stop."""

    def prepare(self) -> Task:
        """Load the model and read the concept's tokens."""
        from shammie.rotate.find import prepare_find

        if self.top < 1:
            raise ShammieError("--top must be at least 1")
        return prepare_find(self)


@dataclass(frozen=True)
class Ablate:
    """Remove one channel from one neuron: a weight patch for `shammie apply` and `shammie chat`."""

    fit: RunName
    """The --output-dir of a fit."""
    layer: int
    """The neuron's layer."""
    neuron: int
    """The neuron."""
    part: Part
    """Its part."""
    output_dir: Path
    """Directory of the run; the patch goes to artifacts/patch in it."""
    channel: int = 0
    """The channel to remove."""
    model: str | None = None
    """The model, where it is no longer under the name that was fitted."""
    device: str | None = None
    """Where to run, such as cpu or cuda."""
    dtype: Dtype = "auto"
    """What weights are loaded as."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say what would be removed, and stop."""

    def prepare(self) -> Task:
        """Load the channels and the model they were found in."""
        from shammie.rotate.ablate import prepare_ablate

        return prepare_ablate(self)
