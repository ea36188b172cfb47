"""One table row per architecture family: where its layers, sites and weights are.

A row is a claim about a family; `core.doctor` proves it on loaded weights. A model without a row is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from shammie.core.errors import DataError, SiteError, UnsupportedModelError
from shammie.core.site import Site


@dataclass(frozen=True)
class Family:
    """Module paths of one family: `body` within the model, the rest within the body or within a layer."""

    body: str = "model"  # the module that maps token ids to normed last states
    layers: str = "layers"
    embedding: str = "embed_tokens"
    position_embedding: str | None = None  # a learned table added to the token vectors
    final_norm: str = "norm"
    unembedding: str = "lm_head"
    attention_added: str = "self_attn"  # the module whose output joins the stream: attention, or its post-norm
    mlp: str = "mlp"  # the module that takes mlp_in
    mlp_norm: str | None = "post_attention_layernorm"  # whose output mlp_in is; None where the MLP reads the stream
    mlp_added: str = "mlp"
    gate: str | None = "mlp.gate_proj"
    read: str = "mlp.up_proj"
    write: str = "mlp.down_proj"
    activation: str = "mlp.act_fn"
    fused: bool = False  # gate and read in one matrix, gate first
    transposed: bool = False  # weights stored (input, output)
    router: str | None = None
    experts: str | None = None
    interleaved: bool = False  # expert gate and read alternate, (input, output), with biases


_LLAMA = Family()
_POST_NORM = replace(
    _LLAMA,
    attention_added="post_attention_layernorm",
    mlp_added="post_feedforward_layernorm",
    mlp_norm="pre_feedforward_layernorm",
)
_SPARSE = replace(_LLAMA, router="mlp.gate", experts="mlp.experts")
FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _POST_NORM,
    "gemma3_text": _POST_NORM,
    "olmo2": replace(_POST_NORM, mlp_norm=None),
    "phi3": replace(_LLAMA, gate="mlp.gate_up_proj", read="mlp.gate_up_proj", activation="mlp.activation_fn", fused=True),
    "gpt2": Family(
        body="transformer", layers="h", embedding="wte", position_embedding="wpe", final_norm="ln_f",
        attention_added="attn", mlp_norm="ln_2", gate=None, read="mlp.c_fc", write="mlp.c_proj",
        activation="mlp.act", transposed=True,
    ),
    "gpt_neox": Family(
        body="gpt_neox", embedding="embed_in", final_norm="final_layer_norm", attention_added="attention",
        gate=None, read="mlp.dense_h_to_4h", write="mlp.dense_4h_to_h", activation="mlp.act",
    ),
    "opt": Family(
        body="model.decoder", position_embedding="embed_positions", final_norm="final_layer_norm",
        mlp="fc1", mlp_norm="final_layer_norm", mlp_added="fc2", gate=None, read="fc1", write="fc2", activation="activation_fn",
    ),
    "mixtral": _SPARSE,
    "qwen3_moe": _SPARSE,
    "olmoe": _SPARSE,
    "shammie_moe": _SPARSE,
    "gpt_oss": replace(_SPARSE, router="mlp.router", interleaved=True),
}  # fmt: skip
WRAPPERS = ("shammie_thinking",)
"""Model types of our own around a decoder, their `backbone`, whose row is theirs one module down."""


def decoder_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config of the decoder itself."""
    return config.backbone if config.model_type in WRAPPERS else config


@dataclass(frozen=True)
class WeightSlice:
    """A matrix inside a stored parameter, seen so that each row is one neuron, token or expert.

    `view` shares memory with the parameter, so the slice that is read is the slice that a WeightPatch changes.
    """

    parameter: str
    expert: int | None = None
    start: int = 0
    stop: int | None = None
    step: int = 1
    transposed: bool = False  # rows of the slice are columns of the stored matrix

    def view(self, module: nn.Module) -> Float[Tensor, "N D"]:
        """The oriented matrix as a view of the parameter, without gradient."""
        matrix = module.get_parameter(self.parameter).detach()
        matrix = matrix if self.expert is None else matrix[self.expert]
        matrix = matrix.T if self.transposed else matrix
        return matrix[self.start : self.stop : self.step]


@dataclass(frozen=True)
class MlpWeights:
    """The slices of one MLP: row j of each is neuron j. `gate` is None in two-matrix MLPs."""

    gate: WeightSlice | None
    read: WeightSlice
    write: WeightSlice


@dataclass(frozen=True)
class HookPoint:
    """Where a site is hooked: the module, and whether its input or its output is the state."""

    module: nn.Module
    at_input: bool


class Anatomy:
    """A loaded model's parts under one vocabulary. Raises UnsupportedModelError for what has no proven row."""

    def __init__(self, module: PreTrainedModel) -> None:
        self.module = module
        self.config = decoder_config(module.config)
        self.model_type = str(self.config.model_type)
        if self.model_type not in FAMILIES:
            raise UnsupportedModelError(
                f"model type {self.model_type!r} ({type(module).__name__}) has no anatomy row; "
                f"supported: {', '.join(sorted(FAMILIES))}"
            )
        self.family = FAMILIES[self.model_type]
        if self.config is not module.config:
            body, unembedding = f"backbone.{self.family.body}", f"backbone.{self.family.unembedding}"
            self.family = replace(self.family, body=body, unembedding=unembedding)
        self._refuse_variants()
        self.body = self._get(module, self.family.body)
        self.layers = list(self._get(self.body, self.family.layers).children())
        self.embedding = self._get(self.body, self.family.embedding)
        self.final_norm = self._get(self.body, self.family.final_norm)
        self.unembedding = self._get(module, self.family.unembedding)
        for layer in range(len(self.layers)):
            for path in self._layer_paths(layer):
                self._get(self.layers[layer], path)
        self.soft_cap: float | None = getattr(self.config, "final_logit_softcapping", None)
        self.width = int(self.config.hidden_size)
        self.vocabulary_size = self.unembedding_weights.view(module).shape[0]

    def _refuse_variants(self) -> None:
        config = self.config
        if self.model_type == "opt" and not config.do_layer_norm_before:
            raise UnsupportedModelError(
                "this OPT normalises after adding to the stream (do_layer_norm_before=False), so no site holds what a "
                "layer adds; use another OPT size"
            )
        if self.model_type == "opt" and config.word_embed_proj_dim != config.hidden_size:
            raise UnsupportedModelError(
                "this OPT projects its embeddings (word_embed_proj_dim differs from hidden_size)"
            )
        if getattr(config, "add_cross_attention", False):
            raise UnsupportedModelError("decoders with cross-attention are not supported")

    def _get(self, root: nn.Module, path: str) -> nn.Module:
        try:
            return root.get_submodule(path)
        except AttributeError:
            raise UnsupportedModelError(
                f"{type(self.module).__name__} ({self.model_type}) has no module {path!r} in {type(root).__name__}, "
                "where this family's anatomy row looks for it"
            ) from None

    def _layer_paths(self, layer: int) -> list[str]:
        family = self.family
        if self.is_sparse(layer):
            assert family.router is not None
            return [family.attention_added, family.mlp, family.mlp_added, family.router]
        paths = [
            family.attention_added,
            family.mlp_norm,
            family.mlp,
            family.mlp_added,
            family.gate,
            family.read,
            family.write,
        ]
        return [path for path in [*paths, family.activation] if path]

    # -- shape ---------------------------------------------------------------------------------------------------

    @property
    def tied(self) -> bool:
        """Whether embedding and unembedding are one matrix now."""
        return self.embedding.weight is self.unembedding.weight

    def is_sparse(self, layer: int) -> bool:
        """Whether a layer routes tokens to experts."""
        experts = self.family.experts
        return experts is not None and hasattr(
            self.layers[layer].get_submodule(self.family.mlp), experts.split(".")[-1]
        )

    def neuron_count(self, layer: int) -> int:
        """F: neurons of a layer's MLP, or of one expert."""
        return self.mlp_weights(layer, 0 if self.is_sparse(layer) else None).read.view(self.module).shape[0]

    def expert_count(self, layer: int) -> int:
        """E: experts of a sparse layer, 0 in a dense one."""
        if not self.is_sparse(layer):
            return 0
        assert self.family.experts is not None
        return int(self.layers[layer].get_parameter(f"{self.family.experts}.gate_up_proj").shape[0])

    def check_layer(self, layer: int) -> None:
        """Raise SiteError unless the layer exists."""
        if not 0 <= layer < len(self.layers):
            raise SiteError(f"layer {layer} does not exist; this model has layers 0 to {len(self.layers) - 1}")

    def check_length(self, tokens: int) -> None:
        """Raise DataError for more tokens than a learned position table holds (rotary families have no such end)."""
        limit = int(self.config.max_position_embeddings)
        if self.family.position_embedding is not None and tokens > limit:
            raise DataError(
                f"{tokens} tokens are more than the {limit} positions that this {self.model_type} model learned"
            )

    # -- weights -------------------------------------------------------------------------------------------------

    @property
    def embedding_weights(self) -> WeightSlice:
        """Rows are tokens; a row is the stored vector, before any scaling inside the embedding module."""
        return WeightSlice(f"{self.family.body}.{self.family.embedding}.weight")

    @property
    def unembedding_weights(self) -> WeightSlice:
        """Rows are tokens. The same stored matrix as `embedding_weights` while the model is tied."""
        return WeightSlice(f"{self.family.unembedding}.weight")

    def mlp_weights(self, layer: int, expert: int | None = None) -> MlpWeights:
        """Gate, read and write vectors of a layer's neurons [F, D]; of one expert in a sparse layer."""
        self.check_layer(layer)
        if self.is_sparse(layer) != (expert is not None):
            rule = "name one of its experts" if self.is_sparse(layer) else "it has no experts"
            raise SiteError(f"layer {layer} is {'sparse' if self.is_sparse(layer) else 'dense'}: {rule}")
        prefix = f"{self.family.body}.{self.family.layers}.{layer}."
        if expert is not None:
            return self._expert_weights(prefix, layer, expert)
        family = self.family
        read, write = f"{prefix}{family.read}.weight", f"{prefix}{family.write}.weight"
        if family.fused:
            half = self.module.get_parameter(read).shape[0] // 2
            gate: WeightSlice | None = WeightSlice(read, stop=half)
            return MlpWeights(gate, WeightSlice(read, start=half), WeightSlice(write, transposed=True))
        gate = WeightSlice(f"{prefix}{family.gate}.weight") if family.gate else None
        flip = family.transposed
        return MlpWeights(gate, WeightSlice(read, transposed=flip), WeightSlice(write, transposed=not flip))

    def _expert_weights(self, prefix: str, layer: int, expert: int) -> MlpWeights:
        if not 0 <= expert < self.expert_count(layer):
            raise SiteError(
                f"expert {expert} does not exist; layer {layer} has experts 0 to {self.expert_count(layer) - 1}"
            )
        read, write = (f"{prefix}{self.family.experts}.{name}" for name in ("gate_up_proj", "down_proj"))
        if self.family.interleaved:
            gate = WeightSlice(read, expert, step=2, transposed=True)
            return MlpWeights(gate, replace(gate, start=1), WeightSlice(write, expert))
        half = self.module.get_parameter(read).shape[1] // 2
        gate = WeightSlice(read, expert, stop=half)
        return MlpWeights(gate, WeightSlice(read, expert, start=half), WeightSlice(write, expert, transposed=True))

    # -- sites ---------------------------------------------------------------------------------------------------

    def hook_point(self, site: Site) -> HookPoint:
        """The module to hook for a site. Router and expert sites are hooked at mlp_in and recomputed from it."""
        if site.layer is None:
            return HookPoint(self.embedding, at_input=False)
        self.check_layer(site.layer)
        layer, family, sparse = self.layers[site.layer], self.family, self.is_sparse(site.layer)
        if site.kind in ("router", "expert_neurons") and not sparse:
            raise SiteError(f"site {site} does not exist: layer {site.layer} of this {self.model_type} model is dense")
        if site.kind == "neurons" and sparse:
            raise SiteError(
                f"site {site} does not exist in a sparse layer; use expert_neurons:{site.layer}:0 for expert 0"
            )
        for expert in site.experts:
            self.mlp_weights(site.layer, expert)
        if site.kind in ("residual", "residual_in"):
            return HookPoint(layer, at_input=site.kind == "residual_in")
        path, at_input = {
            "attention_out": (family.attention_added, False),
            "mlp_in": (family.mlp, True),
            "router": (family.mlp, True),
            "expert_neurons": (family.mlp, True),
            "neurons": (family.write, True),
            "mlp_out": (family.mlp_added, False),
        }[site.kind]
        return HookPoint(layer.get_submodule(path), at_input)

    def site_width(self, site: Site) -> int:
        """Numbers that a site holds for each token; of expert_neurons, all its experts together."""
        if site.layer is not None and site.kind in ("neurons", "expert_neurons"):
            return self.neuron_count(site.layer) * max(1, len(site.experts))
        return self.expert_count(site.layer) if site.layer is not None and site.kind == "router" else self.width

    def router_logits(self, layer: int, mlp_in: Float[Tensor, "*N D"]) -> Float[Tensor, "*N E"]:
        """Scores of each expert before top-k and softmax."""
        assert self.family.router is not None
        gate = self.layers[layer].get_submodule(self.family.router)
        if score := getattr(gate, "score", None):  # a router of our own
            return score(mlp_in.float().flatten(0, -2)).unflatten(0, mlp_in.shape[:-1])
        return nn.functional.linear(mlp_in, gate.weight, getattr(gate, "bias", None))  # type: ignore[arg-type]

    def expert_neurons(
        self, layer: int, experts: tuple[int, ...], mlp_in: Float[Tensor, "*N D"]
    ) -> Float[Tensor, "*N K F"]:
        """What the neurons of each expert would do with these inputs, whether or not the router sends them there."""
        assert self.family.experts is not None
        block = self.layers[layer].get_submodule(self.family.experts)
        states = []
        for expert in experts:
            weights = self.mlp_weights(layer, expert)
            assert weights.gate is not None
            gate = mlp_in @ weights.gate.view(self.module).T
            read = mlp_in @ weights.read.view(self.module).T
            if self.family.interleaved:
                bias = block.get_parameter("gate_up_proj_bias")[expert]
                both = torch.stack([gate + bias[0::2], read + bias[1::2]], dim=-1).flatten(-2)
                states.append(block._apply_gate(both))  # type: ignore[operator]
            else:
                states.append(block.act_fn(gate) * read)  # type: ignore[operator]
        return torch.stack(states, dim=-2)

    # -- from states to tokens -----------------------------------------------------------------------------------

    def normed(self, states: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        """Final norm."""
        return self.final_norm(states)

    def unembed(self, normed: Float[Tensor, "*N D"], *, cap: bool = True) -> Float[Tensor, "*N V"]:
        """Logits of final-normed states; `cap` applies the family's logit soft cap (Gemma 2)."""
        logits = self.unembedding(normed)
        if cap and self.soft_cap:
            logits = torch.tanh(logits / self.soft_cap) * self.soft_cap
        return logits
