"""What is asked and under which conditions: what Python, the command line and the run record share. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from shammie.core.errors import ShammieError

SwitchKind = Literal["auto", "template", "prompts", "text"]
FactKind = Literal["own", "all", "dummy", "irrelevant", "subject", "corrupted"]
SPAN = 4096  # samples a question at most: draws are numbered by question * SPAN + sample

FILLERS = {
    "sentence": " Let me think.",
    "dots": " ...",
    "lines": "\n",
    "words": " stone under seven carry blue window often salt paper lean",
}
"""What a dummy trace repeats."""

_DUMMY = re.compile(r"dummy(?:-(?P<tokens>\d+))?(?::(?P<filler>\w+))?")
_FACTS = re.compile(r"(?P<mode>on|off)-(?:(?P<kind>all|dummy|irrelevant|subject|corrupted)-)?facts")


@dataclass(frozen=True)
class Condition:
    """What stands where the model's own reasoning would.

    Attributes:
        reasoning: whether the model is told to reason; what it holds then stands in its reasoning, else in the question.
        holds: nothing, the sample's own trace, filler, or facts.
        facts: the trace's own but for those that give the answer away, all of them, or what stands in their place.
        filler: what dummies repeat.
        tokens: length of the filler; None for as long as what it stands in for, 0 for once.
    """

    name: str
    reasoning: bool
    holds: Literal["nothing", "trace", "filler", "facts"]
    facts: FactKind = "own"
    filler: str = "sentence"
    tokens: int | None = None

    @property
    def of_trace(self) -> bool:
        """Whether the sample's own trace is needed."""
        return self.holds in ("trace", "facts") or (self.holds == "filler" and self.tokens is None)

    @classmethod
    def parse(cls, name: str) -> Condition:
        """off, on, single, dummy[-TOKENS][:FILLER], or on-/off-[all-|dummy-|irrelevant-|subject-|corrupted-]facts."""
        plain = {
            "off": cls("off", False, "nothing"),
            "on": cls("on", True, "trace"),
            "single": cls("single", True, "filler", tokens=0),
        }
        if name in plain:
            return plain[name]
        if found := _DUMMY.fullmatch(name):
            filler = found["filler"] or "sentence"
            if filler not in FILLERS:
                raise ShammieError(f"the filler of {name!r} is not one of {', '.join(FILLERS)}")
            tokens = int(found["tokens"]) if found["tokens"] else None
            if tokens == 0:
                raise ShammieError(f"{name!r} would hold nothing; ask for at least one token, or for 'single'")
            return cls(name, True, "filler", filler=filler, tokens=tokens)
        if found := _FACTS.fullmatch(name):
            return cls(name, found["mode"] == "on", "facts", found["kind"] or "own")  # type: ignore[arg-type]
        raise ShammieError(f"{name!r} is no condition; write {cls.parse.__doc__}")


@dataclass(frozen=True)
class RecallSettings:
    """How questions are asked."""

    conditions: tuple[str, ...] = (
        "off", "on", "single", "dummy", "on-facts", "off-facts", "on-dummy-facts", "off-dummy-facts",
    )  # fmt: skip
    """off, on, single, dummy[-TOKENS][:FILLER] (fillers sentence, dots, lines, words), and
    on-/off-[all-|dummy-|irrelevant-|subject-|corrupted-]facts."""
    samples: int = 16
    """Samples a question and condition."""
    more: int = 64
    """Samples, with and without reasoning, for questions that no sample answers without; 0 for no more."""
    temperature: float = 0.7
    """Of every condition alike: diversity alone raises pass@k."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens that holds this much probability."""
    trace_tokens: int = 256
    """Tokens after which reasoning is cut off and the answer asked for; such traces are counted."""
    answer_tokens: int = 24
    """Tokens of an answer; only its first line counts."""
    answer_words: int = 20
    """A longer answer is wrong: a list of guesses must not win."""
    seed: int = 0
    """Of every draw."""

    def __post_init__(self) -> None:
        parsed = self.parsed()
        if {"off", "on"} - {condition.name for condition in parsed}:
            raise ShammieError("--conditions must name off and on; everything else is read against them")
        if len({condition.name for condition in parsed}) < len(parsed):
            raise ShammieError("--conditions names one twice")
        if not 1 <= self.samples <= SPAN or not (self.more == 0 or self.samples <= self.more <= SPAN):
            raise ShammieError(f"--samples must lie in 1..{SPAN}, and --more must be 0 or lie in --samples..{SPAN}")
        if not 0 < self.temperature < float("inf"):
            raise ShammieError("--temperature must be above 0: greedy samples are all the same")
        if min(self.trace_tokens, self.answer_tokens, self.answer_words) < 1:
            raise ShammieError("--trace-tokens, --answer-tokens and --answer-words must be at least 1")

    def parsed(self) -> list[Condition]:
        """The conditions in order."""
        return [Condition.parse(name) for name in self.conditions]


@dataclass(frozen=True)
class SwitchSettings:
    """How reasoning is switched. What is left out is taken from the preset of `kind`."""

    kind: SwitchKind = "auto"
    """template: the chat template's enable_thinking (hybrid models); prompts: a turn of reasoning before the question
    (instruct models); text: the same without a chat template; auto: the first of them that the model has."""
    on: str | None = None
    """What a model is asked when it is to reason; $question is put in."""
    off: str | None = None
    """What it is asked for the answer, without reasoning and, where reasoning is a turn of its own, after it."""
    context: str | None = None
    """How facts stand before a question: $facts and $question are put in."""
    opening: str | None = None
    """What reasoning begins with (not for `prompts`)."""
    closing: str | None = None
    """What ends reasoning and begins the answer (not for `prompts`)."""
    answer: str | None = None
    """What the answer begins with otherwise."""
    marker: str | None = None
    """Where reasoning that is being sampled is over, besides the end of the turn; empty for nowhere."""
