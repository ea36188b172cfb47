"""A decoder that thinks while it reads, as a Hugging Face model: any dense rotary decoder, a thinking block, a compression block.

Importing this module makes the model type `shammie_thinking` known to the Auto classes; `shammie.load` does so by itself.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.configuration_utils import SubConfigSpec

from shammie.core.anatomy import Anatomy
from shammie.core.errors import UnsupportedModelError
from shammie.core.plain import from_plain, to_plain
from shammie.thinking_states import equations as eq
from shammie.thinking_states.settings import ThinkingSettings


@dataclass(eq=False)
class Begun:
    """Thoughts after their first token: the thinking block's cache, which slots of their chunks are filled, the token."""

    past: DynamicCache
    filled: Bool[Tensor, "N C"]
    token: Int[Tensor, " N"]

    def select(self, rows: Int[Tensor, " M"]) -> Begun:
        """Some of them; the others' cache is forgotten."""
        self.past.batch_select_indices(rows)
        return Begun(self.past, self.filled[rows], self.token[rows])


class ShammieThinkingConfig(PreTrainedConfig):
    """The backbone's config, and where thoughts are made and put back."""

    model_type = "shammie_thinking"
    sub_configs_defaults = {"backbone": SubConfigSpec(config_class=AutoConfig, model_type="llama")}  # noqa: RUF012
    backbone: dict[str, Any] | PreTrainedConfig | None = None
    thinking: dict[str, Any] | None = None
    end_token: int | None = None

    @property
    def thinking_settings(self) -> ThinkingSettings:
        """Where thoughts are made and put back."""
        return from_plain(ThinkingSettings, self.thinking or {})


class ShammieThinkingForCausalLM(PreTrainedModel):
    """A backbone with hooks at two layers, and both blocks, each a one-layer model of the backbone's own kind.

    Called like a model it is its backbone, without any state; `read` adds states and gives what thoughts are made of.
    """

    config_class = ShammieThinkingConfig
    base_model_prefix = "backbone"
    _no_split_modules: Sequence[str] = ()

    def __init__(self, config: ShammieThinkingConfig) -> None:
        super().__init__(config)
        self.settings = config.thinking_settings
        self.backbone = AutoModelForCausalLM.from_config(config.backbone)
        self.anatomy = anatomy = thinkable(self.backbone)
        inject, extract = self.settings.layers(len(anatomy.layers))
        self.thinker = _one_layer(config.backbone, len(anatomy.layers) - 1)
        compressor = Anatomy(_one_layer(config.backbone, 0))
        setattr(compressor.body, compressor.family.final_norm, nn.Identity())  # its outputs join the stream as they are
        self.compressor = compressor.body
        self._added: Tensor | None = None
        self._extracted: Tensor | None = None
        anatomy.layers[inject].register_forward_hook(self._inject)
        anatomy.layers[extract].register_forward_hook(self._extract)
        self.post_init()
        self.generation_config = self.backbone.generation_config

    def _inject(self, _module: nn.Module, _args: Any, state: Tensor) -> Tensor:
        return state if self._added is None else state + self._added.to(state.dtype)

    def _extract(self, _module: nn.Module, _args: Any, state: Tensor) -> None:
        self._extracted = state

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The backbone's own forward."""
        return self.backbone(*args, **kwargs)

    def get_input_embeddings(self) -> nn.Module:
        """The backbone's."""
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """The backbone's."""
        self.backbone.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The backbone's."""
        return self.backbone.get_output_embeddings()

    @property
    def end(self) -> int:
        """The token that ends a thought, and begins it."""
        assert self.config.end_token is not None
        return int(self.config.end_token)

    @contextmanager
    def adding(self, states: Float[Tensor, "B T D"] | None) -> Iterator[None]:
        """What is added after the injection layer in the forward passes inside."""
        self._added = states
        try:
            yield
        finally:
            self._added = None

    @property
    def extracted(self) -> Float[Tensor, "B T D"]:
        """What the extraction layer put out in the last forward pass."""
        assert self._extracted is not None, "nothing was read yet"
        return self._extracted

    def think(
        self, hidden: Float[Tensor, "N C D"], filled: Bool[Tensor, "N C"], thoughts: Int[Tensor, "N M"]
    ) -> Float[Tensor, "N S D"]:
        """Normed states that predict each token of given thoughts and what follows them (paper: T, teacher-forced). S = M + 1."""
        begun = torch.cat([thoughts.new_full((len(thoughts), 1), self.end), thoughts], 1)
        mask = eq.thinking_mask(filled, begun.shape[1])
        inputs = torch.cat([hidden, self.get_input_embeddings()(begun).to(hidden.dtype)], 1)
        return self._block(Anatomy(self.thinker).body, inputs, mask)[:, hidden.shape[1] :]

    def thought_logits(self, states: Float[Tensor, "... D"]) -> Float[Tensor, "... V"]:
        """Scores of the next token of a thought, by the thinking block's own unembedding."""
        return Anatomy(self.thinker).unembed(states)

    @torch.no_grad()
    def begin(self, hidden: Float[Tensor, "N C D"], filled: Bool[Tensor, "N C"]) -> Begun:
        """The first token of each chunk's thought; it is the end token where the thought is empty."""
        past, first = DynamicCache(), torch.full((len(hidden), 1), self.end, device=hidden.device)
        inputs = torch.cat([hidden, self.get_input_embeddings()(first).to(hidden.dtype)], 1)
        return Begun(past, filled, self._next_token(past, inputs, eq.thinking_mask(filled, 1), 0))

    @torch.no_grad()
    def thoughts(self, begun: Begun) -> list[list[int]]:
        """Greedy thoughts without their end, at most `longest` - 1 tokens (or `longest`, where the end never came)."""
        token, (count, width) = begun.token, begun.filled.shape
        written: list[list[int]] = [[] for _ in range(count)]
        going = [True] * count
        for step in range(1, self.settings.longest + 1):
            for row, own in enumerate(token.tolist()):
                going[row] &= own != self.end
                if going[row]:
                    written[row].append(own)
            if not any(going) or step == self.settings.longest:
                break
            seen = torch.cat([begun.filled, begun.filled.new_ones(count, step + 1)], 1)
            inputs = self.get_input_embeddings()(token[:, None])
            token = self._next_token(begun.past, inputs, seen[:, None, None], width + step)
        return written

    def _next_token(
        self, past: DynamicCache, inputs: Float[Tensor, "N T D"], mask: Bool[Tensor, "N 1 T S"], start: int
    ) -> Int[Tensor, " N"]:
        position = torch.arange(start, start + inputs.shape[1], device=inputs.device).expand(len(inputs), -1)
        made = Anatomy(self.thinker).body(
            inputs_embeds=inputs, attention_mask=_additive(mask, inputs.dtype), position_ids=position,
            past_key_values=past, use_cache=True,
        ).last_hidden_state  # fmt: skip
        return self.thought_logits(made[:, -1]).argmax(-1)

    def compress(self, thoughts: Sequence[Sequence[int]]) -> Float[Tensor, "N C D"]:
        """The state of each thought (paper: C), its end token last; of an empty thought nothing, unless set otherwise."""
        embedding, chunk, device = self.get_input_embeddings(), self.settings.chunk, self.device
        zero = self.settings.trivial == "zero"
        kept = [row for row, thought in enumerate(thoughts) if thought or not zero]
        states = torch.zeros(len(thoughts), chunk, self.anatomy.width, device=device)
        gain = 1.0
        if not kept:
            if not torch.is_grad_enabled():
                return states
            kept, gain = [0], 0.0  # in training the block is called always: weights may be spread over processes
        width = max(chunk, *(len(thoughts[row]) + 1 for row in kept))
        ids = torch.full((len(kept), width), self.end)
        for place, row in enumerate(kept):
            ids[place, : len(thoughts[row])] = torch.tensor(thoughts[row], dtype=torch.long)
        lengths = torch.tensor([len(thoughts[row]) + 1 for row in kept])
        real = torch.arange(width) < lengths[:, None]
        made = self._block(self.compressor, embedding(ids.to(device)), eq.compressing_mask(real.to(device)))
        own = gain * eq.last_real(made, lengths.to(device), chunk)
        return states.to(own.dtype).index_copy(0, torch.tensor(kept, device=device), own)

    @staticmethod
    def _block(
        body: nn.Module, inputs: Float[Tensor, "N S D"], mask: Bool[Tensor, "N 1 S S"]
    ) -> Float[Tensor, "N S D"]:
        position = torch.arange(inputs.shape[1], device=inputs.device).expand(len(inputs), -1)
        return body(
            inputs_embeds=inputs, attention_mask=_additive(mask, inputs.dtype), position_ids=position, use_cache=False
        ).last_hidden_state


def thinkable(backbone: PreTrainedModel) -> Anatomy:
    """A backbone's anatomy. Errors: UnsupportedModelError for learned positions, experts, or fewer than three layers."""
    anatomy = Anatomy(backbone)
    if anatomy.family.position_embedding is not None:
        raise UnsupportedModelError(
            f"{anatomy.model_type} learns a table of positions, which ends where its texts end; take a model with rotary positions"
        )
    if any(anatomy.is_sparse(layer) for layer in range(len(anatomy.layers))):
        raise UnsupportedModelError(f"this {anatomy.model_type} model has experts; take a dense one")
    return anatomy


def wrap(backbone: PreTrainedModel, settings: ThinkingSettings, end_token: int) -> ShammieThinkingForCausalLM:
    """A thinking model around a copy of a backbone; its blocks begin as copies of the last layer and head, and of the first."""
    own = copy.deepcopy(backbone.config)
    config = ShammieThinkingConfig(backbone=own, thinking=to_plain(settings), end_token=end_token)
    with torch.random.fork_rng([]):
        model = ShammieThinkingForCausalLM(config)
    model.backbone.load_state_dict(backbone.state_dict())
    whole, thinker = model.anatomy, Anatomy(model.thinker)
    thinker.layers[0].load_state_dict(whole.layers[-1].state_dict())
    thinker.final_norm.load_state_dict(whole.final_norm.state_dict())
    thinker.unembedding.load_state_dict(whole.unembedding.state_dict())
    compressor = model.compressor.get_submodule(whole.family.layers)
    compressor[0].load_state_dict(whole.layers[0].state_dict())  # type: ignore[index]
    return model.to(backbone.dtype).eval()


def _one_layer(config: PreTrainedConfig, layer: int) -> PreTrainedModel:
    """A model of one layer of the kind that `layer` is, with its own head; token embeddings are the backbone's."""
    own = copy.deepcopy(config)
    own.num_hidden_layers, own.tie_word_embeddings = 1, False
    if getattr(own, "layer_types", None):
        own.layer_types = [config.layer_types[layer]]
    made = AutoModelForCausalLM.from_config(own)
    made.set_input_embeddings(nn.Identity())
    return made


def _additive(mask: Bool[Tensor, "N 1 Q S"], dtype: torch.dtype) -> Float[Tensor, "N 1 Q S"]:
    """A mask that every attention implementation takes as it is."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


AutoConfig.register("shammie_thinking", ShammieThinkingConfig)
AutoModelForCausalLM.register(ShammieThinkingConfig, ShammieThinkingForCausalLM)
