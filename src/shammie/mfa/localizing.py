"""`shammie mfa localize`: featurizers one by one on the same pairs, scored on pairs that were not learned from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shammie.core.model import load
from shammie.core.task import Task
from shammie.mfa.describe import check_states, model_name
from shammie.mfa.featurizers import dictionary
from shammie.mfa.fitting import load_mixture, open_states
from shammie.mfa.localize import Exchange, accuracy, learn, prepare
from shammie.mfa.source import ShardSource
from shammie.mfa.tasks import build

if TYPE_CHECKING:
    from shammie.core.run import Run
    from shammie.mfa.config import MfaLocalize


def prepare_localize(config: MfaLocalize) -> Task:
    """Load the mixture, its model and the pairs."""
    mixture = load_mixture(config.fit)
    model = load(model_name(config.fit, config.model, mixture), device=config.device, dtype=config.dtype)
    mixture.check_model(model)
    states = None if config.states is None else open_states(config.states)
    if states is not None:
        check_states(mixture, states)
    settings, site = config.settings, mixture.at()
    train_pairs, test_pairs, counts = build(
        model, config.task, settings.train_pairs, settings.test_pairs, settings.seed
    )

    def execute(run: Run) -> int:
        train, test = prepare(model, site, train_pairs), prepare(model, site, test_pairs)
        changed = [pair.expected != pair.base_answer for pair in test_pairs]
        for key in run.items(["untouched", *config.featurizers], "mfa localize"):
            exchange = None
            features: dict[str, Any] = {}
            if key != "untouched":
                source = None if states is None else ShardSource(states, site)
                width = mixture.means.shape[1]
                exchange = Exchange(key, width, settings, dictionary(key, mixture, source))  # type: ignore[arg-type]
                losses = learn(model, site, train, exchange, settings)
                features = {"loss": losses[-1] if losses else None}
                if exchange.mask is not None:
                    features |= {"features": exchange.mask.numel(), "kept": int((exchange.mask > 0).sum())}
            found, right = accuracy(model, site, test, exchange)
            both = {"changed": [], "kept_answer": []}  # type: dict[str, list[bool]]
            for hit, moves in zip(right, changed, strict=True):
                both["changed" if moves else "kept_answer"].append(hit)
            shares = {f"{name}_right": round(sum(hits) / len(hits), 4) for name, hits in both.items() if hits}
            record = {"kind": "interchange", "task": config.task, "featurizer": key, **found.as_dict()}
            run.record(key, {**record, **shares, **features, **counts})
        return 0

    inputs = {"model": model.hash, "fit": mixture.provenance}
    return Task(inputs, lambda: {"train pairs": len(train_pairs), "test pairs": len(test_pairs), **counts}, execute)
