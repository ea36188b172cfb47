"""`shammie mfa find`: the regions in which the tokens of a text lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from shammie.core.batch import make_batch
from shammie.core.capture import capture
from shammie.core.model import LanguageModel, load
from shammie.core.position import ALL, Positions, text_spans
from shammie.core.task import Task
from shammie.core.vocabulary import token_text
from shammie.mfa.describe import model_name
from shammie.mfa.fitting import load_mixture
from shammie.mfa.mixture import Mixture
from shammie.mfa.regions import principal_loadings

if TYPE_CHECKING:
    from shammie.core.run import Run
    from shammie.mfa.config import MfaFind


def find(
    model: LanguageModel, mixture: Mixture, text: str, part: str | None = None, top: int = 3
) -> list[dict[str, Any]]:
    """One record for each token of a text, or of a part of it: regions, probabilities, coordinates in the first.

    `surprise` is the token's negative log-density minus the mean of held-out tokens, in nats: far above 0 means that
    the token lies where no fitted token did. Errors: MismatchError for another model, SiteError for a part not there.
    """
    mixture.check_model(model)
    positions: Positions = ALL if part is None else text_spans(model.tokenizer, [text], [part])
    batch = make_batch(model, [text])
    read = capture(model, batch, [mixture.at()], positions=positions)
    x = read[mixture.at()].float()
    components, share = mixture.regions(x)
    z, density = mixture.latents(x, components[:, 0]), mixture.log_density(x)
    expected = mixture.provenance.get("held_out_nll")
    lines = []
    for row, position in enumerate(read.position.tolist()):
        best = int(components[row, 0])
        _, rotation = principal_loadings(mixture, best)
        coordinates = (z[row] @ rotation)[:3]
        lines.append({
            "kind": "token", "position": position, "token": token_text(model, int(batch.ids[0, position])),
            "region": best, "probability": round(float(share[row, 0]), 4),
            "others": [
                f"{int(k)} ({float(r):.3f})"
                for k, r in zip(components[row, 1:top], share[row, 1:top], strict=True) if r > 1e-3
            ],
            "coordinates": [round(float(value), 3) for value in coordinates],
            "distance": round(float((x[row] - mixture.means[best]).norm()), 3),
            "surprise": None if expected is None else round(-float(density[row]) - float(expected), 1),
        })  # fmt: skip
    return lines


def prepare_find(config: MfaFind) -> Task:
    """Load the mixture and its model."""
    mixture = load_mixture(config.fit)
    model = load(model_name(config.fit, config.model, mixture), device=config.device, dtype=config.dtype)
    mixture.check_model(model)

    def execute(run: Run) -> int:
        for key in run.items(["text"], "mfa find"):
            with torch.no_grad():
                run.record(key, find(model, mixture, config.text, config.token, config.top))
        return 0

    tokens = int(make_batch(model, [config.text]).lengths[0])
    return Task({"model": model.hash, "fit": mixture.provenance}, lambda: {"tokens": tokens}, execute)
