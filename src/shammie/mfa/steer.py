"""Steering: states pulled to a region's centroid and along its directions, the same with and without a cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shammie.core.backends import BackendCompleter, backend_for
from shammie.core.decoding import GenerationSettings
from shammie.core.edit import Edit, edited
from shammie.core.errors import ShammieError
from shammie.core.generate import generate
from shammie.core.judge import Judge
from shammie.core.model import LanguageModel, load
from shammie.core.position import ALL, Positions
from shammie.core.score import score
from shammie.core.task import Task
from shammie.mfa.describe import model_name
from shammie.mfa.fitting import load_mixture
from shammie.mfa.judged import judge_continuations, summarize
from shammie.mfa.mixture import Mixture
from shammie.mfa.regions import principal_loadings

if TYPE_CHECKING:
    from shammie.core.run import Run
    from shammie.mfa.config import MfaSteer


def steer(mixture: Mixture, region: int, alpha: float, local: Sequence[float] = (), positions: Positions = ALL) -> Edit:
    """The edit h -> (1 - alpha) h + alpha mean + W z (the paper's two-stage steering; the local term is not scaled).

    `local` are coordinates along the region's directions, widest first, in standard deviations; missing ones are 0.
    Errors: ShammieError for a region that is not there or more coordinates than directions.
    """
    mixture.check_component(region)
    turned, _ = principal_loadings(mixture, region)
    if len(local) > turned.shape[1]:
        raise ShammieError(f"region {region} has {turned.shape[1]} directions, but {len(local)} coordinates were given")
    offset = turned[:, : len(local)] @ torch.tensor(list(local), dtype=turned.dtype)
    target = alpha * mixture.means[region] + offset

    def pulled(state: Tensor, _position: Tensor, _row: Tensor) -> Tensor:
        return ((1 - alpha) * state.float() + target.to(state.device)).to(state.dtype)

    return Edit(mixture.at(), pulled, positions)


def prepare_steer(config: MfaSteer) -> Task:
    """Load the mixture and its model, and make the edit."""
    mixture = load_mixture(config.fit)
    edit = steer(mixture, config.region, config.alpha, config.local)
    model = load(model_name(config.fit, config.model, mixture), device=config.device, dtype=config.dtype)
    mixture.check_model(model)
    settings = GenerationSettings(
        samples=config.samples if config.temperature else 1, max_new_tokens=config.max_new_tokens,
        temperature=config.temperature, seed=config.seed,
    )  # fmt: skip

    def execute(run: Run) -> int:
        judge = None if config.judge is None else Judge(BackendCompleter(backend_for(config.judge)), run.artifacts)
        for key in run.items([f"prompt-{index}" for index in range(len(config.prompt))], "mfa steer"):
            lines = []
            for steered in (False, True):
                with edited(model, [edit] if steered else []):
                    lines += _continued(model, config.prompt[int(key.removeprefix("prompt-"))], settings, steered)
            run.record(key, lines if judge is None else judge_continuations(judge, config.concept, lines))
        for key in run.pending(["judged"]) if judge else ():
            run.record(key, summarize(run.results()))
        return 0

    count = len(config.prompt) * 2 * settings.samples
    return Task({"model": model.hash, "fit": mixture.provenance}, lambda: {"continuations": count}, execute)


def _continued(model: LanguageModel, prompt: str, settings: GenerationSettings, steered: bool) -> list[dict[str, Any]]:
    """Continuations with the log-probability of a token under the model as it is now; None where nothing was written."""
    texts = [completion.text for completion in generate(model, [prompt], settings)]
    found = iter(score(model, [(prompt, text) for text in texts if text]))
    return [
        {
            "kind": "continuation", "prompt": prompt, "steered": steered, "sample": number, "text": text,
            "log_probability_a_token": round(next(found).per_token, 3) if text else None,
        }
        for number, text in enumerate(texts)
    ]  # fmt: skip
