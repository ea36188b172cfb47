"""What can be told of a case without looking inside: from its names' embeddings, or from how well known its subject is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shammie.beliefs import equations as eq
from shammie.core.model import LanguageModel
from shammie.core.vocabulary import token_vectors

_PENALTY = 2.0  # 1 / C of the critics' probe, C = 0.5
_ITERATIONS = 200


def input_features(model: LanguageModel, texts: Sequence[str]) -> Float[Tensor, "N D"]:
    """The mean token embedding of each text: all that layer 0 knows of it."""
    ids = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    return torch.stack([token_vectors(model, own, "input").mean(0) for own in ids]).cpu()


def fit_logistic(x: Float[Tensor, "N D"], y: Int[Tensor, " N"], classes: int) -> Float[Tensor, "C D1"]:
    """Weights and intercept of a multinomial logistic regression in which every class weighs the same (L-BFGS, L2)."""
    x = torch.cat([x.double(), torch.ones(len(x), 1, dtype=torch.float64)], 1)
    counts = torch.bincount(y, minlength=classes).clamp(min=1)
    weight = (len(y) / (classes * counts.double()))[y]
    weights = torch.zeros(classes, x.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logs = (x @ weights.T).log_softmax(-1)
        value = -(weight * logs.gather(1, y[:, None])[:, 0]).sum() + _PENALTY / 2 * weights[:, :-1].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weights.detach()


def probe_accuracy(x: Float[Tensor, "N D"], y: Int[Tensor, " N"], seed: int) -> float:
    """Balanced accuracy on one half of the rows of a probe that was fitted on the other; features are standardized on it."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    train, test = order[: len(x) // 2], order[len(x) // 2 :]
    mean, spread = x[train].mean(0), x[train].std(0).clamp(min=1e-6)
    scaled = (x - mean) / spread
    weights = fit_logistic(scaled[train], y[train], int(y.max()) + 1)
    said = (torch.cat([scaled[test].double(), torch.ones(len(test), 1, dtype=torch.float64)], 1) @ weights.T).argmax(-1)
    return eq.balanced_accuracy(y[test], said)
