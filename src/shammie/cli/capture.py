"""shammie capture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from shammie.core.fields import Dtype, ModelName
from shammie.core.task import Task

if TYPE_CHECKING:
    from shammie.core.harvest import Harvest
    from shammie.core.run import Run


@dataclass(frozen=True)
class Capture:
    """Write a model's inner states over the texts of a file, as safetensors shards with a token map."""

    model: ModelName
    """Hub id, directory, GGUF file or bundled name."""
    texts: Path
    """.txt (a text a line), .jsonl or .parquet with a field `text`, or hf:owner/name[:split]."""
    sites: str
    """Sites separated by spaces, such as "residual:15 mlp_out:*"; * is every layer."""
    output_dir: Path
    """Directory of the run; the states go to artifacts/states in it."""
    positions: str = "all"
    """Tokens to keep: all, last, a position such as 4 or -2, or a span such as 3:6."""
    skip_first: int = 0
    """Drop this many tokens from the front of each text, such as an attention sink."""
    max_tokens: int = 512
    """Texts are cut after this many tokens."""
    texts_per_shard: int = 256
    """Texts in one file; what a killed run repeats at most."""
    store_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Dtype on disk; None keeps that of the model."""
    limit: int | None = None
    """Read only the first texts."""
    device: str | None = None
    """Where to run, such as cpu or cuda."""
    dtype: Dtype = "auto"
    """Dtype to run in; auto keeps the stored one."""
    resume: bool = False
    """Continue a run that was stopped."""
    dry_run: bool = False
    """Say how many tokens, bytes and minutes it would take, and stop."""

    def prepare(self) -> Task:
        """Load the model and the texts."""
        from shammie.cli.models import open_model
        from shammie.core.data import TextRecord, load_records
        from shammie.core.errors import ShammieError
        from shammie.core.harvest import Harvest
        from shammie.core.position import parse_positions
        from shammie.core.site import parse_sites

        if min(self.max_tokens, self.texts_per_shard) < 1 or self.skip_first < 0:
            raise ShammieError("--max-tokens and --texts-per-shard must be at least 1, and --skip-first not negative")
        positions = None if self.positions == "all" else parse_positions(self.positions)
        data = load_records(self.texts, TextRecord, limit=self.limit)
        model = open_model(self.model, device=self.device, dtype=self.dtype)
        harvest = Harvest(
            model,
            [record.text for record in data.records],
            parse_sites(self.sites, len(model.anatomy.layers)),
            self.output_dir / "artifacts" / "states",
            positions=positions,
            dtype=self.store_dtype,
            texts_per_shard=self.texts_per_shard,
            max_tokens=self.max_tokens,
            skip_first=self.skip_first,
        )
        inputs = {"model": model.hash, "data": data.sha256}
        return Task(inputs, lambda: _estimate(harvest), lambda run: _execute(harvest, run))


def _execute(harvest: Harvest, run: Run) -> int:
    for key in run.items(harvest.shards, "capture"):
        run.record(key, harvest.write(key))
    if not run.finished:
        harvest.finish()
    return 0


def _estimate(harvest: Harvest) -> Mapping[str, Any]:
    """Counts of the whole; time from a few texts read twice."""
    from shammie.cli.console import duration, size
    from shammie.cli.models import seconds, weight_bytes
    from shammie.core.batch import encode
    from shammie.core.harvest import stream

    expected = harvest.estimate()
    few = list(harvest.texts[:8])
    shard = size(expected["bytes"] / len(harvest.shards))
    tokens = sum(min(len(encode(harvest.model, text)), harvest.max_tokens) for text in few)
    taken = seconds(lambda: list(stream(harvest.model, few, harvest.sites, max_tokens=harvest.max_tokens)))
    return {
        **{name: value for name, value in expected.items() if name != "bytes"},
        "disk": size(expected["bytes"]),
        "memory": f"{size(weight_bytes(harvest.model))} of weights, {shard} a shard",
        "time": f"about {duration(taken / tokens * expected['tokens'])} on {harvest.model.device}",
    }
