"""The loop, and the models it begins with: small decoders from scratch, or a pretrained one, for every method alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from shammie.core.model import LanguageModel
from shammie.core.schedule import TrainSettings
from shammie.core.train import Training
from shammie.thinking_states.coconut import Coconut
from shammie.thinking_states.methods import Loss, Plain, Reasoner, Thinking
from shammie.thinking_states.modeling import thinkable, wrap
from shammie.thinking_states.problems import Example, Layout
from shammie.thinking_states.settings import MethodSettings, Shape, ThinkingSettings

Source = Callable[[int], Example]
"""An example by number, the same whenever it is asked for."""
_BLOCKS = 2  # layers of a thinking model beside its backbone's
_TOGETHER = 16  # examples of like length that a pass takes, so that little of it is padding


def make_backbone(
    shape: Shape, tokenizer: PreTrainedTokenizerBase, *, extra: int = 0, longest: int = 4096, seed: int = 0
) -> PreTrainedModel:
    """A fresh decoder of Llama's kind (Mistral's with a window) in float32, with `extra` layers more. Same seed, same weights.

    Weights begin as large as width asks for (1/√width): the families' 0.02 is for wide ones and keeps narrow ones on plateaus.
    """
    windowed = {"sliding_window": shape.window, "num_key_value_heads": shape.heads} if shape.window else {}
    config = AutoConfig.for_model(
        "mistral" if shape.window else "llama", **windowed, vocab_size=len(tokenizer), hidden_size=shape.width,
        intermediate_size=shape.neurons,
        num_hidden_layers=shape.layers + extra, num_attention_heads=shape.heads, max_position_embeddings=longest,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False, initializer_range=shape.width**-0.5,
    )  # fmt: skip
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config)


def make_reasoner(
    backbone: LanguageModel, method: MethodSettings, thinking: ThinkingSettings, jumps: float = 0.0
) -> Reasoner:
    """A method around a model, which is trained in place by all but thinking, which wraps a copy.

    Errors: UnsupportedModelError for a model that cannot carry states; DataError for a tokenizer without an end token.
    """
    layout = Layout(backbone.tokenizer, thinking.chunk)
    if method.method == "thinking":
        module = wrap(backbone.module, thinking, layout.end)
        return Thinking(LanguageModel(module, backbone.tokenizer, backbone.name), layout, method, jumps)
    thinkable(backbone.module)
    kind = Coconut if method.method == "coconut" else Plain
    return kind(backbone, layout, method, jumps)


def scratch(
    shape: Shape, tokenizer: PreTrainedTokenizerBase, method: MethodSettings, thinking: ThinkingSettings, *, jumps: float, seed: int
) -> Reasoner:  # fmt: skip
    """A method around a fresh model; peers of a thinking model have its blocks as two more layers, so that weights are as many."""
    extra = 0 if method.method == "thinking" else _BLOCKS
    backbone = LanguageModel(make_backbone(shape, tokenizer, extra=extra, seed=seed), tokenizer, "scratch")
    return make_reasoner(backbone, method, thinking, jumps)


class Learner(nn.Module):
    """A model with its loss, called as a whole, which is what weights that are spread over processes ask for."""

    def __init__(self, reasoner: Reasoner) -> None:
        super().__init__()
        self.module, self.reasoner = reasoner.model.module, reasoner

    def forward(self, examples: Sequence[Example], progress: float, generator: torch.Generator) -> Loss:
        """The loss of some examples."""
        return self.reasoner.loss(examples, progress, generator)


def train(
    reasoner: Reasoner, source: Source, items: int, settings: TrainSettings, directory: Path, *,
    check: Callable[[], float], every: int = 0, resume: bool = False,
) -> None:  # fmt: skip
    """Train in place; `directory` holds metrics.jsonl and checkpoints.

    `check` measures accuracy on problems like those trained on, every so many steps (0: never); at 1 training ends (paper: until
    100 %).
    Errors: RunError where `directory` holds another training; NonFiniteError for a loss that is not finite.
    """
    learner = Learner(reasoner)
    with Training(directory, learner, settings, items, resume=resume) as training:
        for step in training:
            if reasoner.restart(step.number, settings.steps):
                training.optimizer.state.clear()
            generator = torch.Generator().manual_seed(step.seed)
            shown: list[dict[str, Any]] = []
            for piece in step.pieces:
                examples = sorted((source(item) for item in piece), key=_tokens)
                for at in range(0, len(examples), _TOGETHER):
                    with training.autocast():
                        found = learner(examples[at : at + _TOGETHER], step.number / settings.steps, generator)
                    training.backward(found.total, found.weight)
                    shown.append(found.parts)
            training.log({name: sum(parts[name] for parts in shown) / len(shown) for name in shown[0]})
            if every and (step.number + 1) % every == 0:
                accuracy = check()
                training.log({"accuracy": accuracy})
                training.stopped = accuracy == 1


def _tokens(example: Example) -> int:
    return len(example.question) + sum(map(len, example.steps))
