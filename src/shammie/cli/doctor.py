"""shammie doctor."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shammie.cli.console import facts, say, size, table
from shammie.core.fields import Dtype, ModelName

if TYPE_CHECKING:
    from shammie.core.model import LanguageModel


@dataclass(frozen=True)
class Doctor:
    """Prove on its own weights that shammie reads and edits a model rightly; exits with 1 where an identity fails."""

    model: ModelName
    """Hub id, directory, GGUF file or bundled name."""
    device: str | None = None
    """Where to run, such as cpu or cuda."""
    dtype: Dtype = "auto"
    """Dtype to run in; auto keeps the stored one. float32 proves most sharply."""

    def run(self) -> int:
        """Check and print."""
        from shammie.cli.models import open_model
        from shammie.core.doctor import check

        model = open_model(self.model, device=self.device, dtype=self.dtype)
        say(facts(_identity(model)) + "\n")
        findings = check(model)
        rows = [[f.name, "ok" if f.ok else "FAILS", f.error, f.bound, f.detail] for f in findings]
        say(table(["identity", "", "error", "bound", "what it says"], rows))
        failed = [found.name for found in findings if not found.ok]
        say("\nsites: " + ", ".join(_available(model)))
        if failed:
            say(f"{len(failed)} of {len(findings)} identities fail: {', '.join(failed)}")
            return 1
        say(f"all {len(findings)} identities hold")
        return 0


def _identity(model: LanguageModel) -> dict[str, object]:
    from shammie.cli.models import weight_bytes

    anatomy = model.anatomy
    return {
        "model": model.name,
        "family": anatomy.model_type,
        "layers": len(anatomy.layers),
        "width": anatomy.width,
        "vocabulary": anatomy.vocabulary_size,
        "embeddings": "tied" if anatomy.tied else "not tied",
        "dtype": str(model.dtype).removeprefix("torch."),
        "parameters": sum(parameter.numel() for parameter in model.module.parameters()),
        "memory": size(weight_bytes(model)),
        "hash": model.hash[:16],
    }


def _available(model: LanguageModel) -> list[str]:
    """The site kinds that this model has, and in how many layers where not in all."""
    from shammie.core.errors import ShammieError
    from shammie.core.site import KINDS, Site

    found = []
    for kind in KINDS:
        layers: list[int | None] = [None] if kind == "embedding" else list(range(len(model.anatomy.layers)))
        having = []
        for layer in layers:
            with suppress(ShammieError):
                model.anatomy.hook_point(Site(kind, layer, (0,) if kind == "expert_neurons" else ()))
                having.append(layer)
        if having:
            found.append(kind if having == layers else f"{kind} ({len(having)} of {len(layers)} layers)")
    return found
