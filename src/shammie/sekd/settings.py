"""What is distilled where: what the Python API, the command line and the run record share. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shammie.core.errors import ShammieError

Signal = Literal[
    "student_entropy", "teacher_entropy", "student_ce", "teacher_ce", "kl", "reverse_kl", "ce_ratio",
    "kl+student_entropy", "ce_ratio+student_entropy",
]  # fmt: skip
SampleSignal = Literal[
    "student_entropy", "teacher_entropy", "student_ce", "teacher_ce", "kl", "reverse_kl", "ce_ratio", "kl+student_entropy",
    "ce_ratio+student_entropy", "random",
]  # fmt: skip
Policy = Literal["all", "top", "global", "curriculum", "random", "sampled", "corrected"]
Classes = Literal["full", "top", "sampled"]


@dataclass(frozen=True)
class DistillSettings:
    """Where to distil: which positions, on which classes, by which loss. The defaults are the paper's SE-KD."""

    policy: Policy = "top"
    """all: every position; top: the highest scores of each window; global: scores above a quantile of recent ones; curriculum: a
    band of scores that rises; random; sampled: drawn by score; corrected: drawn by score and weighted to be unbiased."""
    signal: Signal = "student_entropy"
    """What scores a position; the policies all and random need none."""
    budget: float = 0.2
    """Share of the valid positions."""
    classes: Classes = "full"
    """full: the teacher's whole distribution; top: its likeliest classes, renormalized; sampled: RS-KD's drawn classes."""
    draws: int = 50
    """Classes that are kept (top) or draws of a position (sampled)."""
    divergence: float = 0.0
    """0: forward KL (teacher to student); 1: reverse KL; between: generalized Jensen-Shannon with this weight."""
    hard: float = 0.0
    """Share of the cross-entropy with the text in the loss, at the same positions."""
    temperature: float = 1.0
    """Softens both distributions of the loss, which is multiplied by its square; signals are read at 1."""
    equal_quota: bool = False
    """Give all windows of a batch the same number of positions, from their mean length (the paper's length normalization)."""
    recent_scores: int = 30_000
    """Of global: the last scores that the quantile is of."""
    curriculum_steps: int = 4000
    """Of curriculum: steps until the band has reached the highest scores."""
    scoring: Literal["float32", "bfloat16"] = "float32"
    """What scores are computed in; the loss is float32 always."""

    def __post_init__(self) -> None:
        for name, low, high in (("budget", 0, 1), ("divergence", 0, 1), ("hard", 0, 1), ("temperature", 0, 100)):
            value = getattr(self, name)
            if not low <= value <= high or (low == value and name in ("budget", "temperature")):
                above = "above" if name in ("budget", "temperature") else "at least"
                raise ShammieError(f"--{name} must be {above} {low} and at most {high}, but is {value}")
        if min(self.recent_scores, self.curriculum_steps) < 1 or not 1 <= self.draws <= 255:
            raise ShammieError("--recent-scores and --curriculum-steps must be at least 1, --draws between 1 and 255")
        if self.classes != "full" and self.divergence > 0:
            raise ShammieError(
                f"--classes {self.classes} needs --divergence 0: only the forward KL is finite on few classes"
            )

    @property
    def scored(self) -> bool:
        """Whether positions need scores."""
        return self.policy not in ("all", "random")

    @property
    def reads_teacher(self) -> bool:
        """Whether the scores need more of the teacher than a cache can hold."""
        return self.scored and self.signal in ("kl", "reverse_kl", "kl+student_entropy")


RECIPES: dict[str, DistillSettings] = {
    "full-kd": DistillSettings(policy="all"),
    "random-20": DistillSettings(policy="random"),
    "se-kd": DistillSettings(),
    "rs-kd": DistillSettings(policy="all", classes="sampled"),
    "se-kd-3x": DistillSettings(classes="sampled"),
}
"""By name; se-kd-3x also wants windows chosen by `sekd score` and a teacher cached by `sekd cache`."""


def recipe(name: str) -> DistillSettings:
    """Settings by name. Errors: ShammieError for an unknown one, naming those there are."""
    if name not in RECIPES:
        raise ShammieError(f"no recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]
