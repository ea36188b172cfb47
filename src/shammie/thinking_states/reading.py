"""Reading with thoughts: chunk after chunk, or speculatively, many chunks at once where thoughts are empty; and what follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shammie.core.batch import pad
from shammie.core.model import LanguageModel
from shammie.core.prefix import KeyValues, read
from shammie.thinking_states import equations as eq
from shammie.thinking_states.modeling import Begun, ShammieThinkingForCausalLM

Prefill = Literal["speculative", "sequential"]


@dataclass
class Read:
    """What was read: the cache, every chunk's thought, and the states that were added (the last one after the question).

    `passes` counts forward passes of the backbone, `cut` each row's thoughts that reached the longest length without an end.
    """

    past: KeyValues
    thoughts: list[list[list[int]]]
    states: Float[Tensor, "B K C D"]
    cut: list[int]
    passes: int = 0


@dataclass(eq=False)
class Reader:
    """Reads questions of a thinking model. Both ways of prefill give the same thoughts, states and cache."""

    model: LanguageModel
    prefill: Prefill = "speculative"
    module: ShammieThinkingForCausalLM = field(init=False)

    def __post_init__(self) -> None:
        self.module = cast(ShammieThinkingForCausalLM, self.model.module)
        self.chunk = self.module.settings.chunk

    @torch.no_grad()
    def read(self, questions: Sequence[Sequence[int]], states: Float[Tensor, "B K C D"] | None = None) -> Read:
        """Read questions, a row each. With `states` those are added, one a chunk and one after the last, and nothing is thought."""
        device = self.model.device
        lengths = torch.tensor([len(ids) for ids in questions], device=device)
        counts = eq.chunk_counts(lengths, self.chunk)
        most = int(counts.max())
        thinks = states is None
        if states is None:
            trivial = self.module.compress([[]])[0].to(self.model.dtype)  # what is assumed until a thought is known
            states = trivial.expand(len(questions), most + 1, -1, -1).clone()
            states[:, 0] = 0
        found = Read(KeyValues.empty(len(questions), device), [[] for _ in questions], states, [0] * len(questions))
        done = torch.zeros_like(counts)  # chunks that are read for good
        ahead = torch.ones_like(counts) if thinks and self.prefill == "sequential" else counts
        while bool((done < counts).any()):
            until = torch.minimum(done + ahead, counts)
            hidden = self._advance(found, questions, done * self.chunk, torch.minimum(until * self.chunk, lengths))
            if not thinks:
                break
            before, done = done, self._think(found, hidden, done, until, lengths)
            if self.prefill == "speculative":
                ahead = 2 * (done - before)  # where every chunk has a thought, little is read in vain
        return found

    def _advance(
        self, found: Read, questions: Sequence[Sequence[int]], start: Int[Tensor, " B"], stop: Int[Tensor, " B"]
    ) -> Float[Tensor, "B T D"]:
        """Read each row's tokens from `start` to `stop` with the states known so far; the extraction layer's output."""
        pieces = [list(ids[a:b]) for ids, a, b in zip(questions, start.tolist(), stop.tolist(), strict=True)]
        width = max(map(len, pieces))
        batch = pad([[*piece, *[0] * (width - len(piece))] for piece in pieces], device=start.device)
        mask = (torch.arange(width, device=start.device) < (stop - start)[:, None]).long()
        lengths = torch.tensor([len(ids) for ids in questions], device=start.device)
        number, slot = eq.places(lengths, start, self.chunk, width)
        self.extend(found, batch.ids, mask, eq.added(found.states, number, slot))
        return self.module.extracted

    def extend(
        self,
        found: Read,
        ids: Int[Tensor, "B T"],
        mask: Int[Tensor, "B T"] | None,
        added: Float[Tensor, "B T D"] | None,
    ) -> Float[Tensor, "B T D"]:
        """Read further tokens with what is added to them; final-normed states."""
        row = torch.arange(len(ids), device=ids.device)
        with self.module.adding(added):
            states = read(self.model, found.past, ids, mask, row, found.past.lengths)
        if found.past.ragged:
            found.past = found.past.aligned()
        found.passes += 1
        return states

    def _think(
        self, found: Read, hidden: Float[Tensor, "B T D"], done: Int[Tensor, " B"], until: Int[Tensor, " B"],
        lengths: Int[Tensor, " B"],
    ) -> Int[Tensor, " B"]:  # fmt: skip
        """Find each row's first chunk with a thought among those just read, think it out, and forget what lies behind it."""
        pending = until - done
        row = torch.arange(len(done), device=done.device).repeat_interleave(pending)
        offset = torch.arange(len(row), device=done.device) - (pending.cumsum(0) - pending)[row]
        first = offset * self.chunk
        size = torch.minimum(lengths[row] - (done[row] + offset) * self.chunk, torch.full_like(row, self.chunk))
        states, filled = eq.chunk_states(hidden, row, first, size, self.chunk)
        empty = torch.ones(len(done), int(pending.max()), dtype=torch.bool, device=done.device)
        begun = self.module.begin(states, filled)
        empty[row, offset] = begun.token == self.module.end
        thinking = eq.first_thinking(empty, pending)
        self._note(found, begun, row, offset, thinking, done)
        reached = torch.minimum(done + thinking + 1, until)
        if bool((reached < until).any()):
            found.past = found.past.truncated(torch.minimum(reached * self.chunk, lengths))
        return reached

    def _note(
        self, found: Read, begun: Begun, row: Int[Tensor, " N"], offset: Int[Tensor, " N"], thinking: Int[Tensor, " B"],
        done: Int[Tensor, " B"],
    ) -> None:  # fmt: skip
        """Write down thoughts up to each row's first that is not empty, and the states that follow from them."""
        at = (offset == thinking[row]).nonzero()[:, 0]
        made = self.module.thoughts(begun.select(at)) if len(at) else []
        rows = row[at].tolist()
        for own, thought in zip(rows, made, strict=True):
            found.thoughts[own] += [[] for _ in range(int(thinking[own]))] + [thought]
            found.cut[own] += len(thought) >= self.module.settings.longest
        for own in set(range(len(done))) - set(rows):  # nothing but empty thoughts, or nothing to read any more
            found.thoughts[own] += [[] for _ in range(int(thinking[own]))]
        if made:
            found.states[row[at], done[row[at]] + thinking[row[at]] + 1] = self.module.compress(made).to(
                found.states.dtype
            )


class ThinkingStepper:
    """Drives generation: reads the question with thoughts, then what follows it, to whose first tokens the last state is added.

    Prompts are a question and the marker of the answer, `marker` tokens long. `states` replaces the model's own.
    """

    def __init__(self, reader: Reader, marker: int, states: Float[Tensor, "B K C D"] | None = None) -> None:
        self.reader, self.marker, self.given = reader, marker, states
        self.found: Read | None = None

    def start(self, sequences: Sequence[Sequence[int]], row: Sequence[int]) -> Float[Tensor, "B V"]:
        """Read questions and marker."""
        questions = [ids[: len(ids) - self.marker] for ids in sequences]
        states = None if self.given is None else self.given[torch.tensor(list(row))]
        self.found = self.reader.read(questions, states)
        device = self.reader.model.device
        lengths = torch.tensor([len(ids) for ids in questions], device=device)
        number = eq.chunk_counts(lengths, self.reader.chunk)
        self._last = self.found.states[torch.arange(len(questions), device=device), number]
        self._written = 0
        return self._next(torch.tensor([list(ids[len(ids) - self.marker :]) for ids in sequences], device=device))

    def step(self, tokens: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
        """Read one token a row."""
        return self._next(tokens[:, None])

    def keep(self, rows: Int[Tensor, " N"]) -> None:
        """Go on with these rows only."""
        assert self.found is not None, "start comes first"
        self.found.past = self.found.past.select(rows).aligned()
        self._last = self._last[rows]

    def _next(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B V"]:
        assert self.found is not None, "start comes first"
        added = self._last[:, self._written : self._written + ids.shape[1]]
        self._written += ids.shape[1]
        added = torch.nn.functional.pad(added, (0, 0, 0, ids.shape[1] - added.shape[1]))
        states = self.reader.extend(self.found, ids, None, added)
        with torch.no_grad():
            return self.reader.model.anatomy.unembed(states[:, -1]).float()
