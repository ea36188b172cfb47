"""GGUF files, converted once into plain Hugging Face directories."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import math
import mmap
import shutil
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from shammie.core import files
from shammie.core.errors import (
    BackendError,
    DataError,
    MissingFileError,
    NonFiniteError,
    ShammieError,
    UnsupportedModelError,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FORMAT = 1  # raise it when the conversion changes, so that older directories are made anew
SOURCE = "source.json"

_log = logging.getLogger(__name__)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# Vocabularies whose merges were learned with every digit alone; transformers knows no split for these names and falls
# back to GPT-2's, which cuts the blanks before a number elsewhere.
_DIGIT_SPLITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone")


@dataclass(frozen=True)
class Header:
    """What the head of a GGUF file says: scalar metadata, tensor shapes (torch order) and stored bytes."""

    architecture: str
    metadata: Mapping[str, Any]
    tensors: Mapping[str, tuple[int, ...]]

    @property
    def tied(self) -> bool:
        """Whether the file has no output matrix of its own, so that the embedding serves as one."""
        return "output.weight" not in self.tensors

    @property
    def parameters(self) -> int:
        """The number of stored weights."""
        return sum(math.prod(shape) for shape in self.tensors.values())


class _Cursor:
    """Little-endian reads that raise IndexError past the end of the file."""

    def __init__(self, blob: mmap.mmap) -> None:
        self.blob, self.at = blob, 0

    def take(self, count: int) -> bytes:
        if count > len(self.blob) - self.at:
            raise IndexError("the file ends inside its header")
        self.at += count
        return self.blob[self.at - count : self.at]

    def unpack(self, form: str) -> Any:
        values = struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))
        return values[0] if len(values) == 1 else values

    def string(self) -> str:
        return self.take(self.unpack("Q")).decode()

    def value(self, kind: int) -> Any:
        """One metadata value; an array is skipped and gives its length."""
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.unpack(self.scalar(kind))
        inner, count = self.unpack("IQ")
        if inner == _STRING:
            for _ in range(count):
                self.take(self.unpack("Q"))
        else:
            self.take(struct.calcsize(f"<{self.scalar(inner)}") * count)
        return count

    def scalar(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise ValueError(f"its metadata hold a value of the unknown type {kind}")
        return _SCALARS[kind]


def read_header(path: Path) -> Header:
    """Read and check the head of a GGUF file without touching its weights.

    Raises MissingFileError, DataError (empty, corrupt or truncated) and UnsupportedModelError (unknown storage type,
    one part of a split file). Source: the GGUF specification, versions 2 and 3.
    """
    if not path.is_file():
        raise MissingFileError(f"{path} is not a file, so there is no GGUF to convert; check the path.")
    size = path.stat().st_size
    if size < 24:
        raise DataError(f"{path} is {size} bytes long, too short for a GGUF file; download or copy it again.")
    need_packages()
    try:
        with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as blob:
            return _parse(path, _Cursor(blob), size)
    except (LookupError, ValueError, TypeError, struct.error, OverflowError) as error:
        if isinstance(error, ShammieError):
            raise
        raise DataError(f"{path} is not a readable GGUF file ({error}); download or copy it again.") from error


def _parse(path: Path, cursor: _Cursor, size: int) -> Header:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    if cursor.take(4) != b"GGUF":
        raise DataError(f"{path} does not start with the letters GGUF, so it is not a GGUF file; check the path.")
    version, tensor_count, value_count = cursor.unpack("IQQ")
    if version not in (2, 3):
        raise DataError(f"{path} is GGUF version {version}, and only 2 and 3 are read; convert it with llama.cpp anew.")
    metadata = {}
    for _ in range(value_count):
        name = cursor.string()
        metadata[name] = cursor.value(cursor.unpack("I"))
    tensors: dict[str, tuple[int, ...]] = {}
    ends = [0]
    for _ in range(tensor_count):
        name = cursor.string()
        rank = cursor.unpack("I")
        shape = tuple(cursor.unpack("Q") for _ in range(min(rank, 9)))
        kind, offset = cursor.unpack("IQ")
        if rank > 8 or name in tensors:
            raise DataError(f"{path} describes the tensor {name!r} wrongly; download or copy the file again.")
        if kind not in set(GGMLQuantizationType):
            raise UnsupportedModelError(
                f"{path} stores {name!r} as GGML type {kind}, which the installed gguf package does not know; "
                "upgrade gguf or take another quantization of the model."
            )
        block, stored = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        ends.append(offset + math.prod(shape) // block * stored)
        tensors[name] = shape[::-1]
    alignment = int(metadata.get("general.alignment", 32))
    if alignment < 1:
        raise DataError(f"{path} has general.alignment {alignment}; download or copy the file again.")
    missing = -(-cursor.at // alignment) * alignment + max(ends) - size
    if missing > 0:
        raise DataError(f"{path} is truncated: {missing} bytes of its weights are missing; download or copy it again.")
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or not tensors:
        raise DataError(f"{path} names no architecture or holds no weights, so it is not a model; check the path.")
    if metadata.get("split.count", 0) > 1:
        raise UnsupportedModelError(
            f"{path} is one of {metadata['split.count']} parts; join them with llama-gguf-split --merge first."
        )
    layers = metadata.get(f"{architecture}.block_count", 0)
    if not isinstance(layers, int) or layers > len(tensors):
        raise DataError(f"{path} claims {layers} layers in {len(tensors)} tensors; download or copy it again.")
    return Header(architecture, metadata, tensors)


def convert_gguf(path: Path, *, cache: Path | None = None) -> Path:
    """Convert a GGUF file once and return the Hugging Face directory made of it, float32 safetensors inside.

    The directory is `cache/models/gguf/HASH`, HASH from the file's bytes; a file already seen at this path with this
    size and time of change is found without reading it. `cache` is the cache's root, `files.cache_directory()` if None.
    Processes that convert the same bytes wait for each other; a broken conversion leaves nothing that counts as made.

    Raises MissingFileError, DataError, UnsupportedModelError, NonFiniteError, and BackendError if gguf or accelerate
    is not installed.
    """
    path = path.expanduser()
    if not path.is_file():
        raise MissingFileError(f"{path} is not a file, so there is no GGUF to convert; check the path.")
    room = (cache or files.cache_directory()) / "models" / "gguf"
    stamp = _stamp(path)
    pointer = room / f"{hashlib.sha256(repr(stamp).encode()).hexdigest()[:20]}.json"
    with contextlib.suppress(ShammieError, OSError, ValueError, KeyError, TypeError):
        found = room / str(files.read_json(pointer)["sha256"])[:20]
        if read_source(found) is not None:
            return found
    header = read_header(path)
    digest = files.sha256_file(path)
    target = room / digest[:20]
    with making(target) as directory:
        if directory is not None:
            convert_into(path, directory, header=header, digest=digest)
            if _stamp(path) != stamp:
                raise DataError(f"{path} changed while it was converted; run the command again once it is whole.")
    files.write_json(pointer, {"sha256": digest})
    return target


@contextlib.contextmanager
def making(target: Path) -> Iterator[Path | None]:
    """Hold the lock of model directory `target` and give a temporary one that takes its place, or None if it is whole.

    Waits for another process at work on it, and clears away what a killed one left.
    """
    with files.lock(target.with_name(f"{target.name}.lock"), blocking=True):
        if read_source(target) is not None:
            yield None
            return
        for left in target.parent.glob(f".{target.name}.*.tmp"):
            shutil.rmtree(left, ignore_errors=True)
        with files.atomic_directory(target, overwrite=True) as directory:
            yield directory


def _stamp(path: Path) -> tuple[str, int, int]:
    stat = path.stat()
    return str(path.resolve()), stat.st_size, stat.st_mtime_ns


def read_source(directory: Path) -> dict[str, Any] | None:
    """What `source.json` says of a converted directory, or None unless every file is there at its recorded size."""
    try:
        source = files.read_json(directory / SOURCE)
        whole = source["format"] == FORMAT and all(
            (directory / name).stat().st_size == size for name, size in source["files"].items()
        )
    except (ShammieError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return source if whole else None


def convert_into(
    path: Path,
    directory: Path,
    *,
    header: Header | None = None,
    digest: str | None = None,
    label: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write the model in GGUF file `path` into the existing `directory`; `source.json` comes last.

    `digest` is the file's sha256 where the caller knows it, `label` the name shown, `extra` more fields of source.json.
    Raises as `convert_gguf` does.
    """
    header = header or read_header(path)
    need = 4 * header.parameters
    if (free := shutil.disk_usage(directory).free) < need:
        raise ShammieError(
            f"{path.name} needs {need / 1e6:.0f} MB under {directory.parent} and {free / 1e6:.0f} MB are free; "
            "free some space or set another cache directory."
        )
    title = f"One-time conversion of {label or path.name} ({path.stat().st_size / 1e6:.0f} MB)"
    _log.info("%s is under way", title)
    with tqdm(desc=title, total=4, disable=None, leave=False, bar_format="{desc}: step {n}/{total}, {elapsed}") as bar:
        with _quiet():
            model = _load_model(path, header)
            bar.update()
            tokenizer = _load_tokenizer(path, header)
            bar.update()
            _check_finite(model, path)
            bar.update()
            model.save_pretrained(directory)
            tokenizer.save_pretrained(directory)
        for item in directory.iterdir():  # safetensors makes its files unreadable for others
            item.chmod((directory / "config.json").stat().st_mode)
        source = {
            "format": FORMAT,
            "gguf": label or path.name,
            "sha256": digest or files.sha256_file(path),
            "bytes": path.stat().st_size,
            "architecture": header.architecture,
            "tied": bool(model.config.tie_word_embeddings),
            **(extra or {}),
            "files": {item.name: item.stat().st_size for item in sorted(directory.iterdir())},
        }
        files.write_json(directory / SOURCE, source)
        bar.update()


def need_packages() -> None:
    """Raise BackendError unless the packages that reading GGUF takes are installed."""
    for name in ("gguf", "accelerate"):
        if importlib.util.find_spec(name) is None:
            raise BackendError(
                f"Reading a GGUF file needs the package {name}, which is not installed; "
                "run: pip install 'shammie[demo]'."
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' progress bars and load reports; its GGUF reader's bar has no switch of its own."""
    from transformers import modeling_gguf_pytorch_utils as reader
    from transformers.utils import logging as hf_logging

    def silent(*args: Any, **kwargs: Any) -> Any:
        return tqdm(*args, **{**kwargs, "disable": True})

    bars, level, shown = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity(), reader.tqdm
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    reader.tqdm = silent
    try:
        yield
    finally:
        reader.tqdm = shown
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


@contextlib.contextmanager
def _alone(path: Path, header: Header, what: str) -> Iterator[str]:
    """A directory that holds only `model.gguf`, so that no neighbour of the file is mixed in; translates errors."""
    with tempfile.TemporaryDirectory(prefix="shammie-gguf-") as folder:
        (Path(folder) / "model.gguf").symlink_to(path.resolve())
        try:
            yield folder
        except (ValueError, RuntimeError, LookupError, TypeError, AttributeError, ArithmeticError, OSError) as error:
            if getattr(error, "errno", None) is not None:  # the machine's trouble; transformers' own has no number
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
    import torch
    import transformers

    # Without this, files of some architectures stay packed where the `kernels` package is installed.
    unpack = getattr(transformers, "GgufConfig", None)
    options = {} if unpack is None else {"quantization_config": unpack(dequantize=True)}
    with _alone(path, header, "weights") as folder:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file="model.gguf",
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below
            **options,
        )
    _check_whole(path, header, model, {str(name) for name in info["missing_keys"]}, info["mismatched_keys"])
    if not header.tied and not model.config.tie_word_embeddings:
        _log.info("%s has an output matrix of its own, so embedding and output stay untied", path)
    # The weights are plain float32 by now; the model still claims to be quantized and would refuse to be saved.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model


def _check_whole(
    path: Path, header: Header, model: PreTrainedModel, absent: set[str], mismatched: Iterable[Sequence[Any]]
) -> None:
    """Refuse a model with weights that the file lacks, and a file with content that the model leaves out."""
    for name, *shapes in mismatched:
        raise DataError(
            f"{path} holds {name} in shape {list(shapes[0])} where its metadata ask for {list(shapes[1])}; "
            "download or copy it again."
        )
    if absent:
        raise DataError(
            f"{path} has no weights for {min(absent)} ({len(absent)} tensors are missing in all); download or copy it "
            "again, or use the model's safetensors original."
        )
    stored = header.parameters
    if model.config.tie_word_embeddings and not header.tied:
        stored -= math.prod(header.tensors["output.weight"])
    scaling = header.metadata.get(f"{header.architecture}.rope.scaling.type", "none")
    left = stored - sum(parameter.numel() for parameter in model.parameters())
    if left or (scaling != "none" and _rope_types(model.config) == {"default"}):
        what = f"{left} of its stored weights" if left else f"its {scaling} stretch of rotary positions"
        raise UnsupportedModelError(
            f"{path} cannot be converted faithfully, since transformers leaves out {what} when it reads GGUF files of "
            f"the architecture {header.architecture!r}; use the model's safetensors original."
        )


def _rope_types(config: Any) -> set[str]:
    rope = getattr(config, "rope_parameters", None) or {}
    rows = rope.values() if all(isinstance(row, dict) for row in rope.values()) else [rope]
    return {str(row.get("rope_type", "default")) for row in rows} or {"default"}


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
