"""The metrics of faithfulness, one file each. To add one, write a file with NAME, HELP, `asks` and `scores`, and name it here."""

from __future__ import annotations

from typing import cast

from shammie.bonafide.metrics import (
    adding_mistakes,
    always_faithful,
    cc_shap,
    chance,
    definition_judge,
    early_answering,
    early_answering_forced,
    filler_tokens,
    generic_monitor,
    hint_verbalization,
    paraphrasing,
    regex_baseline,
    simulatability,
    structural,
    structural_forced,
    unlearning,
)
from shammie.bonafide.metrics.base import Metric
from shammie.core.errors import ShammieError

METRICS: dict[str, Metric] = {
    module.NAME: cast(Metric, module)
    for module in (
        early_answering, early_answering_forced, adding_mistakes, filler_tokens, paraphrasing, simulatability, structural,
        structural_forced, cc_shap, unlearning, hint_verbalization, generic_monitor, definition_judge, regex_baseline, chance,
        always_faithful,
    )
}  # fmt: skip


def metric_named(name: str) -> Metric:
    """A metric by its name. Errors: ShammieError for a name that there is not."""
    if name not in METRICS:
        raise ShammieError(f"{name!r} is no metric; the metrics are {', '.join(METRICS)}")
    return METRICS[name]
