"""WeightPatch: named changes of stored matrices that apply, revert to identical bytes, compose, save and export."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from shammie.core import files
from shammie.core.anatomy import WeightSlice
from shammie.core.artifact import load_artifact, save_artifact
from shammie.core.errors import DataError, MismatchError, NonFiniteError, ShammieError, SiteError
from shammie.core.model import LanguageModel

Kind = Literal["rows", "columns", "low_rank", "dense"]
Tied = Literal["both", "input", "output"]
_PARTS: dict[str, tuple[str, ...]] = {
    "rows": ("index", "values"),
    "columns": ("index", "values"),
    "low_rank": ("left", "right"),
    "dense": ("values",),
}


@dataclass(frozen=True, eq=False)
class Delta:
    """What is added to one oriented slice [N, D] of a stored matrix. Make one with rows(), columns(), low_rank(), dense()."""

    target: WeightSlice
    kind: Kind
    tensors: dict[str, Tensor]

    def __post_init__(self) -> None:
        assert set(self.tensors) == set(_PARTS[self.kind])
        for tensor in self.tensors.values():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise NonFiniteError(f"the change of {self.target.parameter} holds NaN or infinity")
        index = self.tensors.get("index")
        if index is not None and len(index.unique()) != len(index):
            raise ShammieError(
                f"the change of {self.target.parameter} names a {self.kind[:-1]} twice; add them up first"
            )

    def part(self, view: Float[Tensor, "N D"]) -> tuple[Any, ...]:
        """The subscript of the entries of the slice that this delta touches."""
        if self.kind == "rows":
            return (self.tensors["index"].to(view.device),)
        if self.kind == "columns":
            return (slice(None), self.tensors["index"].to(view.device))
        return (slice(None),)

    def amount(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "..."]:
        """The addend of the touched entries."""
        if self.kind == "low_rank":
            return self.tensors["left"].to(dtype) @ self.tensors["right"].to(dtype)
        return self.tensors["values"].to(dtype)

    def check(self, view: Float[Tensor, "N D"]) -> None:
        """Raise SiteError unless the delta fits the slice."""
        wanted = tuple(view.shape)
        index = self.tensors.get("index")
        if index is not None:
            axis = 0 if self.kind == "rows" else 1
            if astray := [i for i in index.tolist() if not 0 <= i < wanted[axis]]:
                raise SiteError(
                    f"{self.kind[:-1]} {astray[0]} of {self.target.parameter} does not exist; it has {wanted[axis]}"
                )
            wanted = (len(index), wanted[1]) if self.kind == "rows" else (wanted[0], len(index))
        found = (
            (self.tensors["left"].shape[0], self.tensors["right"].shape[1])
            if self.kind == "low_rank"
            else tuple(self.tensors["values"].shape)
        )
        if self.kind == "low_rank" and self.tensors["left"].shape[1] != self.tensors["right"].shape[0]:
            raise SiteError(f"the two factors of the change of {self.target.parameter} differ in rank")
        if found != wanted:
            raise SiteError(f"the change of {self.target.parameter} has shape {found}, the weights it changes {wanted}")


def rows(target: WeightSlice, index: Sequence[int] | Int[Tensor, " n"], values: Float[Tensor, "n D"]) -> Delta:
    """Add `values` to rows (neurons, tokens) of a slice."""
    return Delta(target, "rows", {"index": torch.as_tensor(index, dtype=torch.long), "values": values})


def columns(target: WeightSlice, index: Sequence[int] | Int[Tensor, " n"], values: Float[Tensor, "N n"]) -> Delta:
    """Add `values` to columns of a slice."""
    return Delta(target, "columns", {"index": torch.as_tensor(index, dtype=torch.long), "values": values})


def low_rank(target: WeightSlice, left: Float[Tensor, "N R"], right: Float[Tensor, "R D"]) -> Delta:
    """Add left @ right to a slice."""
    return Delta(target, "low_rank", {"left": left, "right": right})


def dense(target: WeightSlice, values: Float[Tensor, "N D"]) -> Delta:
    """Add a full matrix to a slice."""
    return Delta(target, "dense", {"values": values})


@dataclass(frozen=True, eq=False)
class WeightPatch:
    """Changes made for one set of weights, refused by any other unless told `any_model`.

    `tied` must be said when the patch touches the embeddings of a tied model: `both` changes the one matrix they share;
    `input` or `output` unties them first and changes only that one.
    """

    deltas: tuple[Delta, ...]
    model_hash: str
    tied: Tied | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def make(
        cls, model: LanguageModel, deltas: Sequence[Delta], *, tied: Tied | None = None, **provenance: Any
    ) -> WeightPatch:
        """A patch for the weights now in force, checked against them."""
        if tied is not None and tied not in get_args(Tied):
            raise ShammieError(f"tied={tied!r} is not one of {', '.join(get_args(Tied))}")
        patch = cls(tuple(deltas), model.hash, tied, {"model": model.name, **provenance})
        for delta in deltas:
            delta.check(_view(model, delta.target))
        return patch

    @cached_property
    def hash(self) -> str:
        """sha256 of what the patch changes and of the weights it was made for."""
        parts = [self.model_hash, str(self.tied)]
        for delta in self.deltas:
            parts += [repr(delta.target), delta.kind]
            for name, tensor in sorted(delta.tensors.items()):
                raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
                parts += [name, str(tensor.dtype), str(tuple(tensor.shape)), files.sha256_bytes(raw)]
        return files.sha256_bytes("\n".join(parts).encode())

    def apply(self, model: LanguageModel, *, any_model: bool = False) -> AppliedPatch:
        """Change the weights in place; the returned handle puts the former bytes back.

        Errors: MismatchError for other weights or an undecided tie, SiteError for a matrix that does not fit,
        NonFiniteError when the change overflows the dtype. On an error the model is as it was.
        """
        if not any_model and model.hash != self.model_hash:
            raise MismatchError(
                f"this patch was made for weights {self.model_hash[:12]} ({self.provenance.get('model', 'unnamed')}), but "
                f"{model.name} now has {model.hash[:12]}; pass any_model=True (--any-model) to apply it all the same"
            )
        _ = model.stored_hash  # of a model loaded by the user: taken before the first change
        applied = AppliedPatch(model, self)
        try:
            applied.write()
        except BaseException:
            applied.restore()
            raise
        model.patches.append(self.hash)
        applied.depth = len(model.patches)
        return applied

    @contextmanager
    def applied(self, model: LanguageModel, *, any_model: bool = False) -> Iterator[None]:
        """The patch in force inside a `with`."""
        handle = self.apply(model, any_model=any_model)
        try:
            yield
        finally:
            handle.revert()

    def compose(self, later: WeightPatch) -> WeightPatch:
        """One patch that adds both, made for this patch's weights. Both must have been made for the same weights."""
        if later.model_hash != self.model_hash:
            raise MismatchError("patches made for different weights cannot be composed")
        if self.tied and later.tied and self.tied != later.tied:
            raise MismatchError(
                f"patches that treat tied embeddings differently ({self.tied}, {later.tied}) cannot be composed"
            )
        provenance = {**self.provenance, "composed": [self.hash, later.hash]}
        return replace(self, deltas=self.deltas + later.deltas, tied=self.tied or later.tied, provenance=provenance)

    def save_pretrained(self, directory: str | Path, *, overwrite: bool = False) -> None:
        """Write config.json and model.safetensors."""
        config = {
            "tied": self.tied,
            "deltas": [{"target": asdict(delta.target), "kind": delta.kind} for delta in self.deltas],
        }
        tensors = {f"{i}.{name}": t for i, delta in enumerate(self.deltas) for name, t in delta.tensors.items()}
        provenance = {**self.provenance, "model_hash": self.model_hash}
        save_artifact(Path(directory), "weight_patch", config, tensors, provenance, overwrite=overwrite)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> WeightPatch:
        """Read a saved patch."""
        artifact = load_artifact(Path(directory), "weight_patch")
        try:
            deltas = tuple(
                Delta(
                    WeightSlice(**entry["target"]),
                    entry["kind"],
                    {name: artifact.tensors[f"{i}.{name}"] for name in _PARTS[entry["kind"]]},
                )
                for i, entry in enumerate(artifact.config["deltas"])
            )
            provenance = dict(artifact.provenance)
            return cls(deltas, provenance.pop("model_hash"), artifact.config["tied"], provenance)
        except (KeyError, TypeError) as error:
            raise DataError(f"{directory} is no whole patch ({error}); copy or make it again") from None

    def export(self, model: LanguageModel, directory: str | Path, *, any_model: bool = False) -> None:
        """Write the patched model as a plain Hugging Face checkpoint with its tokenizer; the model itself is unchanged."""
        with self.applied(model, any_model=any_model), files.atomic_directory(Path(directory)) as target:
            model.module.save_pretrained(target)
            model.tokenizer.save_pretrained(target)
            files.write_json(target / "shammie.json", {"weights": model.stored_hash, "patches": list(model.patches)})


class AppliedPatch:
    """A patch in force. `revert` restores the bytes that stood there before; later patches are reverted first."""

    def __init__(self, model: LanguageModel, patch: WeightPatch) -> None:
        self.model = model
        self.patch = patch
        self.depth = 0  # how many patches were in force once this one was; 0 while it is not
        self._former: list[tuple[Tensor, tuple[Any, ...], Tensor]] = []
        self._tied_weight: nn.Parameter | None = None

    def write(self) -> None:
        """Change the weights, keeping what stood there."""
        self._untie()
        for delta in self.patch.deltas:
            view = _view(self.model, delta.target)
            delta.check(view)
            part = delta.part(view)
            former = view[part].clone()
            wide = torch.promote_types(view.dtype, torch.float32)
            new = (former.to(wide) + delta.amount(wide).to(view.device)).to(view.dtype)
            if not new.isfinite().all():
                raise NonFiniteError(f"the patch makes {delta.target.parameter} infinite or NaN in {view.dtype}")
            self._former.append((view, part, former))
            view[part] = new

    def revert(self) -> None:
        """Put the former bytes back."""
        if not self.depth:
            raise ShammieError("this patch is not in force (any more)")
        if len(self.model.patches) != self.depth:
            raise ShammieError("revert patches in the opposite order of applying them: another one was applied later")
        self.restore()
        self.model.patches.pop()
        self.depth = 0

    def restore(self) -> None:
        """Undo `write`, whole or half done."""
        while self._former:
            view, part, former = self._former.pop()
            view[part] = former
        if self._tied_weight is not None:
            self.model.anatomy.unembedding.weight = self._tied_weight
            self.model.module.config.tie_word_embeddings = True
            self._tied_weight = None

    def _untie(self) -> None:
        anatomy = self.model.anatomy
        shared = {anatomy.embedding_weights.parameter, anatomy.unembedding_weights.parameter}
        if not anatomy.tied or not any(delta.target.parameter in shared for delta in self.patch.deltas):
            return
        if self.patch.tied is None:
            raise MismatchError(
                f"{self.model.name} ties its input and output embeddings, and the patch changes them; "
                "say which with tied='both', 'input' or 'output'"
            )
        if self.patch.tied == "both":
            return
        wanted = anatomy.embedding_weights if self.patch.tied == "input" else anatomy.unembedding_weights
        astray = [d.target.parameter for d in self.patch.deltas if d.target.parameter in shared - {wanted.parameter}]
        if astray:
            raise MismatchError(f"tied={self.patch.tied!r} leaves {astray[0]} alone, but the patch changes it")
        self._tied_weight = anatomy.unembedding.weight  # type: ignore[assignment]
        anatomy.unembedding.weight = nn.Parameter(self._tied_weight.detach().clone(), requires_grad=False)  # type: ignore[union-attr]
        self.model.module.config.tie_word_embeddings = False


def _view(model: LanguageModel, target: WeightSlice) -> Tensor:
    try:
        stored = model.module.get_parameter(target.parameter)
    except AttributeError:
        raise SiteError(f"{model.name} has no weight {target.parameter}") from None
    experts = stored.shape[0] if stored.ndim == 3 else 0
    if target.expert is not None and not 0 <= target.expert < experts:
        raise SiteError(
            f"{target.parameter} has no expert {target.expert}; "
            + (f"it has 0 to {experts - 1}" if experts else "it is dense")
        )
    if stored.ndim - (target.expert is not None) != 2:
        raise SiteError(
            f"{target.parameter} is no matrix" + (f"; name one of its {experts} experts" if experts else "")
        )
    view = target.view(model.module)
    if view.is_meta:
        raise ShammieError(f"{target.parameter} is offloaded; load the model without offloading to change its weights")
    return view
