"""GGUF files, converted once into plain Hugging Face directories."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shammie.core import files
from shammie.core.errors import DataError, MissingFileError, NonFiniteError, ShammieError, UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FORMAT = 1  # raise it when the conversion changes, so that older directories are made anew
SOURCE = "source.json"

_log = logging.getLogger(__name__)
# Vocabularies whose merges were learned with every digit alone; transformers knows no split for these names and falls
# back to GPT-2's, which cuts the blanks before a number elsewhere.
_DIGIT_SPLITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone")


@dataclass(frozen=True)
class Header:
    """What the head of a GGUF file says: its scalar metadata and the number of weights of each tensor."""

    architecture: str
    metadata: Mapping[str, Any]
    sizes: Mapping[str, int]

    @property
    def parameters(self) -> int:
        """The number of stored weights."""
        return sum(self.sizes.values())


def read_header(path: Path) -> Header:
    """Read the head of a GGUF file, and check that the weights it promises are there, without touching them.

    Raises DataError: empty, corrupt or truncated, or not a model.
    """
    from gguf import GGUFReader, GGUFValueType

    class Reader(GGUFReader):
        """Stops at the file's end, past which its parent would follow a damaged length for hours."""

        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
            missing = offset + int(count) * np.dtype(dtype).itemsize - len(self.data)
            if missing > 0:
                raise EOFError(f"truncated, {missing} bytes are missing")
            return super()._get(offset, dtype, count, override_order)

    try:
        reader = Reader(path)
        metadata = {
            name: field.contents() for name, field in reader.fields.items() if GGUFValueType.ARRAY not in field.types
        }
    except Exception as error:  # whatever the reader stumbles over, the file is to blame
        raise DataError(
            f"{path} is not a readable GGUF file ({' '.join(str(error).split())}); download or copy it again, or "
            "upgrade the gguf package."
        ) from error
    if "general.architecture" not in metadata or not reader.tensors:
        raise DataError(f"{path} names no architecture or holds no weights, so it is not a model; check the path.")
    sizes = {tensor.name: int(tensor.n_elements) for tensor in reader.tensors}
    return Header(str(metadata["general.architecture"]), metadata, sizes)


def convert_gguf(path: Path, *, cache: Path | None = None) -> Path:
    """Convert a GGUF file once and return the Hugging Face directory made of it, float32 safetensors inside.

    The directory is `cache/models/gguf/HASH`, HASH from the file's bytes; `cache` is the cache's root,
    `files.cache_directory()` if None. Processes that convert the same bytes wait for each other; a broken conversion
    leaves nothing that counts as made.

    Raises MissingFileError, DataError, UnsupportedModelError, NonFiniteError, and BackendError if gguf or accelerate
    is not installed.
    """
    path = path.expanduser()
    if not path.is_file():
        raise MissingFileError(f"{path} is not a file, so there is no GGUF to convert; check the path.")
    digest = files.sha256_file(path)
    target = (cache or files.cache_directory()) / "models" / "gguf" / digest[:20]
    with making(target) as directory:
        if directory is not None:
            convert_into(path, directory)
            if files.sha256_file(path) != digest:
                raise DataError(f"{path} changed while it was converted; run the command again once it is whole.")
    return target


@contextlib.contextmanager
def making(target: Path) -> Iterator[Path | None]:
    """Hold the lock of model directory `target` and give a temporary one that takes its place, or None if it is whole.

    Waits for another process at work on it, and clears away what a killed one left.
    """
    if read_source(target) is not None:  # looked up first, so that a cache for all may be read-only
        yield None
        return
    with files.lock(target.with_name(f"{target.name}.lock"), blocking=True):
        if read_source(target) is not None:
            yield None
            return
        for left in target.parent.glob(f".{target.name}.*.tmp"):
            shutil.rmtree(left, ignore_errors=True)
        with files.atomic_directory(target, overwrite=True) as directory:
            yield directory


def read_source(directory: Path) -> dict[str, Any] | None:
    """What `source.json` says of a converted directory, or None unless every file is there at its recorded size."""
    try:
        source: dict[str, Any] = files.read_json(directory / SOURCE)
        sizes = {name: (directory / name).stat().st_size for name in source["files"]}
        return source if source["format"] == FORMAT and source["files"] == sizes else None
    except (ShammieError, OSError, LookupError, TypeError):
        return None


def convert_into(path: Path, directory: Path, *, extra: Mapping[str, Any] | None = None) -> None:
    """Write the model in GGUF file `path` into the existing `directory`; `source.json`, with `extra`, comes last.

    Raises as `convert_gguf` does.
    """
    need_packages()
    header = read_header(path)
    need = 4 * header.parameters
    if (free := shutil.disk_usage(directory).free) < need:
        raise ShammieError(
            f"{path.name} needs {need / 1e6:.0f} MB under {directory.parent} and {free / 1e6:.0f} MB are free; "
            "free some space or set another cache directory."
        )
    _log.info("One-time conversion of %s (%.0f MB) is under way", path.name, path.stat().st_size / 1e6)
    with _quiet():
        model = _load_model(path, header)
        tokenizer = _load_tokenizer(path, header)
        _check_finite(model, path)
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    for item in directory.iterdir():  # safetensors makes its files unreadable for others
        item.chmod((directory / "config.json").stat().st_mode)
    source = {
        "format": FORMAT,
        "gguf": path.name,
        "sha256": files.sha256_file(path),
        "bytes": path.stat().st_size,
        "architecture": header.architecture,
        "tied": bool(model.config.tie_word_embeddings),
        **(extra or {}),
        "files": {item.name: item.stat().st_size for item in sorted(directory.iterdir())},
    }
    files.write_json(directory / SOURCE, source)


def need_packages() -> None:
    """Raise BackendError unless the packages that reading GGUF takes are installed."""
    for name in ("gguf", "accelerate"):
        files.package(name, "demo")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' load reports and progress bars; its GGUF reader's bar has no switch of its own."""
    from transformers.utils import logging as hf_logging

    level = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        hf_logging.set_verbosity(level)


@contextlib.contextmanager
def _alone(path: Path, header: Header, what: str) -> Iterator[str]:
    """A directory that holds only `model.gguf`, so that no neighbour of the file is mixed in; translates errors."""
    with tempfile.TemporaryDirectory(prefix="shammie-gguf-") as folder:
        (Path(folder) / "model.gguf").symlink_to(path.resolve())
        try:
            yield folder
        except Exception as error:
            if isinstance(error, OSError) and error.errno:  # the machine's trouble; transformers' own has no number
                raise
            reason = " ".join(str(error).replace(folder, "").split())[:160].rstrip(". ") or type(error).__name__
            if "not supported" in reason or "Unrecognized configuration" in reason:
                raise UnsupportedModelError(
                    f"{path} holds a model of the GGUF architecture {header.architecture!r}, which the installed "
                    "transformers cannot convert into a causal language model; use the model's safetensors original."
                ) from error
            raise DataError(
                f"{path} could not be converted, its {what} being broken or incomplete ({reason}); "
                "download or copy it again."
            ) from error


def _load_model(path: Path, header: Header) -> PreTrainedModel:
    """The model in float32; refuses a file that lacks weights, or with content that transformers leaves out."""
    import torch
    import transformers

    # Without this, files of some architectures stay packed where the `kernels` package is installed.
    unpack = getattr(transformers, "GgufConfig", None)  # new in the course of transformers 5
    options = {} if unpack is None else {"quantization_config": unpack(dequantize=True)}
    with _alone(path, header, "weights") as folder:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file="model.gguf",
            dtype=torch.float32,
            **options,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below
        )
    for name, found, wanted in info["mismatched_keys"]:
        raise DataError(
            f"{path} holds {name} in shape {list(found)} where its metadata ask for {list(wanted)}; "
            "download or copy it again."
        )
    if absent := info["missing_keys"]:
        raise DataError(
            f"{path} has no weights for {min(absent)} ({len(absent)} tensors are missing in all); download or copy it "
            "again, join its parts if it has several, or use the model's safetensors original."
        )
    spare = header.sizes.get("output.weight", 0) if model.config.tie_word_embeddings else 0
    left = header.parameters - spare - sum(parameter.numel() for parameter in model.parameters())
    stretch = header.metadata.get(f"{header.architecture}.rope.scaling.type", "none")
    if left or (stretch != "none" and header.architecture != "gpt-oss"):  # transformers reads it for that one alone
        what = f"{left} of its stored weights" if left else f"its {stretch} stretch of rotary positions"
        raise UnsupportedModelError(
            f"{path} cannot be converted faithfully, since transformers leaves out {what} when it reads GGUF files of "
            f"the architecture {header.architecture!r}; use the model's safetensors original."
        )
    # The weights are plain float32 by now; the model still claims to be quantized and would refuse to be saved.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model


def _load_tokenizer(path: Path, header: Header) -> PreTrainedTokenizerBase:
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    with _alone(path, header, "tokenizer") as folder:
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file="model.gguf", local_files_only=True)
    if header.metadata.get("tokenizer.ggml.pre") in _DIGIT_SPLITS:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    for name in ("name_or_path", "is_local", "local_files_only"):  # of the temporary directory
        tokenizer.init_kwargs.pop(name, None)
    return tokenizer


def _check_finite(model: PreTrainedModel, path: Path) -> None:
    for name, tensor in model.state_dict().items():
        if not bool(tensor.isfinite().all()):
            raise NonFiniteError(f"{path} holds NaN or infinity in {name}; download or convert the model again.")
