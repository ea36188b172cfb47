"""Fitted artifacts on disk: a directory of config.json and model.safetensors, with provenance; never pickle."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor

from shammie.core import files
from shammie.core.errors import DataError, MismatchError, MissingFileError, NonFiniteError
from shammie.core.plain import from_plain, to_plain

FORMAT = 1
CONFIG, TENSORS = "config.json", "model.safetensors"


@dataclasses.dataclass(frozen=True, eq=False)
class Artifact:
    """What was fitted: tensors, the config that made them and where they came from; `sha256` is of both files."""

    kind: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    provenance: dict[str, Any]
    sha256: str


def save_artifact(
    directory: files.PathLike,
    kind: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    provenance: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> None:
    """Write an artifact whole or not at all; `overwrite` replaces one of the same kind and nothing else.

    Raises:
        NonFiniteError: NaN or infinity in a tensor, the config or the provenance.
        RunError: the directory is not empty, or cannot be written.
    """
    _refuse_non_finite(tensors, f"the {kind} artifact for {directory}")
    if overwrite and Path(directory).is_dir() and any(Path(directory).iterdir()):
        _read_config(Path(directory), kind)
    head: dict[str, Any] = {"format": FORMAT, "kind": kind, "shammie": None}
    with suppress(importlib.metadata.PackageNotFoundError):
        head["shammie"] = importlib.metadata.version("shammie")
    body = {"config": to_plain(config), "provenance": to_plain(provenance)}
    with files.atomic_directory(directory, overwrite=overwrite) as temporary:
        files.save_tensors(temporary / TENSORS, tensors)
        files.write_json(temporary / CONFIG, head | body | {"tensors_sha256": files.sha256_file(temporary / TENSORS)})


def load_artifact(directory: files.PathLike, kind: str) -> Artifact:
    """Read an artifact and refuse one that is incomplete, of another kind, newer, corrupt or not finite."""
    directory = Path(directory)
    config = _read_config(directory, kind)
    tensors = files.load_tensors(directory / TENSORS)
    _refuse_non_finite(tensors, str(directory / TENSORS))
    if files.sha256_file(directory / TENSORS) != config["tensors_sha256"]:
        raise DataError(
            f"{directory / TENSORS} is not the file that {CONFIG} describes; copy or fit the artifact again"
        )
    sha256 = files.sha256_file(directory / CONFIG)  # holds the hash of the tensors
    return Artifact(kind, config["config"], tensors, config["provenance"], sha256)


def _read_config(directory: Path, kind: str) -> dict[str, Any]:
    path = directory / CONFIG
    for part in (path, directory / TENSORS):
        if not part.is_file():
            raise MissingFileError(f"{directory} holds no {kind} artifact ({part.name} is missing); name another")
    config = files.read_json(path)
    if not isinstance(config, dict) or type(config.get("format")) is not int:
        raise DataError(f"{path} describes no artifact of shammie; name another directory")
    if config["format"] > FORMAT:
        raise DataError(f"{path} has format {config['format']}, newer than {FORMAT}; update shammie")
    if config.get("kind") != kind:
        raise MismatchError(f"{directory} holds a {config.get('kind')} artifact, not {kind}; name another directory")
    if missing := {"config", "provenance", "tensors_sha256"} - config.keys():
        raise DataError(f"{path} lacks {min(missing)!r}; copy or fit the artifact again")
    return config


def _refuse_non_finite(tensors: Mapping[str, Tensor], place: str) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise NonFiniteError(f"tensor {name!r} of {place} holds NaN or infinity; fit it again")


def check_model(provenance: Mapping[str, Any], model_hash: str, name: str) -> None:
    """Refuse the model `name` unless its weights are those the artifact was fitted on (provenance `model_hash`)."""
    fitted = provenance.get("model_hash")
    if fitted != model_hash:
        seen = f"weights {str(fitted)[:12]}" if fitted else "weights it does not name"
        remedy = "load that model or fit again"
        raise MismatchError(f"the artifact was fitted on {seen}, but {name} has {model_hash[:12]}; {remedy}")


class Pretrained:
    """Mixin: a frozen dataclass with tensor fields, plain fields and `provenance` saves and loads itself."""

    kind: ClassVar[str]
    provenance: dict[str, Any]

    def save_pretrained(self, directory: files.PathLike, *, overwrite: bool = False) -> None:
        """Save as an artifact of this class's kind."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        config = {name: value for name, value in values.items() if name not in tensors and name != "provenance"}
        save_artifact(directory, self.kind, config, tensors, self.provenance, overwrite=overwrite)

    @classmethod
    def from_pretrained(cls, directory: files.PathLike) -> Self:
        """Load an artifact that `save_pretrained` wrote."""
        found = load_artifact(directory, cls.kind)
        return from_plain(cls, {**found.config, **found.tensors, "provenance": found.provenance})
