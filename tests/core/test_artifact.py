"""Artifacts: round trip, one kind, whole or not at all, refused when anything is off."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shammie.core import files
from shammie.core.artifact import Pretrained, check_model, load_artifact, save_artifact
from shammie.core.errors import (
    DataError,
    MismatchError,
    MissingFileError,
    NonFiniteError,
    RunError,
    ShammieError,
)

TENSORS = {"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor([1, 2])}


def save(directory, kind="probe", overwrite=False, **tensors):
    save_artifact(
        directory, kind, {"rank": 2, "layers": (0, 1)}, tensors or TENSORS, {"model_hash": "abc"}, overwrite=overwrite
    )


@dataclass(frozen=True, eq=False)
class Probe(Pretrained):
    kind: ClassVar[str] = "probe"
    weight: Tensor
    layers: tuple[int, ...]
    source: Path
    bias: Tensor | None = None
    scale: float = 1.0
    provenance: dict[str, Any] = field(default_factory=dict)


@settings(max_examples=25, deadline=None)
@given(
    names=st.lists(st.text("ab.é/", min_size=1, max_size=4), unique=True, max_size=4),
    config=st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3) | st.none(), max_size=3),
)
def test_round_trip_and_same_bytes(tmp_path_factory, names, config):
    base = tmp_path_factory.mktemp("artifact")
    tensors = {name: torch.randn(i, 2) for i, name in enumerate(names)}
    for part in ("one", "two"):
        save_artifact(base / part, "probe", config, tensors, {"model_hash": "abc", "samples": 3})
    found, again = load_artifact(base / "one", "probe"), load_artifact(base / "two", "probe")
    assert (found.kind, found.config, found.provenance) == ("probe", config, {"model_hash": "abc", "samples": 3})
    assert found.tensors.keys() == tensors.keys()
    assert all(torch.equal(found.tensors[name], tensors[name]) for name in names)
    assert found.sha256 == again.sha256
    for name in ("config.json", "model.safetensors"):
        assert (base / "one" / name).read_bytes() == (base / "two" / name).read_bytes()


def test_the_hash_is_of_everything(tmp_path):
    save(tmp_path / "one")
    save(tmp_path / "two", w=TENSORS["w"] + 1, n=TENSORS["n"])
    assert load_artifact(tmp_path / "one", "probe").sha256 != load_artifact(tmp_path / "two", "probe").sha256


@pytest.mark.parametrize("bias", [None, torch.ones(2)])
def test_a_rooms_dataclass_saves_and_loads_itself(tmp_path, bias):
    probe = Probe(torch.randn(2, 3), (1, 2), Path("a/b"), bias, provenance={"model_hash": "abc"})
    probe.save_pretrained(tmp_path / "probe")
    found = Probe.from_pretrained(tmp_path / "probe")
    assert torch.equal(found.weight, probe.weight)
    assert (found.bias is None) if bias is None else torch.equal(found.bias, bias)
    assert (found.layers, found.source, found.scale, found.provenance) == (
        (1, 2),
        Path("a/b"),
        1.0,
        {"model_hash": "abc"},
    )
    save_artifact(tmp_path / "other", "probe", {"layer": 3}, {"weight": torch.ones(1)}, {})
    with pytest.raises(ShammieError, match=r"Probe has no key 'layer' \(did you mean 'layers'\?\)"):
        Probe.from_pretrained(tmp_path / "other")


def test_only_an_artifact_of_the_same_kind_is_replaced_and_only_when_asked(tmp_path):
    save(tmp_path / "a")
    with pytest.raises(RunError, match="a already exists and is not empty"):
        save(tmp_path / "a")
    save(tmp_path / "a", overwrite=True, w=torch.zeros(1))
    assert load_artifact(tmp_path / "a", "probe").tensors.keys() == {"w"}
    with pytest.raises(MismatchError, match="a holds a probe artifact, not mfa"):
        save(tmp_path / "a", kind="mfa", overwrite=True)
    (tmp_path / "mine").mkdir()
    save(tmp_path / "mine", overwrite=True)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "x").write_text("mine")
    with pytest.raises(MissingFileError, match="notes holds no probe artifact"):
        save(tmp_path / "notes", overwrite=True)
    assert (tmp_path / "notes" / "x").read_text() == "mine"


def test_a_failed_save_keeps_the_old_artifact(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    save(tmp_path / "a")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"a/model\.safetensors: No space left on device; free space"):
        save(tmp_path / "a", overwrite=True, w=torch.zeros(1))
    with pytest.raises(RunError, match=r"b/model\.safetensors: No space left"):
        save(tmp_path / "b")
    monkeypatch.undo()
    assert load_artifact(tmp_path / "a", "probe").tensors.keys() == {"w", "n"}
    assert [inner.name for inner in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_non_finite_tensors_are_neither_saved_nor_loaded(tmp_path, bad, dtype):
    tensors = {"fine": torch.ones(2), "broken": torch.tensor([1.0, bad], dtype=dtype)}
    with pytest.raises(NonFiniteError, match=r"tensor 'broken' of the probe artifact for .*a holds NaN or infinity"):
        save(tmp_path / "a", **tensors)
    assert list(tmp_path.iterdir()) == []
    save(tmp_path / "a")
    files.save_tensors(tmp_path / "a" / "model.safetensors", tensors)
    with pytest.raises(NonFiniteError, match=r"tensor 'broken' of .*model\.safetensors holds NaN"):
        load_artifact(tmp_path / "a", "probe")
    with pytest.raises(NonFiniteError, match=r"b/config\.json: config\.rate is (nan|inf)"):
        save_artifact(tmp_path / "b", "probe", {"rate": bad}, TENSORS, {})
    assert not (tmp_path / "b").exists()


def edit(directory, **changes):
    config = files.read_json(directory / "config.json") | changes
    files.write_json(directory / "config.json", {key: value for key, value in config.items() if value != "drop"})


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda d: (d / "config.json").unlink(), MissingFileError, r"no probe artifact \(config\.json is missing"),
        (lambda d: (d / "model.safetensors").unlink(), MissingFileError, r"\(model\.safetensors is missing\)"),
        (lambda d: (d / "config.json").write_text("{"), DataError, r"config\.json, line 1: invalid JSON"),
        (lambda d: (d / "config.json").write_text("[]"), DataError, r"config\.json describes no artifact of shammie"),
        (lambda d: (d / "config.json").write_text('{"model_type": "gpt2"}'), DataError, "describes no artifact"),
        (lambda d: edit(d, format=2), DataError, r"config\.json has format 2, newer than 1; update shammie"),
        (lambda d: edit(d, kind="mfa"), MismatchError, r"a holds a mfa artifact, not probe"),
        (lambda d: edit(d, provenance="drop"), DataError, r"config\.json lacks 'provenance'"),
        (lambda d: files.save_tensors(d / "model.safetensors", {"w": torch.ones(1)}), DataError, "is not the file"),
        (lambda d: (d / "model.safetensors").write_bytes(b""), DataError, r"model\.safetensors is corrupt or trunc"),
    ],
)  # fmt: skip
def test_damaged_artifacts_are_refused(tmp_path, damage, error, message):
    save(tmp_path / "a")
    damage(tmp_path / "a")
    with pytest.raises(error, match=message):
        load_artifact(tmp_path / "a", "probe")


@settings(max_examples=60, deadline=None)
@given(position=st.floats(0, 0.999), keep=st.booleans())
def test_any_flipped_or_missing_byte_of_the_tensors_is_seen(tmp_path_factory, position, keep):
    directory = tmp_path_factory.mktemp("flip") / "a"
    save(directory)
    path = directory / "model.safetensors"
    data = bytearray(path.read_bytes())
    place = int(position * len(data))
    data[place] ^= 0x41
    path.write_bytes(data if keep else data[:place])
    with pytest.raises(ShammieError, match=r"model\.safetensors"):
        load_artifact(directory, "probe")


def test_what_is_no_artifact_is_refused(tmp_path):
    with pytest.raises(MissingFileError, match="none holds no probe artifact"):
        load_artifact(tmp_path / "none", "probe")


def test_the_model_must_be_the_one_it_was_fitted_on():
    check_model({"model_hash": "a" * 64}, "a" * 64, "tiny")
    with pytest.raises(
        MismatchError, match="fitted on weights aaaaaaaaaaaa, but tiny has bbbbbbbbbbbb; load that model"
    ):
        check_model({"model_hash": "a" * 64}, "b" * 64, "tiny")
    with pytest.raises(MismatchError, match="fitted on weights it does not name, but tiny has"):
        check_model({}, "b" * 64, "tiny")
