"""shammie apply."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from shammie.cli.console import facts, say
from shammie.core.fields import Dtype, ModelName


@dataclass(frozen=True)
class Apply:
    """Write a patched model as a plain Hugging Face checkpoint that needs no shammie to be loaded."""

    patch: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PATCH")]
    """Directory of a saved weight patch."""
    model: ModelName
    """The model it was made for: Hub id, directory, GGUF file or bundled name."""
    output: Path
    """Directory of the new checkpoint; must be empty or not there."""
    any_model: bool = False
    """Apply the patch to other weights than those it was made for."""
    device: str | None = None
    """Where to work, such as cpu or cuda."""
    dtype: Dtype = "auto"
    """Dtype of the checkpoint; auto keeps the stored one."""

    def run(self) -> int:
        """Load, apply, write."""
        from transformers.utils.logging import disable_progress_bar

        from shammie.cli.models import open_model
        from shammie.core.errors import RunError
        from shammie.core.patch import WeightPatch

        if self.output.exists() and (not self.output.is_dir() or any(self.output.iterdir())):
            raise RunError(f"{self.output} already exists and is not empty; choose another --output")
        patch = WeightPatch.from_pretrained(self.patch)
        model = open_model(self.model, device=self.device, dtype=self.dtype)
        disable_progress_bar()
        patch.export(model, self.output, any_model=self.any_model)
        changed = sorted({delta.target.parameter for delta in patch.deltas})
        say(facts({"patch": patch.hash[:12], "changed": ", ".join(changed), "checkpoint": self.output}))
        return 0
