"""load(): a Hub id, directory, GGUF file, bundled name or loaded model becomes a LanguageModel."""

from __future__ import annotations

import hashlib
import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from shammie.core import bundled, files, gguf
from shammie.core.anatomy import FAMILIES, Anatomy, decoder_config
from shammie.core.errors import (
    DataError,
    MissingFileError,
    NonFiniteError,
    ShammieError,
    UnsupportedModelError,
)

OWN_TYPES = {"shammie_moe": "shammie.routing.modeling", "shammie_thinking": "shammie.thinking_states.modeling"}
"""Model types that transformers does not know, and where they are."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(eq=False)
class LanguageModel:
    """A Hugging Face decoder with its tokenizer and anatomy. The module stays the user's own and is never rebuilt."""

    module: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    source: Path | None = None  # the directory of its stored weights, if it has one
    patches: list[str] = field(default_factory=list)  # hashes of the weight patches in force, oldest first
    edits_in_force: int = 0

    @cached_property
    def anatomy(self) -> Anatomy:
        """Where this model's parts are."""
        return Anatomy(self.module)

    @property
    def device(self) -> torch.device:
        """Where token ids go: the device of the embedding."""
        return self.anatomy.embedding.weight.device  # type: ignore[return-value]

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype."""
        return self.module.dtype

    @cached_property
    def stored_hash(self) -> str:
        """sha256 of the stored weights (of the values in memory for a model that was passed in loaded)."""
        return _hash_directory(self.source) if self.source else _hash_module(self.module)

    @property
    def hash(self) -> str:
        """Identity of the weights in force: the stored bytes and the chain of patches applied to them."""
        stored = self.stored_hash
        return files.sha256_bytes("\n".join([stored, *self.patches]).encode()) if self.patches else stored


def load(
    source: str | Path | PreTrainedModel | LanguageModel,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: str | None = None,
    dtype: str = "auto",
    device_map: str | dict[str, Any] | None = None,
    revision: str | None = None,
    attention: str | None = None,
) -> LanguageModel:
    """Load a model for reading and editing.

    Args:
        source: Hub id, local directory, GGUF file, bundled name (`smollm2-135m`, `gemma-3-270m`), or a loaded model.
        tokenizer: needed with a loaded model; otherwise loaded beside the weights.
        device: such as `cpu` or `cuda`; ignored for a loaded model.
        dtype: `auto` keeps the stored dtype; or float32, bfloat16, float16.
        device_map: passed to transformers (needs accelerate).
        revision: Hub commit, tag or branch.
        attention: transformers' attention implementation, such as `eager`.

    Errors: MissingFileError, DataError, UnsupportedModelError, NonFiniteError, each one sentence.
    """
    if isinstance(source, LanguageModel):
        return source
    if isinstance(source, PreTrainedModel):
        if tokenizer is None:
            raise ShammieError("a loaded model needs its tokenizer: load(model, tokenizer=tokenizer)")
        return _finish(LanguageModel(source.eval(), tokenizer, source.name_or_path or type(source).__name__))
    if dtype != "auto" and dtype not in DTYPES:
        raise ShammieError(f"dtype {dtype!r} is not one of auto, {', '.join(DTYPES)}")
    directory, weights = _locate(str(source))
    options: dict[str, Any] = {"dtype": DTYPES.get(dtype, "auto"), "device_map": device_map, "revision": revision}
    options |= {"attn_implementation": attention} if attention else {}
    module, loaded_tokenizer = _read(weights, tokenizer, options)
    if device is not None and device_map is None:
        module = _move(module, device)
    if directory is None:
        directory = _hub_snapshot(weights, revision)
    return _finish(LanguageModel(module.eval(), loaded_tokenizer, str(source), directory))


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer alone of what `load` takes, for models that run elsewhere. Errors as `load`."""
    _, place = _locate(str(source))
    with quiet(), _reading(place, "tokenizer"):
        return AutoTokenizer.from_pretrained(place, trust_remote_code=False)


def _locate(source: str) -> tuple[Path | None, str]:
    """The local directory (None for a Hub id) and what transformers is to load."""
    if source in bundled.BUNDLED:
        directory = bundled.bundled_path(source)
        return directory, str(directory)
    path = Path(source).expanduser()
    if source.endswith(".gguf"):
        if not path.is_file():
            raise MissingFileError(f"no GGUF file at {source}")
        directory = gguf.convert_gguf(path)
        return directory, str(directory)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise MissingFileError(f"{source} is no model directory: it has no config.json")
        return path, str(path)
    if path.exists():
        raise DataError(f"{source} is a file, but neither a GGUF file nor a model directory")
    if source.count("/") > 1 or source.startswith((".", "/", "~")):
        raise MissingFileError(f"no model directory at {source}")
    return None, source


def _read(
    weights: str, tokenizer: PreTrainedTokenizerBase | None, options: dict[str, Any]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    revision = {"revision": options.pop("revision")}
    with quiet():
        with _reading(weights, "config"):
            _register(weights, **revision)
            config = AutoConfig.from_pretrained(weights, trust_remote_code=False, **revision)
        if (kind := decoder_config(config).model_type) not in FAMILIES:
            raise UnsupportedModelError(
                f"{weights} is of model type {kind!r}, which has no anatomy row; "
                f"supported: {', '.join(sorted(FAMILIES))}"
            )
        with _reading(weights, "config or weights"):
            module, info = AutoModelForCausalLM.from_pretrained(
                weights, config=config, trust_remote_code=False, use_safetensors=True, output_loading_info=True,
                ignore_mismatched_sizes=True, **options, **revision,
            )  # fmt: skip
        with _reading(weights, "tokenizer"):
            tokenizer = tokenizer or AutoTokenizer.from_pretrained(weights, trust_remote_code=False, **revision)
    if absent := sorted(info["missing_keys"]):
        raise DataError(f"{weights} lacks weights that its config asks for, such as {absent[0]} ({len(absent)} in all)")
    for name, found, wanted in sorted(info["mismatched_keys"]):
        raise DataError(
            f"{weights} does not fit its config: {name} is stored as {tuple(found)}, not as {tuple(wanted)}"
        )
    return module, tokenizer


def _register(weights: str, **revision: Any) -> None:
    """Make a model type of our own known to transformers, by importing the room that has it."""
    kind = PreTrainedConfig.get_config_dict(weights, **revision)[0].get("model_type")
    if kind in OWN_TYPES:
        importlib.import_module(OWN_TYPES[kind])


@contextmanager
def _reading(weights: str, part: str) -> Iterator[None]:
    """Turn whatever transformers raises over a part of a model into one sentence."""
    try:
        yield
    except (ShammieError, MemoryError, torch.OutOfMemoryError):
        raise
    except SafetensorError as error:
        raise DataError(f"{weights}: a safetensors file is corrupt or cut short ({error}); fetch it again") from None
    except Exception as error:
        reason = " ".join(str(error).split())[:240] or type(error).__name__
        if isinstance(error, OSError | HFValidationError):
            raise MissingFileError(f"cannot load {weights!r} from disk or the Hub: {reason}") from None
        raise DataError(f"{weights}: its {part} cannot be used ({reason}); mend or fetch it again") from None


def _move(module: PreTrainedModel, device: str) -> PreTrainedModel:
    try:
        return module.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ShammieError(f"cannot use device {device!r}: {str(error).splitlines()[0]}") from None


def _hub_snapshot(weights: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(weights, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def _finish(model: LanguageModel) -> LanguageModel:
    _ = model.anatomy  # refuses an unsupported module here rather than at first use
    for name, parameter in model.module.named_parameters():
        # A sum carries every NaN and infinity along at a fraction of the cost of a mask; overflow is looked at again.
        if parameter.is_floating_point() and not parameter.detach().sum().isfinite():  # noqa: SIM102
            if not parameter.detach().isfinite().all():
                raise NonFiniteError(f"{model.name}: weight {name} holds NaN or infinity")
    return model


class quiet:  # noqa: N801 - a context manager, used as a function
    """Hold back transformers' load reports and progress bars; what matters in them is raised as an error instead."""

    def __enter__(self) -> None:
        self.level = transformers_logging.get_verbosity()
        self.bars = transformers_logging.is_progress_bar_enabled()
        transformers_logging.set_verbosity(logging.CRITICAL)
        transformers_logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        transformers_logging.set_verbosity(self.level)
        if self.bars:
            transformers_logging.enable_progress_bar()


def _hash_directory(directory: Path) -> str:
    if converted := gguf.read_source(directory):  # from a GGUF file: those bytes are the stored ones
        return str(converted["sha256"])
    stored = sorted(directory.glob("*.safetensors"))
    if not stored:
        raise MissingFileError(f"{directory} holds no *.safetensors file to take the hash of")
    digests = sorted(files.sha256_file(path.resolve()) for path in stored)
    return digests[0] if len(digests) == 1 else files.sha256_bytes("\n".join(digests).encode())


def _hash_module(module: PreTrainedModel) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
