"""A student out of its teacher: some of the teacher's layers with its embeddings, norms and head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.initialization import no_init_weights

from shammie.core import files
from shammie.core.errors import ShammieError, UnsupportedModelError
from shammie.core.model import LanguageModel, load, quiet
from shammie.core.task import Task

if TYPE_CHECKING:
    from shammie.core.run import Run
    from shammie.sekd.config import SekdShrink

STUDENT = "student"


def shrink(model: LanguageModel, layers: int | Sequence[int]) -> LanguageModel:
    """A model of some of another's layers, in memory of its own: a count, from both ends, or the layers by number.

    Its forward pass is the teacher's with the other layers skipped. Weight patches in force go along. Errors:
    ShammieError for a choice of layers that cannot be made, UnsupportedModelError for a model that cannot be cut.
    """
    kept = choose_layers(len(model.anatomy.layers), layers)
    _refuse(model, kept)
    with no_init_weights():
        student = AutoModelForCausalLM.from_config(_config(model, kept), dtype=model.dtype)
    student.load_state_dict(_weights(model, kept))
    student.tie_weights()
    student.generation_config = deepcopy(model.module.generation_config)
    return load(student.to(model.device), tokenizer=model.tokenizer)


def shrink_to(model: LanguageModel, layers: int | Sequence[int], output_dir: Path, *, overwrite: bool = False) -> None:
    """Write the shrunk model as a plain Hugging Face checkpoint with its tokenizer, and what it was made of."""
    student, kept = shrink(model, layers), choose_layers(len(model.anatomy.layers), layers)
    with files.atomic_directory(output_dir, overwrite=overwrite) as target, quiet():
        student.module.save_pretrained(target)
        student.tokenizer.save_pretrained(target)
        files.write_json(target / "shammie.json", {"weights": model.hash, "layers": kept})


def choose_layers(count: int, layers: int | Sequence[int]) -> list[int]:
    """Which of `count` layers to keep: the first half and the last half of as many as asked for, or those named.

    What is left out is one block in the middle, whose layers do most alike; leaving out every second layer starts twice as
    far from the teacher and stays behind it (the card has figures).
    """
    if isinstance(layers, int):
        if not 2 <= layers <= count:
            raise ShammieError(
                f"{layers} layers cannot be taken from both ends of {count}; ask for 2 to {count}, or name the layers to keep"
            )
        last = layers // 2
        return [*range(layers - last), *range(count - last, count)]
    kept = list(layers)
    if not kept or kept != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= count:
        raise ShammieError(f"layers to keep must rise within 0 to {count - 1} and be at least one, but are {kept}")
    return kept


def _refuse(model: LanguageModel, kept: Sequence[int]) -> None:
    module = model.module
    if getattr(module, "is_quantized", False):
        raise UnsupportedModelError(
            f"{model.name} is quantized, and its layers cannot be taken apart; load it unquantized"
        )
    if any(parameter.is_meta for parameter in module.parameters()):
        raise UnsupportedModelError(f"{model.name} is offloaded; load it without offloading to take layers from it")
    if getattr(module.config, "scale_attn_by_inverse_layer_idx", False) and kept != list(range(len(kept))):
        raise UnsupportedModelError(
            f"{model.name} scales attention by the number of its layer, which would change for those after a gap; "
            f"keep its first layers, such as 0 to {len(kept) - 1}"
        )


def _config(model: LanguageModel, kept: Sequence[int]) -> PreTrainedConfig:
    """The configuration with what it says of single layers brought to their new numbers."""
    config = deepcopy(model.module.config)
    config.num_hidden_layers = len(kept)
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = [config.layer_types[layer] for layer in kept]
    if hasattr(config, "mlp_only_layers"):  # Qwen says by number and by step which layers have no experts
        config.mlp_only_layers = [new for new, old in enumerate(kept) if not model.anatomy.is_sparse(old)]
        config.decoder_sparse_step = 1
    return config


def _weights(model: LanguageModel, kept: Sequence[int]) -> dict[str, Tensor]:
    """The stored tensors of what stays, under their new names."""
    family, numbers = model.anatomy.family, {old: new for new, old in enumerate(kept)}
    prefix = f"{family.body}.{family.layers}."
    found: dict[str, Tensor] = {}
    for name, tensor in model.module.state_dict().items():
        if not name.startswith(prefix):
            found[name] = tensor
            continue
        number, _, rest = name.removeprefix(prefix).partition(".")
        if int(number) in numbers:
            found[f"{prefix}{numbers[int(number)]}.{rest}"] = tensor
    return found


# -- the command -----------------------------------------------------------------------------------------------------


def prepare_shrink(config: SekdShrink) -> Task:
    """Load the teacher and check the choice of layers."""
    model = load(config.model, device=config.device, dtype=config.dtype)
    kept = choose_layers(len(model.anatomy.layers), list(config.keep) if config.layers is None else config.layers)
    _refuse(model, kept)
    facts = _facts(model, kept)

    def execute(run: Run) -> int:
        for key in run.pending([STUDENT]):
            shrink_to(model, kept, run.artifacts / STUDENT, overwrite=True)
            run.record(key, {"kind": STUDENT, **facts})
        return 0

    def estimate() -> Mapping[str, Any]:
        size = facts["parameters"] * model.dtype.itemsize / 2**20
        return {**facts, "layers": " ".join(map(str, kept)), "disk": f"{size:,.0f} MB"}

    return Task({"model": model.hash}, estimate, execute)


def _facts(model: LanguageModel, kept: Sequence[int]) -> dict[str, Any]:
    layers = [_size(layer) for layer in model.anatomy.layers]
    whole = _size(model.module)
    left = whole - sum(layers) + sum(layers[layer] for layer in kept)
    return {"layers": list(kept), "of": len(layers), "parameters": left, "teacher_parameters": whole}


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
