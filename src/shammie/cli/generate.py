"""shammie generate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import OmitArgPrefixes

from shammie.core.decoding import GenerationSettings
from shammie.core.fields import Dtype, ModelName
from shammie.core.task import Task

if TYPE_CHECKING:
    from shammie.core.generate import Completion
    from shammie.core.model import LanguageModel
    from shammie.core.run import Run


@dataclass(frozen=True)
class Generate:
    """Continue the prompts of a file; one record a completion."""

    model: ModelName
    """Hub id, directory, GGUF file or bundled name."""
    prompts: Path
    """.jsonl or .parquet with a field `prompt`, or hf:owner/name[:split]."""
    output_dir: Path
    """Directory of the run."""
    chat: bool = False
    """Put each prompt as a user's turn through the model's chat template."""
    patch: Path | None = None
    """Directory of a saved weight patch to have in force."""
    any_model: bool = False
    """Apply the patch to other weights than those it was made for."""
    rows: int = 32
    """Completions in one batch; what a killed run repeats at most."""
    limit: int | None = None
    """Read only the first prompts."""
    device: str | None = None
    """Where to run, such as cpu or cuda."""
    dtype: Dtype = "auto"
    """Dtype to run in; auto keeps the stored one."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say how many tokens and minutes it would take, and stop."""
    settings: OmitArgPrefixes[GenerationSettings] = field(default_factory=GenerationSettings)
    """How to continue."""

    def prepare(self) -> Task:
        """Load the model and the prompts."""
        from shammie.cli.models import open_model
        from shammie.core.data import PromptRecord, load_records
        from shammie.core.errors import ShammieError
        from shammie.core.generate import encode_prompts, plan_generation

        if self.rows < 1:
            raise ShammieError("--rows must be at least 1")
        data = load_records(self.prompts, PromptRecord, limit=self.limit)
        model = open_model(self.model, device=self.device, dtype=self.dtype, patch=self.patch, any_model=self.any_model)
        texts = [record.prompt for record in data.records]
        turns = [[{"role": "user", "content": text}] for text in texts] if self.chat else texts
        prompts = encode_prompts(model, turns, self.settings)
        batches = plan_generation(len(prompts), self.settings, self.rows)
        keyed = {f"batch-{index:05d}": jobs for index, jobs in enumerate(batches)}
        task = _Task(model, prompts, keyed, self.settings)
        return Task({"model": model.hash, "data": data.sha256}, task.estimate, task.execute)


@dataclass(frozen=True)
class _Task:
    model: LanguageModel
    prompts: Sequence[Sequence[int]]
    batches: Mapping[str, Sequence[tuple[int, int]]]
    settings: GenerationSettings

    def execute(self, run: Run) -> int:
        from shammie.core.generate import complete

        for key in run.items(list(self.batches), "generate"):
            completions = complete(self.model, self.prompts, self.batches[key], self.settings)
            run.record(key, [_record(completion) for completion in completions])
        return 0

    def estimate(self) -> Mapping[str, Any]:
        """Counts of the whole; time from the first steps of the first batch."""
        from shammie.cli.console import duration, size
        from shammie.cli.models import seconds, weight_bytes
        from shammie.core.generate import complete

        first = next(iter(self.batches.values()))
        probe = min(4, self.settings.max_new_tokens)
        taken = seconds(lambda: complete(self.model, self.prompts, first, replace(self.settings, max_new_tokens=probe)))
        completions = sum(map(len, self.batches.values()))
        return {
            "prompts": len(self.prompts),
            "prompt_tokens": sum(map(len, self.prompts)),
            "completions": completions,
            "batches": len(self.batches),
            "new_tokens": f"at most {completions * self.settings.max_new_tokens:,}",
            "memory": f"{size(weight_bytes(self.model))} of weights",
            "time": f"at most about {duration(taken / probe * self.settings.max_new_tokens * len(self.batches))} "
            f"on {self.model.device}",
        }


def _record(completion: Completion) -> dict[str, Any]:
    score = completion.log_probability
    return {
        "prompt": completion.prompt,
        "sample": completion.sample,
        "text": completion.text,
        "reasoning": completion.reasoning,
        "answer": completion.answer,
        "finish": completion.finish,
        "tokens": len(completion.tokens),
        "log_probability": None if score is None else round(score, 4),
    }
