"""lm-evaluation-harness over a checkpoint: its tasks, its metrics, as records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shammie.core import files
from shammie.core.errors import BackendError
from shammie.core.model import LanguageModel

Record = dict[str, Any]


def run_tasks(
    model: LanguageModel,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    device: str | None = None,
    dtype: str = "auto",
) -> list[Record]:
    """One record for each of lm-eval's tasks or groups: its metrics, zero-shot unless the task says otherwise.

    lm-eval loads the model's checkpoint itself, so edits in memory do not count. Tasks are such as arc_easy, hellaswag,
    piqa, gsm8k or lambada_openai; their data come from the Hub.

    Errors: BackendError when lm-eval is not installed or cannot carry out a task.
    """
    checkpoint = str(model.source or model.name)
    return [{"metrics": run_task(checkpoint, task, limit=limit, device=device, dtype=dtype)} for task in tasks]


def flatten(records: Sequence[Record]) -> list[Record]:
    """Every metric of every task as a record: task, metric, value, stderr, n."""
    return [{"kind": "harness", **metric} for record in records for metric in record["metrics"]]


def run_task(
    checkpoint: str, task: str, *, limit: int | None = None, device: str | None = None, dtype: str = "auto"
) -> list[Record]:
    """Metrics of a checkpoint (a directory or Hub id) on one task, and on those below it where it is a group."""
    lm_eval = files.package("lm_eval", "bench")
    arguments = {"pretrained": checkpoint, "dtype": dtype, "trust_remote_code": False}
    try:
        found = lm_eval.simple_evaluate(
            model="hf", model_args=arguments, tasks=[task], limit=limit, device=device, batch_size=8, log_samples=False,
        )  # fmt: skip
    except Exception as error:  # lm-eval raises everything from KeyError to datasets' own
        reason = " ".join(str(error).split())[:240] or type(error).__name__
        raise BackendError(
            f"lm-eval cannot carry out the task {task!r} ({reason}); check its name and the network"
        ) from error
    return [record for name, metrics in sorted(found["results"].items()) for record in _metrics(name, metrics, found)]


def _metrics(task: str, metrics: Mapping[str, Any], found: Mapping[str, Any]) -> list[Record]:
    """Entries are `metric,filter`, and `metric_stderr,filter` beside them; a group holds no samples of its own."""
    samples = found.get("n-samples", {}).get(task, {}).get("effective")
    records = []
    for entry, value in metrics.items():
        metric, comma, chosen = entry.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = metrics.get(f"{metric}_stderr,{chosen}")
        name = metric if chosen == "none" else f"{metric} ({chosen})"
        stderr = error if isinstance(error, int | float) else None  # "N/A" where there is none
        records.append({"task": task, "metric": name, "value": value, "stderr": stderr, "n": samples})
    return records
