"""Activation edits: differentiable functions put on a site inside a `with` that always restores the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shammie.core.anatomy import HookPoint
from shammie.core.errors import SiteError
from shammie.core.model import LanguageModel
from shammie.core.position import ALL, FrameTracker, Positions
from shammie.core.site import READ_ONLY, Site

# (state [B, T, D], absolute position [B, T], prompt of each row [B]) -> state [B, T, D]
EditFunction = Callable[[Float[Tensor, "B T D"], Int[Tensor, "B T"], Int[Tensor, " B"]], Float[Tensor, "B T D"]]


@dataclass(frozen=True, eq=False)
class Edit:
    """A function on the state of a site, at chosen positions and, if given, on chosen coordinates (such as neurons)."""

    site: Site
    function: EditFunction
    positions: Positions = ALL
    coordinates: tuple[int, ...] | None = None


def add(
    site: Site, vector: Float[Tensor, " D"], *, strength: float = 1.0, positions: Positions = ALL,
    coordinates: Sequence[int] | None = None,
) -> Edit:  # fmt: skip
    """Add strength * vector."""

    def shifted(state: Tensor, _position: Tensor, _row: Tensor) -> Tensor:
        _check_width(site, vector, state)
        return state + strength * vector.to(state)

    return Edit(site, shifted, positions, _tuple(coordinates))


def scale(site: Site, factor: float, *, positions: Positions = ALL, coordinates: Sequence[int] | None = None) -> Edit:
    """Multiply by a factor: 0 ablates, -1 flips."""
    return Edit(site, lambda state, _p, _r: state * factor, positions, _tuple(coordinates))


def clamp(
    site: Site, low: float | None = None, high: float | None = None, *, positions: Positions = ALL,
    coordinates: Sequence[int] | None = None,
) -> Edit:  # fmt: skip
    """Limit each coordinate to [low, high]; low = high sets it."""
    return Edit(site, lambda state, _p, _r: state.clamp(low, high), positions, _tuple(coordinates))


def project_out(site: Site, directions: Float[Tensor, "R D"], *, positions: Positions = ALL) -> Edit:
    """Remove the span of the directions from the state."""
    _, sizes, vectors = torch.linalg.svd(directions.float().reshape(-1, directions.shape[-1]), full_matrices=False)
    basis = vectors[sizes > 1e-5 * sizes.max()].T  # directions that depend on one another span less

    def remove(state: Tensor, _position: Tensor, _row: Tensor) -> Tensor:
        _check_width(site, basis.T, state)
        span = basis.to(state.device)
        return state - ((state.float() @ span) @ span.T).to(state.dtype)

    return Edit(site, remove, positions)


def replace(
    site: Site, values: Float[Tensor, "..."], *, positions: Positions = ALL, coordinates: Sequence[int] | None = None
) -> Edit:
    """Overwrite with values [D], [row, D], or [row, position, D] by prompt and absolute position.

    With [row, position, D], positions beyond the table keep their state.
    """

    def overwrite(state: Tensor, position: Tensor, row: Tensor) -> Tensor:
        _check_width(site, values, state)
        table = values.to(state)
        if table.ndim == 1:
            return table.expand_as(state)
        if int(row.max()) >= len(table):
            raise SiteError(
                f"values at {site} are given for {len(table)} prompts, but the batch has prompt {int(row.max())}"
            )
        if table.ndim == 2:
            return table[row][:, None].expand_as(state)
        chosen = table[row[:, None], position.clamp(max=table.shape[1] - 1)]
        return torch.where((position < table.shape[1])[..., None], chosen, state)

    return Edit(site, overwrite, positions, _tuple(coordinates))


def _check_width(site: Site, values: Tensor, state: Tensor) -> None:
    if values.ndim and values.shape[-1] not in (1, state.shape[-1]):
        raise SiteError(f"the edit at {site} brings {values.shape[-1]} numbers for a state of {state.shape[-1]}")


def _tuple(coordinates: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if coordinates is None else tuple(coordinates)


@contextmanager
def edited(model: LanguageModel, edits: Sequence[Edit]) -> Iterator[None]:
    """Run the model with edits in force, under plain forward passes, generation, cache and padding alike.

    Gradients flow through the edits. On leaving, also by an exception, every hook is gone. An edit that chose no token
    in any forward pass raises SiteError instead of passing in silence.
    """
    tracker = FrameTracker()
    touched: list[list[Tensor]] = [[] for _ in edits]
    with ExitStack() as stack:
        for edit, log in zip(edits, touched, strict=True):
            if edit.site.kind in READ_ONLY:
                raise SiteError(f"site {edit.site} is recomputed beside the model and can only be read")
            point, width = model.anatomy.hook_point(edit.site), model.anatomy.site_width(edit.site)
            if astray := [at for at in edit.coordinates or () if not 0 <= at < width]:
                raise SiteError(f"{edit.site} has no coordinate {astray[0]}; it has 0 to {width - 1}")
            stack.callback(_install(edit, point, tracker, log).remove)
        stack.callback(model.anatomy.body.register_forward_pre_hook(tracker, prepend=True, with_kwargs=True).remove)
        model.edits_in_force += len(edits)
        stack.callback(_leave, model, len(edits))
        yield
    for edit, log in zip(edits, touched, strict=True):
        if log and not any(bool(chosen) for chosen in log):
            raise SiteError(f"the edit at {edit.site} chose no token: {edit.positions} lies outside what was run")


def _leave(model: LanguageModel, count: int) -> None:
    model.edits_in_force -= count


def _install(edit: Edit, point: HookPoint, tracker: FrameTracker, log: list[Tensor]) -> Any:
    def change(state: Tensor) -> Tensor:
        frame = tracker.frame
        assert frame is not None, "the body runs before its layers"
        shaped = state.view(*frame.position.shape, -1)  # OPT flattens batch and time inside its MLP
        chosen = edit.positions.mask(frame)
        seen = chosen.any()
        log[:] = [log[0] | seen] if log else [seen]
        part = shaped if edit.coordinates is None else shaped[..., list(edit.coordinates)]
        new = torch.where(chosen[..., None], edit.function(part, frame.position, frame.row).to(part.dtype), part)
        if edit.coordinates is not None:
            index = torch.tensor(edit.coordinates, device=shaped.device)
            new = shaped.index_copy(-1, index, new)
        return new.view(state.shape)

    def at_input(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    def at_output(_module: Any, _args: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    if point.at_input:
        return point.module.register_forward_pre_hook(at_input, with_kwargs=True)
    return point.module.register_forward_hook(at_output)
