"""How a model is told to reason or not, and the exact tokens that its answer begins after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from shammie.core.batch import encode, render
from shammie.core.errors import ShammieError
from shammie.core.model import LanguageModel
from shammie.recall.settings import FILLERS, Condition, SwitchSettings

_TEMPLATE_SWITCH = "enable_thinking"
_HOLE = "\u2063facts\u2063"  # stands in a rendered chat where tokens are put; invisible separators occur in no question


_CONTEXT = "Here is what is known:\n$facts\n\n$question"
_ALONE = "$question\nReply with the answer alone."
PRESETS: dict[str, SwitchSettings] = {
    "template": SwitchSettings("template", _ALONE, _ALONE, _CONTEXT, "<think>\n", "\n</think>\n\n", "", "</think>"),
    "prompts": SwitchSettings(
        "prompts", "Write down, in full sentences, what you know that helps to answer this: $question", _ALONE, _CONTEXT,
        "", "", "", "",
    ),
    "text": SwitchSettings(
        "text", "Question: $question\nWhat is known:", "Question: $question\n", "What is known: $facts\n$question",
        "", "\nAnswer:", "Answer:", "Answer:",
    ),
}  # fmt: skip


def settle(model: LanguageModel, settings: SwitchSettings) -> SwitchSettings:
    """The settings with everything filled in. Errors: the model's template has no switch, or there is no template."""
    template = str(model.tokenizer.chat_template or "")
    kind = settings.kind
    if kind == "auto":
        kind = "template" if _TEMPLATE_SWITCH in template else "prompts" if template else "text"
    if kind == "template" and _TEMPLATE_SWITCH not in template:
        raise ShammieError(
            f"the chat template of {model.name} has no {_TEMPLATE_SWITCH}; pass --switch.kind prompts to ask in two ways"
        )
    if kind == "prompts" and not template:
        raise ShammieError(f"{model.name} has no chat template; pass --switch.kind text")
    given = {name: value for name, value in vars(settings).items() if value is not None and name != "kind"}
    made = replace(PRESETS[kind], **given)
    for name in ("on", "off", "context"):
        if "$question" not in str(getattr(made, name)):
            raise ShammieError(f"--switch.{name} must hold $question")
    if "$facts" not in str(made.context):
        raise ShammieError("--switch.context must hold $facts")
    return made


@dataclass
class Prompter:
    """Builds prompts as token ids, part by part, so that what stands in for a trace has exactly the tokens it should."""

    model: LanguageModel  # only its name and tokenizer are used
    switch: SwitchSettings

    def tokens(self, text: str) -> list[int]:
        """Token ids of a part of a prompt; none for an empty text."""
        return list(self.model.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    def opened(self, question: str) -> list[int]:
        """The prompt under which reasoning is sampled."""
        head = self._asked([self._filled(self.switch.on, question)], True)[0]
        opening = str(self.switch.opening)
        tail = str(self.model.tokenizer.decode(head[-8:], skip_special_tokens=False))
        opens_itself = opening and tail.rstrip().endswith(opening.strip())
        return head if opens_itself else [*head, *self.tokens(opening)]

    def answered(self, question: str, condition: Condition, held: Sequence[int]) -> list[int]:
        """The prompt after which the answer comes, where the condition holds the given tokens."""
        answer, asked = self.tokens(str(self.switch.answer)), self._filled(self.switch.off, question)
        if not condition.reasoning:
            if condition.holds == "facts" and held:
                asked = str(self.switch.context).replace("$question", asked).replace("$facts", _HOLE)
            before, after = self._asked([asked], False)
            return [*before, *(held if _HOLE in asked else []), *after, *answer]
        if self.switch.kind == "prompts":
            before, after = self._asked([self._filled(self.switch.on, question), _HOLE, asked], True)
            return [*before, *held, *after, *answer]
        return [*self.opened(question), *held, *self.tokens(str(self.switch.closing))]

    def _filled(self, template: str | None, question: str) -> str:
        return str(template).replace("$question", question)

    def _asked(self, turns: Sequence[str], reasoning: bool) -> tuple[list[int], list[int]]:
        """Turns by user and assistant as tokens, before and after the hole that one of them may have."""
        if self.switch.kind == "text":
            before, _, after = turns[0].partition(_HOLE)
            return encode(self.model, before), self.tokens(after)
        switches = {_TEMPLATE_SWITCH: reasoning} if self.switch.kind == "template" else {}
        chat = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(turns)]
        before, _, after = render(self.model, chat, switches).partition(_HOLE)
        return self.tokens(before), self.tokens(after)

    def filler(self, name: str, count: int) -> list[int]:
        """Exactly `count` tokens of a filler, repeated and cut; 0 is one repetition in full."""
        first = self.tokens(FILLERS[name].strip(" ") or FILLERS[name])
        if count == 0:
            return first
        again = self.tokens(FILLERS[name])
        repeats = -(-max(0, count - len(first)) // len(again))
        return [*first, *again * repeats][:count]

    @property
    def stop(self) -> tuple[str, ...]:
        """What ends reasoning that is being sampled, besides the end of the turn."""
        return (self.switch.marker,) if self.switch.marker else ()
