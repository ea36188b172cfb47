"""shammie chat."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from shammie.cli.console import complain, say, side_by_side
from shammie.core.fields import Dtype, ModelName

if TYPE_CHECKING:
    from shammie.core.decoding import GenerationSettings
    from shammie.core.model import LanguageModel
    from shammie.core.patch import WeightPatch


@dataclass(frozen=True)
class Chat:
    """Talk to a model, one line a turn until the end of input; with a patch, before and after it side by side."""

    model: ModelName
    """Hub id, directory, GGUF file or bundled name."""
    patch: Path | None = None
    """Directory of a saved weight patch; each side remembers its own answers."""
    any_model: bool = False
    """Apply the patch to other weights than those it was made for."""
    system: str = ""
    """System prompt."""
    max_new_tokens: int = 200
    """Longest answer."""
    temperature: float = 0.0
    """0 always takes the likeliest token."""
    seed: int = 0
    """Seed of the draws; each turn has its own."""
    device: str | None = None
    """Where to run, such as cpu or cuda."""
    dtype: Dtype = "auto"
    """Dtype to run in; auto keeps the stored one."""

    def run(self) -> int:
        """Answer every line of standard input."""
        from shammie.cli.models import open_model
        from shammie.core.decoding import GenerationSettings
        from shammie.core.patch import WeightPatch

        GenerationSettings(max_new_tokens=self.max_new_tokens, temperature=self.temperature)  # refuses what cannot be
        patch = WeightPatch.from_pretrained(self.patch) if self.patch else None
        model = open_model(self.model, device=self.device, dtype=self.dtype)
        if patch:
            with patch.applied(model, any_model=self.any_model):
                pass  # refused here rather than after the first answer
        if not model.tokenizer.chat_template:
            complain(f"{model.name} has no chat template: it goes on with the text as it stands")
        before, after = (_Talk(model, self.system) for _ in range(2))
        for turn, line in enumerate(_turns()):
            settings = GenerationSettings(self.max_new_tokens, self.temperature, seed=self.seed + turn)
            answer = before.answer(line, settings)
            if patch:
                changed = self._patched(after, patch, line, settings)
                answer = side_by_side(("before", answer), ("after", changed))
            say(answer)
        return 0

    def _patched(self, talk: _Talk, patch: WeightPatch, line: str, settings: GenerationSettings) -> str:
        with patch.applied(talk.model, any_model=self.any_model):
            return talk.answer(line, settings)


def _turns() -> Iterator[str]:
    """Lines that say something; those of a pipe are echoed, so that the output reads as a conversation."""
    if sys.stdin.isatty():
        import readline  # noqa: F401 - gives input() its history

        while True:
            try:
                line = input("> ")
            except EOFError:
                say()
                return
            if line.strip():
                yield line.strip()
    for line in sys.stdin:
        if line.strip():
            say(f"> {line.strip()}")
            yield line.strip()


@dataclass
class _Talk:
    """One side's conversation: messages, or running text for a model without a chat template."""

    model: LanguageModel
    system: str
    messages: list[dict[str, str]] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        if self.system:
            self.messages.append({"role": "system", "content": self.system})
            self.text = self.system

    def answer(self, line: str, settings: GenerationSettings) -> str:
        """Take a turn."""
        from shammie.core.generate import generate

        self.messages.append({"role": "user", "content": line})
        self.text = f"{self.text}\n{line}" if self.text else line
        prompt = self.messages if self.model.tokenizer.chat_template else self.text
        self._check_room(prompt, settings)
        answer = generate(self.model, [prompt], settings)[0].text
        self.messages.append({"role": "assistant", "content": answer})
        self.text += answer
        return answer

    def _check_room(self, prompt: str | list[dict[str, str]], settings: GenerationSettings) -> None:
        from jinja2 import TemplateError

        from shammie.core.batch import encode
        from shammie.core.errors import ShammieError

        try:
            length = len(encode(self.model, prompt)) + settings.max_new_tokens
        except TemplateError as error:
            raise ShammieError(f"the chat template of {self.model.name} refuses the conversation ({error})") from None
        room = getattr(self.model.module.config, "max_position_embeddings", None)
        if room is not None and length > room:
            raise ShammieError(
                f"conversation and answer would take {length} tokens, but {self.model.name} has room for {room}; "
                "start again, or lower --max-new-tokens"
            )
