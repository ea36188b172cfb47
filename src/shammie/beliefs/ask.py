"""Puts a case to a model: what it writes, and which belief its answer favours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from shammie.beliefs.data import Case
from shammie.beliefs.settings import FRAMES, AskSettings
from shammie.core.answers import contains_match
from shammie.core.batch import Prompt, encode
from shammie.core.decoding import GenerationSettings
from shammie.core.errors import DataError
from shammie.core.generate import complete
from shammie.core.model import LanguageModel
from shammie.core.prefix import KeyValues, SharedPrefixes, read

BELIEFS = ("base", "counter", "third")


@dataclass(frozen=True)
class Told:
    """What a model wrote on a case under a frame.

    Attributes:
        ids: prompt and text; the text begins at `start`.
        names: beliefs that the text names, denied or not.
        margin: log-probability of the counter belief less that of the base belief, after the closing words.
    """

    ids: tuple[int, ...]
    start: int
    text: str
    names: tuple[str, ...]
    margin: float

    @property
    def favours(self) -> str:
        """The belief that is likelier as the answer: a text may name one only to deny it."""
        return "counter" if self.margin > 0 else "base"


def beliefs_of(case: Case) -> dict[str, tuple[str, ...]]:
    """The beliefs that are looked for, by name."""
    return {name: names for name in BELIEFS if (names := getattr(case, name))}


def prompt_of(model: LanguageModel, case: Case, frame: str, settings: AskSettings) -> Prompt:
    """The framed claim before the question, as a chat where the model has a template."""
    claim = FRAMES[frame].replace("$claim", case.claim)
    asked = settings.asked.replace("$question", case.question)
    text = "\n".join(part for part in (case.context, claim, asked) if part)
    return [{"role": "user", "content": text}] if model.tokenizer.chat_template else f"{text}\n"


class Asker:
    """Asks cases of one model."""

    def __init__(self, model: LanguageModel, settings: AskSettings) -> None:
        self.model, self.settings = model, settings
        self._closing = list(model.tokenizer(settings.closing, add_special_tokens=False)["input_ids"])

    def ask(self, jobs: Sequence[tuple[Case, str]]) -> list[Told]:
        """Greedy texts of cases under their frames, in one batch, and their margins."""
        prompts = [encode(self.model, prompt_of(self.model, case, frame, self.settings)) for case, frame in jobs]
        chosen = GenerationSettings(self.settings.max_new_tokens)
        made = complete(self.model, prompts, [(number, 0) for number in range(len(jobs))], chosen)
        kept = [c.tokens[:-1] if c.finish == "end" else c.tokens for c in made]
        texts = [(*prompt, *own) for prompt, own in zip(prompts, kept, strict=True)]
        prefixes = SharedPrefixes(self.model, [[*ids, *self._closing] for ids in texts], list(range(len(jobs))))
        states, mask, _ = prefixes.read(range(len(jobs)))
        logits = self._unembedded(states[torch.arange(len(states), device=states.device), mask.sum(-1) - 1])
        found = []
        for (case, _), prompt, ids, completion, own in zip(jobs, prompts, texts, made, logits, strict=True):
            names = tuple(name for name, own in beliefs_of(case).items() if contains_match(completion.text, own))
            found.append(Told(ids, len(prompt), completion.text, names, float(self._margins(case, own[None])[0])))
        return found

    def margins(self, case: Case, ids: Sequence[int], start: int, rows: int = 1) -> Float[Tensor, " R"]:
        """The margin after a text, `rows` times over: under edits in force every row may have its own.

        The prompt is read once and without its rows' edits, which must begin at `start`.
        """
        device = self.model.device
        zero = torch.zeros(1, dtype=torch.long, device=device)
        past = KeyValues.empty(1, device)
        edits, self.model.edits_in_force = self.model.edits_in_force, 0
        try:
            read(self.model, past, torch.tensor([list(ids[:start])], device=device), None, zero, zero + start)
        finally:
            self.model.edits_in_force = edits
        row = torch.arange(rows, device=device)
        rest = torch.tensor([[*ids[start:], *self._closing]], device=device).expand(rows, -1)
        states = read(self.model, past.select(torch.zeros_like(row)), rest, None, row, torch.full_like(row, start))
        return self._margins(case, self._unembedded(states[:, -1]))

    def _unembedded(self, states: Float[Tensor, "B D"]) -> Float[Tensor, "B V"]:
        with torch.no_grad():
            return self.model.anatomy.unembed(states).float()

    def _margins(self, case: Case, logits: Float[Tensor, "B V"]) -> Float[Tensor, " B"]:
        """Logits do for log-probabilities: what normalizes them cancels."""
        base, counter = (logits[:, first_tokens(self.model, names)].amax(-1) for names in (case.base, case.counter))
        return (counter - base).cpu()


def first_tokens(model: LanguageModel, names: Sequence[str]) -> list[int]:
    """The tokens with which the names begin after a word."""
    return [int(model.tokenizer(" " + name.strip(), add_special_tokens=False)["input_ids"][0]) for name in names]


def told_apart(model: LanguageModel, cases: Sequence[Case]) -> list[Case]:
    """The cases whose two beliefs begin with different tokens, by which the margin is read. Errors: there are none."""
    kept = [c for c in cases if not set(first_tokens(model, c.base)) & set(first_tokens(model, c.counter))]
    if not kept:
        raise DataError(
            f"the two beliefs begin with the same token for {model.name}, so answers cannot be told apart; use other names"
        )
    return kept
