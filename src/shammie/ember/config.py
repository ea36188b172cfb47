"""The room's commands; nothing that computes is imported before a command is prepared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes

from shammie.core.errors import RunError, ShammieError
from shammie.core.fields import Dtype, ModelName
from shammie.core.task import Task
from shammie.ember.settings import Attack, EmberSettings, Format, RelearnSettings

if TYPE_CHECKING:
    from shammie.core.judge import Judge
    from shammie.core.model import LanguageModel
    from shammie.core.run import Run, RunRecord
    from shammie.ember.measure import Bench
    from shammie.ember.pack import ConceptPack


@dataclass(frozen=True)
class EmberErase:
    """Erase a concept from a model: a weight patch, a report, and on request a plain checkpoint."""

    model: ModelName
    """Hub id, directory, GGUF file or bundled name."""
    concept: str
    """A concept pack (JSON), or the name of a shipped one: ancient-egypt, honeybees."""
    output_dir: Path
    """Directory of the run; the patch is saved in its artifacts."""
    checkpoint: Path | None = None
    """Also write the erased model as a plain Hugging Face checkpoint here."""
    ember: bool = True
    """Take the concept out of the token embeddings."""
    method: str | None = None
    """Eraser to apply on top: graddiff, npo, rmu, elm or snmf."""
    cells: int = 3
    """Cells of that eraser's grid to choose among on the validation split, at most 6."""
    deltas: tuple[float, ...] = (0.5, 1.0, 2.0, 5.0, 10.0, 50.0, 100.0, 200.0)
    """Strengths of EMBER to choose among on the validation split; the paper's."""
    tied: Literal["input", "both"] = "input"
    """In a model that ties its embeddings, change the input alone (and untie them) or both."""
    recipe: str | None = None
    """Settings of the paper by name, gemma-2-2b or llama-3.1-8b, instead of those below."""
    formats: tuple[Format, ...] = ("choice", "open", "cloze")
    """How the test questions are put."""
    judge: str | None = None
    """Judge of features and open answers: URL#MODEL of an endpoint, or a model to load; aliases decide without one."""
    allow_leaks: bool = False
    """Go on with a pack whose parts share questions or sentences."""
    limit: int | None = None
    """At most this many questions and texts of each kind, for a quick look."""
    seed: int = 0
    """Seed of factorizations, training and bootstraps."""
    device: str | None = None
    """Where to run, such as cpu or cuda."""
    dtype: Dtype = "float32"
    """What the weights are loaded as; erasers that train need float32."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say how much there is to do, and stop."""
    settings: OmitArgPrefixes[EmberSettings] = field(default_factory=EmberSettings)
    """How the concept is found."""

    def __post_init__(self) -> None:
        if not self.deltas or min(self.deltas) <= 0:
            raise ShammieError("--deltas must be above 0; a strength of 0 changes nothing")
        if not self.ember and self.method is None:
            raise ShammieError("there is nothing to do: leave --ember on or name a --method")
        if self.recipe is not None and self.settings != EmberSettings():
            raise ShammieError("--recipe brings its own settings; leave the others out, or the recipe")

    def prepare(self) -> Task:
        """Load and check the pack and the model."""
        from shammie.ember.erasers import cells
        from shammie.ember.recipes import recipe

        settings = self.settings if self.recipe is None else recipe(self.recipe)
        _refuse_full(self.checkpoint, self.resume)
        grid = len(cells(self.method, self.cells)) if self.method else 0
        pack = _pack(self.concept, self.allow_leaks)
        bench = _bench(self, pack)
        states = 2 + bool(self.ember) * (len(self.deltas) + 1) + grid

        def execute(run: Run) -> int:
            from shammie.ember.erase import Erasure

            erasure = Erasure(
                bench, settings if self.ember else None, self.deltas, self.tied, self.method, self.cells, self.seed,
                run, self.resume,
            )  # fmt: skip
            patch = erasure.carry_out()
            if self.checkpoint is not None and not self.checkpoint.exists():
                patch.export(bench.model, self.checkpoint)
            return 0

        return Task(_inputs(bench), lambda: _estimate(bench, states, grid), execute)

    @staticmethod
    def page(record: RunRecord) -> str:
        """The report of an erasure."""
        from shammie.ember.page import erase_page

        return erase_page(vars(record))


@dataclass(frozen=True)
class EmberEvaluate:
    """Measure what a patch has erased: efficacy, specificity, coherence, and where it costs."""

    model: ModelName
    """The model that the patch was made for."""
    concept: str
    """A concept pack (JSON), or the name of a shipped one."""
    patch: Path
    """Directory of a saved weight patch, of this or any other method."""
    output_dir: Path
    """Directory of the run."""
    formats: tuple[Format, ...] = ("choice", "open", "cloze")
    """How the test questions are put."""
    judge: str | None = None
    """Judge of open answers: URL#MODEL of an endpoint, or a model to load."""
    allow_leaks: bool = False
    """Go on with a pack whose parts share questions or sentences."""
    limit: int | None = None
    """At most this many questions and texts of each kind."""
    seed: int = 0
    """Seed of bootstraps."""
    device: str | None = None
    """Where to run, such as cpu or cuda."""
    dtype: Dtype = "float32"
    """What the weights are loaded as."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say how much there is to do, and stop."""

    def prepare(self) -> Task:
        """Load the pack, the model and the patch."""
        from shammie.core.patch import WeightPatch

        patch = WeightPatch.from_pretrained(self.patch)
        bench = _bench(self, _pack(self.concept, self.allow_leaks))

        def execute(run: Run) -> int:
            from shammie.ember.measure import compare_patch

            compare_patch(bench, patch, run)
            return 0

        return Task({**_inputs(bench), "patch": patch.hash}, lambda: _estimate(bench, 2, 0), execute)


@dataclass(frozen=True)
class EmberAttack:
    """Try to bring an erased concept back: by relearning, and by other prompts."""

    model: ModelName
    """The model that the patch was made for."""
    concept: str
    """A concept pack (JSON), or the name of a shipped one."""
    patch: Path
    """Directory of the saved weight patch."""
    output_dir: Path
    """Directory of the run."""
    kinds: tuple[Attack, ...] = ("full", "lora", "paraphrase", "typos", "splits", "hints")
    """Relearning with all weights or adapters, and questions in other words, misspelt, split or after hints."""
    seeds: int = 3
    """Repetitions of relearning, each with its own order and adapters."""
    allow_leaks: bool = False
    """Go on with a pack whose parts share questions or sentences."""
    limit: int | None = None
    """At most this many questions of each kind."""
    seed: int = 0
    """First seed."""
    device: str | None = None
    """Where to run, such as cpu or cuda."""
    dtype: Dtype = "float32"
    """What the weights are loaded as; relearning needs float32."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say how much there is to do, and stop."""
    attack: OmitArgPrefixes[RelearnSettings] = field(default_factory=RelearnSettings)
    """How relearning goes."""

    def __post_init__(self) -> None:
        if self.seeds < 1 or not self.kinds:
            raise ShammieError("--seeds must be at least 1, and --kinds must name an attack")

    def prepare(self) -> Task:
        """Load the pack, the model and the patch."""
        from shammie.core.patch import WeightPatch
        from shammie.ember.attack import attack, attack_keys
        from shammie.ember.relearn import attack_paragraphs

        patch = WeightPatch.from_pretrained(self.patch)
        pack = _pack(self.concept, self.allow_leaks)
        attack_paragraphs(pack, self.attack)
        bench = _bench(self, pack)

        def execute(run: Run) -> int:
            attack(bench, patch, self, run)
            return 0

        states = len(attack_keys(self)) * (1 + self.attack.points)
        return Task({**_inputs(bench), "patch": patch.hash}, lambda: _estimate(bench, states, 0), execute)

    @staticmethod
    def page(record: RunRecord) -> str:
        """The report of an attack."""
        from shammie.ember.page import attack_page

        return attack_page(vars(record))


@dataclass(frozen=True)
class EmberCheck:
    """Count what a concept pack holds and list its leaks; exits with 1 when there are any."""

    concept: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CONCEPT")]
    """A concept pack (JSON), or the name of a shipped one."""
    output_dir: Path | None = None
    """Directory of the run; thrown away when not given."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Only say how much the pack holds."""

    def prepare(self) -> Task:
        """Read the pack."""
        from shammie.ember.pack import counts, find_leaks, load_pack

        pack = load_pack(self.concept)
        leaks = find_leaks(pack)

        def execute(run: Run) -> int:
            for key in run.pending(["check"]):
                lines = [{"kind": "leak", "where": leak.where, "text": leak.text} for leak in leaks]
                run.record(
                    key, [{"kind": "pack", "concept": pack.concept, **counts(pack), "leaks": len(leaks)}, *lines]
                )
            return int(bool(leaks))

        return Task({"pack": pack.sha256}, lambda: counts(pack), execute)


@dataclass(frozen=True)
class EmberConvert:
    """Turn the paper's layout of a concept into a concept pack."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """JSON with concept, sentences, multiple_choice, open and relearn_paragraphs."""
    output: Path
    """The pack to write."""
    neutral: Path | None = None
    """JSON list of neutral sentences; the last 80 are held out for coherence. The shipped ones serve without it."""
    drop_leaks: bool = False
    """Keep each repeated question once, and no paragraph that shares a sentence with the erasure's."""
    output_dir: Path | None = None
    """Directory of the run; thrown away when not given."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Only say how much the pack would hold."""

    def prepare(self) -> Task:
        """Read the source."""
        from shammie.ember.convert import convert_pack
        from shammie.ember.pack import counts, find_leaks, save_pack, without_leaks

        if self.output.exists() and not self.resume:
            raise RunError(f"{self.output} already exists; choose another --output")
        pack = convert_pack(self.source, self.neutral)
        pack = without_leaks(pack) if self.drop_leaks else pack

        def execute(run: Run) -> int:
            for key in run.pending(["convert"]):
                save_pack(pack, self.output)
                run.record(
                    key, {"kind": "pack", "concept": pack.concept, **counts(pack), "leaks": len(find_leaks(pack))}
                )
            return 0

        return Task({}, lambda: counts(pack), execute)


# -- what the commands share -------------------------------------------------------------------------------------------


def _refuse_full(directory: Path | None, resume: bool) -> None:
    if directory is not None and directory.exists() and not resume:
        raise RunError(f"{directory} already exists; choose another --checkpoint")


def _pack(source: str, allow_leaks: bool) -> ConceptPack:
    from shammie.ember.pack import load_pack, refuse_leaks

    pack = load_pack(source)
    refuse_leaks(pack, allow=allow_leaks)
    return pack


def _bench(config: EmberErase | EmberEvaluate | EmberAttack, pack: ConceptPack) -> Bench:
    from shammie.core.model import load
    from shammie.ember.measure import Bench

    if config.limit is not None and config.limit < 2:
        raise ShammieError("--limit must be at least 2, so that there is something to compare")
    model: LanguageModel = load(config.model, device=config.device, dtype=config.dtype)
    formats: tuple[Format, ...] = getattr(config, "formats", ("choice",))
    return Bench(model, pack, formats, config.seed, config.limit, _judge(getattr(config, "judge", None)))


def _judge(source: str | None) -> Judge | None:
    if source is None:
        return None
    from shammie.core.backends import BackendCompleter, backend_for
    from shammie.core.judge import Judge as _Judge

    return _Judge(BackendCompleter(backend_for(source)))


def _inputs(bench: Bench) -> dict[str, Any]:
    return {"model": bench.model.hash, "pack": bench.pack.sha256, "concept": bench.pack.concept}


def _estimate(bench: Bench, states: int, trainings: int) -> Mapping[str, Any]:
    """Counts, and time from asking a few questions twice."""
    import time

    from shammie.ember.evaluate import ask

    few = 3
    times = []
    for _ in range(2):
        start = time.perf_counter()
        ask(bench.model, bench.pack, "validation", ("choice",), limit=few)
        times.append(time.perf_counter() - start)
    questions = sum(len(own[: bench.limit]) for own in bench.pack.asked("validation").values())
    minutes = times[-1] / (3 * few) * questions * states / 60
    weights = sum(parameter.numel() * parameter.element_size() for parameter in bench.model.module.parameters())
    return {
        "states of the model to ask": states,
        "questions each": questions,
        "trainings": trainings,
        "memory": f"{weights / 2**30:.1f} GiB of weights, four times as much where all are trained",
        "disk": f"at most {weights * (trainings + 1) / 2**30:.1f} GiB",
        "time": f"about {max(1, round(minutes))} minutes of asking, and the trainings",
    }
