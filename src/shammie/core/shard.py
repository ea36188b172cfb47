"""Weights spread over processes (FSDP2): sharding a module, and whole tensors to and from its shards."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(root: nn.Module, device: torch.device) -> None:
    """Spread the weights of `root` over all processes, layer by layer; work must then go through its forward.

    Gradients are summed, not averaged: what a sum of losses is divided by is known only once all processes have it.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    stacks = [module for module in root.modules() if isinstance(module, nn.ModuleList)]
    inner = {id(part) for stack in stacks for layer in stack for part in layer.modules()}
    for stack in stacks:
        if id(stack) not in inner:  # a layer's own lists, such as experts, go with the layer
            for layer in stack:
                fully_shard(layer, mesh=mesh)
    fully_shard(root, mesh=mesh)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # a plain sum, which gloo has too


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or put together from all processes, each of which must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor spread as `other` is."""
    if not isinstance(other, DTensor) or tensor.shape != other.shape:
        return tensor
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements)
