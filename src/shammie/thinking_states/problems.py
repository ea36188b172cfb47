"""Problems with their steps, and how a tokenizer sees them: what is read, what is thought after each chunk, what is answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from shammie.core.errors import DataError

STEPS, ANSWER = " Steps:", " Answer:"


@dataclass(frozen=True)
class Step:
    """A step of reasoning, and how many characters of the question must be read before it can be known."""

    text: str
    at: int


@dataclass(frozen=True)
class Problem:
    """A question with the steps that lead to its answer, in order."""

    question: str
    steps: tuple[Step, ...]
    answer: str
    length: int = 0
    """Operations, for tasks that have them."""
    group: str = ""
    """Problems of one group ask for the same thing, so that one may be given another's states."""


@dataclass(frozen=True)
class Example:
    """A problem as token ids. `thoughts` has one row a chunk of the question, none of them with its end token."""

    problem: Problem
    question: tuple[int, ...]
    thoughts: tuple[tuple[int, ...], ...]
    steps: tuple[tuple[int, ...], ...]
    answer: tuple[int, ...]


@dataclass(eq=False)
class Layout:
    """Turns problems into tokens: `question Answer: answer`, with ` Steps: ...` in between where steps are written out.

    Question, markers, steps and answer are tokenized apart, so that none depends on what stands beside it. Errors of `encode`:
    DataError for a word the tokenizer does not know, or a step that stands nowhere.
    """

    tokenizer: PreTrainedTokenizerBase
    chunk: int
    steps_marker: tuple[int, ...] = field(init=False)
    answer_marker: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        if self.tokenizer.eos_token_id is None:
            raise DataError("the tokenizer has no end token, with which thoughts and answers end; set its eos_token")
        self.steps_marker, self.answer_marker = self._ids(STEPS), self._ids(ANSWER)

    @property
    def end(self) -> int:
        """The token that ends thoughts and answers."""
        return int(self.tokenizer.eos_token_id)

    def encode(self, problem: Problem) -> Example:
        """Token ids of all parts."""
        made = self.tokenizer(problem.question, return_offsets_mapping=True)
        question, spans = self._known(made["input_ids"], problem.question), made["offset_mapping"]
        if not question:
            raise DataError("a question without tokens cannot be read; give it words")
        steps = tuple(self._ids(" " + step.text) for step in problem.steps)
        chunks = [self.chunk_of(step, problem, spans) for step in problem.steps]
        count = -(-len(question) // self.chunk)
        thoughts = tuple(
            tuple(token for step, at in zip(steps, chunks, strict=True) if at == number for token in step)
            for number in range(count)
        )
        return Example(problem, question, thoughts, steps, (*self._ids(" " + problem.answer), self.end))

    def question(self, text: str) -> tuple[int, ...]:
        """Token ids of a question alone."""
        return self._known(self.tokenizer(text)["input_ids"], text)

    def chunk_of(self, step: Step, problem: Problem, spans: Sequence[tuple[int, int]]) -> int:
        """The chunk after which a step can be known: that of the last token that begins before the step's place."""
        if not 0 <= step.at <= len(problem.question):
            raise DataError(
                f"the step {step.text!r} stands at character {step.at} of a question of {len(problem.question)}; align it anew"
            )
        read = sum(1 for begin, end in spans if end > begin and begin < step.at)
        special = sum(1 for begin, end in spans if end == begin)  # what the tokenizer puts before a text
        return max(0, read + special - 1) // self.chunk

    def text(self, ids: Sequence[int]) -> str:
        """Words of token ids."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def _ids(self, text: str) -> tuple[int, ...]:
        return self._known(self.tokenizer(text, add_special_tokens=False)["input_ids"], text)

    def _known(self, ids: Sequence[int], text: str) -> tuple[int, ...]:
        unknown = self.tokenizer.unk_token_id
        if unknown is not None and unknown in ids:
            known = self.tokenizer.get_vocab()
            word = next((word for word in text.split() if word not in known), text)
            own = sorted(known.keys() - {*self.tokenizer.all_special_tokens, STEPS.strip(), ANSWER.strip()})
            raise DataError(f"the model has no word {word!r}; it knows {' '.join(own[:60])}")
        return tuple(int(token) for token in ids)
