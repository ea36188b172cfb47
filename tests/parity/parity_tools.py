"""What the parity tests share: prompts, the sites of a model, and comparisons that do not use shammie's own."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from shammie.core.batch import Batch, pad
from shammie.core.model import LanguageModel
from shammie.core.site import READ_ONLY, Site

LENGTHS = (9, 4, 12)  # longer than the sliding windows, and unlike


def prompts(*lengths: int, seed: int = 0) -> list[list[int]]:
    """Random tokens, none of them special."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(4, 260, (length,), generator=generator).tolist() for length in lengths or LENGTHS]


def ragged(*lengths: int) -> Batch:
    return pad(prompts(*lengths))


def sites(model: LanguageModel, *, editable: bool = False) -> list[Site]:
    """Every site that the model has."""
    found = [Site("embedding")]
    for layer in range(len(model.anatomy.layers)):
        kinds = ["residual_in", "attention_out", "mlp_in", "mlp_out", "residual"]
        sparse = model.anatomy.is_sparse(layer)
        found += [Site(kind, layer) for kind in [*kinds, "router" if sparse else "neurons"]]
        if sparse:
            found.append(Site("expert_neurons", layer, (1, 3)))
    return [site for site in found if not (editable and site.kind in READ_ONLY)]


def close(left: Tensor, right: Tensor, tolerance: float = 1e-5) -> None:
    """Equal up to `tolerance` of the scale of what is compared."""
    assert left.shape == right.shape
    left, right = left.detach().double(), right.detach().double()
    assert float((left - right).abs().max() / right.square().mean().sqrt().clamp(min=1e-6)) <= tolerance


def hooks(module: nn.Module) -> int:
    """Hooks of any kind on any module."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(part, kind)) for part in module.modules() for kind in kinds)


def digest(module: nn.Module) -> str:
    """sha256 of every stored byte."""
    total = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
