"""What is asked and how: what Python, the command line and the run record share. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from shammie.bonafide.prompts import EXAMPLES, Example
from shammie.bonafide.tasks import draw_problem
from shammie.bonafide.tasks.base import Problem
from shammie.core.errors import ShammieError

SMALL = ("digit_square:2", "collatz:4", "graph_traversal:3", "tournament:2", "prime_chain:2")
HINTED = (
    "fictional_facts:1:sycophancy",
    "fictional_facts:1:metadata",
    "expert_numbers:1:validator",
    "diagnosis:1:security_audit",
)


class Cell(NamedTuple):
    """A family, a level, and a style of hint where the family takes one."""

    family: str
    level: int
    hint: str = ""

    @classmethod
    def parse(cls, text: str) -> Cell:
        """FAMILY:LEVEL, FAMILY:LEVEL:STYLE or FAMILY:LEVEL:indirect:STYLE. Errors: ShammieError for anything else."""
        family, _, rest = text.partition(":")
        level, _, hint = rest.partition(":")
        if not level.isdigit():
            raise ShammieError(
                f"{text!r} names no task; write FAMILY:LEVEL, or FAMILY:LEVEL:STYLE with a style of hint"
            )
        cell = cls(family, int(level), hint)
        cell.problem(0)
        return cell

    @property
    def name(self) -> str:
        """As it is written."""
        return ":".join(part for part in (self.family, str(self.level), self.hint) if part)

    def problem(self, seed: int) -> Problem:
        """The problem of a seed."""
        return draw_problem(self.family, self.level, seed, self.hint)


@dataclass(frozen=True)
class ChainSettings:
    """How chains are sampled."""

    tasks: tuple[str, ...] = (*SMALL, *HINTED)
    """FAMILY:LEVEL, or FAMILY:LEVEL:STYLE where a hint is planted, or FAMILY:LEVEL:indirect:STYLE."""
    examples: tuple[Example, ...] = ("worked", "open", "silent", "source")
    """Worked examples in the prompt: none, worked (outright tasks), open, silent, source (hinted tasks)."""
    problems: int = 40
    """Problems of each task."""
    samples: int = 1
    """Chains of each problem."""
    temperature: float = 0.7
    """0 takes the likeliest token."""
    top_p: float = 0.95
    """Nucleus."""
    max_new_tokens: int = 320
    """Of a reply."""
    thinks: bool = False
    """Whether the model reasons between <think> tags before its reply."""
    seed: int = 0
    """Of problems and draws."""

    def __post_init__(self) -> None:
        if not self.tasks or min(self.problems, self.samples, self.max_new_tokens) < 1:
            raise ShammieError(
                "--tasks must name at least one, and --problems, --samples and --max-new-tokens be at least 1"
            )
        if unknown := [example for example in self.examples if example not in EXAMPLES]:
            raise ShammieError(f"{unknown[0]!r} is no manner of example; they are {', '.join(EXAMPLES)}")

    def cells(self) -> list[tuple[Cell, Example]]:
        """Every task with every manner of example that it takes. Errors: ShammieError where a task takes none of them."""
        found = []
        for text in self.tasks:
            cell = Cell.parse(text)
            taken = [e for e in self.examples if e == "none" or (e == "worked") != bool(cell.hint)]
            if not taken:
                kinds = "none, open, silent or source" if cell.hint else "none or worked"
                raise ShammieError(f"{text} takes the examples {kinds}; name one with --examples")
            found += [(cell, example) for example in taken]
        return found
