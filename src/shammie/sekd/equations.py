"""Every equation of the room once: signals of a position, divergences, unbiased draws. Torch only, float32 or better."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor


def entropy(logits: Float[Tensor, "n V"]) -> Float[Tensor, " n"]:
    """Entropy of softmax(logits) in nats; classes at -inf have no part."""
    p = logits.softmax(-1)
    # H = logsumexp - <p, logits>, and any one class gives the logsumexp: fewer passes over the vocabulary than by definition.
    total = logits.amax(-1) - p.amax(-1).log()
    found = total - torch.linalg.vecdot(p, logits)
    absent = found.isnan()
    if bool(absent.any()):  # 0 * -inf
        found[absent] = total[absent] - torch.linalg.vecdot(p[absent], logits[absent].clamp(min=-1e4))
    return found


def cross_entropy(log_probs: Float[Tensor, "n V"], targets: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """-log p(target) in nats."""
    return -log_probs.gather(-1, targets[:, None])[:, 0]


def kl(left: Float[Tensor, "n V"], right: Float[Tensor, "n V"]) -> Float[Tensor, " n"]:
    """KL(left || right) of log-probabilities in nats; classes that left gives no probability have no part."""
    return torch.where(left > -math.inf, left.exp() * (left - right), 0.0).sum(-1)


def forward_kl(teacher: Float[Tensor, "n V"], student: Float[Tensor, "n V"]) -> Float[Tensor, " n"]:
    """KL(softmax(teacher) || softmax(student)) of logits, as -H(p) - <p, log q>; differentiable in the student.

    The teacher's part needs no gradient and no logarithm at every class, so this takes half the passes of `kl`.
    """
    p = teacher.softmax(-1)
    found = -entropy(teacher) - torch.linalg.vecdot(p, student.log_softmax(-1))
    if bool(found.isnan().any()):  # 0 * -inf
        return kl(teacher.log_softmax(-1), student.log_softmax(-1))
    return found


def jensen_shannon(
    teacher: Float[Tensor, "n V"], student: Float[Tensor, "n V"], beta: int | float
) -> Float[Tensor, " n"]:
    """Generalized Jensen-Shannon: beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q (GKD, 2306.13649 eq. 1)."""
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    return beta * kl(teacher, mixture) + (1 - beta) * kl(student, mixture)


def divergence(teacher: Float[Tensor, "n V"], student: Float[Tensor, "n V"], beta: int | float) -> Float[Tensor, " n"]:
    """Forward KL for beta 0, reverse KL for 1, generalized Jensen-Shannon between; log-probabilities in, nats out."""
    if beta == 0:
        return kl(teacher, student)
    if beta == 1:
        return kl(student, teacher)
    return jensen_shannon(teacher, student, beta)


def sampled_kl(
    counts: Int[Tensor, " m"], rows: Int[Tensor, " m"], log_q: Float[Tensor, " m"], draws: int, positions: int
) -> Float[Tensor, " n"]:
    """RS-KD: KL of the drawn frequencies to the student; its gradient is unbiased for the full forward KL's (2503.16870).

    `log_q` is the student's full log-softmax at the drawn ids, `rows` the position of each.
    """
    share = counts.float() / draws
    return log_q.new_zeros(positions).index_add(0, rows, share * (share.log() - log_q))


def kept_log_probs(log_probs: Float[Tensor, "n V"], k: int) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """The k likeliest classes, renormalized: log-probabilities and ids. Biased: it raises the head and drops the tail."""
    values, ids = log_probs.topk(min(k, log_probs.shape[-1]), dim=-1)
    return values.log_softmax(-1), ids


def ce_ratio(student: Float[Tensor, "*n"], teacher: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Student's over teacher's cross-entropy with the text: large where the student can still learn (paper's signal)."""
    return student / (teacher + 1e-6)
