"""Tiny random models of every supported family, built in memory, with a byte-level tokenizer.

Sizes are chosen so that what differs between families is in play: grouped heads, sliding windows shorter than the
prompts, soft caps, fused and transposed matrices, experts, tied and untied embeddings.
"""

from __future__ import annotations

from functools import cache

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from shammie.core.model import LanguageModel, load

torch.set_num_threads(1)  # on models this small more threads only wait for each other, up to 30 times as long

DENSE = (
    "gpt2", "gpt_neox", "opt", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "olmo2", "phi3",
)  # fmt: skip
SPARSE = ("mixtral", "qwen3_moe", "olmoe", "gpt_oss")
FAMILIES = DENSE + SPARSE
TIED = ("gpt2", "opt", "gemma", "gemma2", "gemma3_text")
VOCABULARY = 260

_COMMON = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_SPECIFIC: dict[str, dict[str, object]] = {
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": 48, "n_positions": 512},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "mistral": {"sliding_window": 6},
    "qwen3": {"head_dim": 8},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "sliding_window": 6, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8},
    "gemma3_text": {"head_dim": 8, "sliding_window": 6, "sliding_window_pattern": 2, "query_pre_attn_scalar": 8},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 8,
        "mlp_only_layers": [1], "norm_topk_prob": True,
    },
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "sliding_window": 6},
}  # fmt: skip


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is a token; ids 256 to 259 are special."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": 0, "<bos>": 1, "<eos>": 2, "<think>": 3} | {c: i + 4 for i, c in enumerate(alphabet)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")
    fast.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    return fast


def config(family: str, **changes: object) -> object:
    """The tiny configuration of a family."""
    return AutoConfig.for_model(family, **{**_COMMON, **_SPECIFIC.get(family, {}), **changes})


def build(family: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: object) -> LanguageModel:
    """A fresh random model; weights are scaled so that logits differ visibly between inputs."""
    torch.manual_seed(seed)
    module = AutoModelForCausalLM.from_config(config(family, **changes)).eval()
    generator, gains = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim >= 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5)
            elif "norm" not in name and "ln_" not in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
            else:  # one norm must not pass for another
                parameter.add_(torch.randn(parameter.shape, generator=gains) * 0.1)
    module.tie_weights()
    return load(module.to(dtype), tokenizer=tokenizer())


@cache
def shared(family: str) -> LanguageModel:
    """One model of a family for tests that leave it as it was."""
    return build(family)
