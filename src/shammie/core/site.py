"""Sites: named places in a decoder where a state can be read or edited."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from shammie.core.errors import SiteError

# Every kind, in the order in which a layer computes them, with what stands there.
KINDS = {
    "embedding": "token vectors as they enter the stream, before any position embedding [B, T, D]",
    "residual_in": "the residual stream entering layer L [B, T, D]",
    "attention_out": "what attention of layer L adds to the stream, after any post-norm [B, T, D]",
    "mlp_in": "the normed input of layer L's MLP or expert block [B, T, D]",
    "router": "router logits of layer L's experts, recomputed from mlp_in [B, T, E]",
    "expert_neurons": "neuron activations of chosen experts, recomputed from mlp_in [B, T, len(experts), F]",
    "neurons": "neuron activations: the input of the MLP's write matrix [B, T, F]",
    "mlp_out": "what the MLP of layer L adds to the stream, after any post-norm [B, T, D]",
    "residual": "the residual stream leaving layer L [B, T, D]",
}
READ_ONLY = frozenset({"router", "expert_neurons"})

# TransformerLens names, so that people can keep using the words they know.
_TRANSFORMER_LENS = {
    "hook_resid_pre": "residual_in",
    "hook_resid_post": "residual",
    "hook_attn_out": "attention_out",
    "hook_mlp_out": "mlp_out",
    "mlp.hook_post": "neurons",
}


@dataclass(frozen=True, order=True)
class Site:
    """One place in a model: a kind (see KINDS), a layer counted from 0, and experts where the kind needs them."""

    kind: str
    layer: int | None = None
    experts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            near = difflib.get_close_matches(self.kind, KINDS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise SiteError(f"unknown site kind {self.kind!r}; the kinds are {', '.join(KINDS)}{hint}")
        if (self.kind == "embedding") != (self.layer is None):
            rule = "takes no layer" if self.kind == "embedding" else "needs a layer, such as " + f"{self.kind}:0"
            raise SiteError(f"site {self.kind!r} {rule}")
        if (self.kind == "expert_neurons") != bool(self.experts):
            raise SiteError("expert_neurons needs experts, such as expert_neurons:3:0,5; other sites take none")

    def __str__(self) -> str:
        parts = [self.kind, *([str(self.layer)] if self.layer is not None else [])]
        return ":".join([*parts, *([",".join(map(str, self.experts))] if self.experts else [])])

    @classmethod
    def parse(cls, text: str) -> Site:
        """Read `residual:15`, `expert_neurons:3:0,5`, `embedding`, or a TransformerLens name such as `blocks.3.hook_mlp_out`."""
        text = text.strip()
        if text == "hook_embed":
            return cls("embedding")
        if lens := re.fullmatch(r"blocks\.(\d+)\.([\w.]+)", text):
            if lens[2] not in _TRANSFORMER_LENS:
                known = ", ".join(_TRANSFORMER_LENS)
                raise SiteError(
                    f"site {text!r}: of the TransformerLens names only {known} and hook_embed are known here"
                )
            return cls(_TRANSFORMER_LENS[lens[2]], int(lens[1]))
        kind, _, rest = text.partition(":")
        layer, _, experts = rest.partition(":")
        try:
            return cls(kind, int(layer) if layer else None, tuple(int(e) for e in experts.split(",") if e))
        except ValueError as error:
            if isinstance(error, SiteError):
                raise
            raise SiteError(f"site {text!r} is not of the form kind:layer, such as residual:15") from None


def parse_sites(text: str, layers: int) -> list[Site]:
    """Read a comma-free list of sites separated by spaces; `residual:*` means every layer of a model of `layers` layers."""
    sites: list[Site] = []
    for word in text.split():
        if word.endswith(":*"):
            sites.extend(Site(word[:-2], layer) for layer in range(layers))
        else:
            sites.append(Site.parse(word))
    if not sites:
        raise SiteError("no site was named; give one such as residual:15, or residual:* for every layer")
    return list(dict.fromkeys(sites))


def embedding() -> Site:
    """Token vectors entering the stream (Gemma's scaling included, position embeddings excluded)."""
    return Site("embedding")


def residual_in(layer: int) -> Site:
    """The stream before a layer."""
    return Site("residual_in", layer)


def residual(layer: int) -> Site:
    """The stream after a layer."""
    return Site("residual", layer)


def attention_out(layer: int) -> Site:
    """What a layer's attention adds to the stream."""
    return Site("attention_out", layer)


def mlp_in(layer: int) -> Site:
    """The normed input of a layer's MLP."""
    return Site("mlp_in", layer)


def mlp_out(layer: int) -> Site:
    """What a layer's MLP adds to the stream."""
    return Site("mlp_out", layer)


def neurons(layer: int) -> Site:
    """Neuron activations of a dense layer."""
    return Site("neurons", layer)


def router(layer: int) -> Site:
    """Router logits of a sparse layer."""
    return Site("router", layer)


def expert_neurons(layer: int, experts: tuple[int, ...]) -> Site:
    """Neuron activations of the given experts of a sparse layer, routed there or not."""
    return Site("expert_neurons", layer, tuple(experts))
