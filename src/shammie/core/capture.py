"""Read the states at any set of sites; the forward pass stops at the deepest site asked for."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shammie.core.anatomy import Anatomy, HookPoint
from shammie.core.batch import Batch
from shammie.core.errors import SiteError
from shammie.core.model import LanguageModel
from shammie.core.position import Positions, rows_of
from shammie.core.site import Site


@dataclass(frozen=True)
class Captured:
    """States of one batch.

    Without positions each state is [B, T, ...], padding slots included. With positions it is packed [N, ...], in row
    order, and `row` and `position` [N] say which token each is. Logits [B, T, V] or [N, V] only when asked for.
    """

    states: dict[Site, Float[Tensor, "..."]]
    row: Int[Tensor, "..."]
    position: Int[Tensor, "..."]
    logits: Float[Tensor, "..."] | None = None

    def __getitem__(self, site: Site) -> Tensor:
        return self.states[site]


class _Deepest(Exception):  # noqa: N818 - a signal, not an error
    """Everything asked for has been seen."""


def capture(
    model: LanguageModel,
    batch: Batch,
    sites: Sequence[Site],
    *,
    positions: Positions | None = None,
    logits: bool = False,
    gradients: bool = False,
) -> Captured:
    """States at sites for a batch, under whatever edits are in force (a later hook sees the edited state).

    Args:
        positions: keep only these tokens, packed; None keeps the padded grid and copies nothing.
        logits: also compute logits (at `positions` if given); without it the model stops at the deepest site.
        gradients: keep the graph, so that `torch.autograd.grad` reaches states, edits and weights.

    Errors: SiteError for a site the model lacks, or positions that choose no token of some prompt.
    """
    if not sites and not logits:
        raise SiteError("nothing to capture: name at least one site")
    model.anatomy.check_length(int(batch.lengths.max()))
    frame = batch.frame
    chosen = None if positions is None else positions.mask(frame)
    if chosen is not None and not bool(chosen.any(-1).all()):
        empty = int((~chosen.any(-1)).nonzero()[0, 0])
        raise SiteError(
            f"{positions} chooses no token of prompt {int(batch.row[empty])} ({int(batch.lengths[empty])} tokens)"
        )
    states: dict[Site, Tensor] = {}
    waiting = set(sites)

    def keep(site: Site, state: Tensor) -> Tensor:
        shaped = state if state.shape[:-1] == batch.ids.shape else state.view(*batch.ids.shape, -1)  # OPT flattens
        kept = shaped if chosen is None else shaped[chosen]
        states[site] = _derived(model.anatomy, site, kept)
        waiting.discard(site)
        if not waiting and not logits:
            raise _Deepest
        if not gradients or kept is state:
            return state
        # The model goes on from what is handed out here, or no gradient would reach that.
        return (shaped if chosen is None else shaped.index_put((chosen,), kept)).view(state.shape)

    hidden = None
    with ExitStack() as stack:
        for site in dict.fromkeys(sites):
            stack.callback(_install(site, model.anatomy.hook_point(site), keep).remove)
        stack.enter_context(nullcontext() if gradients else torch.no_grad())
        stack.enter_context(rows_of(batch.row, batch.lengths))
        with suppress(_Deepest):
            hidden = model.anatomy.body(**batch.inputs(), use_cache=False).last_hidden_state
        scores = None
        if logits:
            assert hidden is not None
            scores = model.anatomy.unembed(hidden if chosen is None else hidden[chosen])
    row = batch.row[:, None].expand_as(frame.position)
    if chosen is not None:
        return Captured(states, row[chosen], frame.position[chosen], scores)
    return Captured(states, row, frame.position, scores)


def _install(site: Site, point: HookPoint, keep: Any) -> Any:
    def at_input(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (keep(site, args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": keep(site, kwargs["hidden_states"])}

    def at_output(_module: Any, _args: Any, output: Any) -> Any:
        return (keep(site, output[0]), *output[1:]) if isinstance(output, tuple) else keep(site, output)

    if point.at_input:
        return point.module.register_forward_pre_hook(at_input, with_kwargs=True)
    return point.module.register_forward_hook(at_output)


def _derived(anatomy: Anatomy, site: Site, state: Tensor) -> Tensor:
    """The state itself, or for expert sites what follows from mlp_in."""
    if site.kind == "router":
        assert site.layer is not None
        return anatomy.router_logits(site.layer, state)
    if site.kind == "expert_neurons":
        assert site.layer is not None
        return anatomy.expert_neurons(site.layer, site.experts, state)
    return state
