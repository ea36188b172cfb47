"""Every equation of the room, once.

The paper's symbols: A [D, V] holds a token's embedding in each column, A ~ F G^T with F [D, K] dense and G [V, K] signed and
column-sparse. Here tokens are rows, so A is passed as `rows` [V, D] = A^T and F as `features` [K, D] = F^T. A column of G is
kept as its S largest entries: `index` [K, S] says which tokens, `value` [K, S] how strongly.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

RIDGE = 1e-4  # the paper's lambda, here in units of the Gram matrix's mean diagonal: scaling A then scales F alone


def winner_take_all(g: Float[Tensor, "V K"], size: int) -> tuple[Int[Tensor, "K S"], Float[Tensor, "K S"]]:
    """Step 4: the `size` entries of largest magnitude in every column of G."""
    columns = g.T.contiguous()
    index = columns.abs().topk(size, dim=1, sorted=False).indices
    return index, columns.gather(1, index)


def unit_columns(value: Float[Tensor, "K S"]) -> tuple[Float[Tensor, "K S"], Float[Tensor, " K"]]:
    """Step 2: columns of G with unit norm, and the norms, which belong on the features. An empty column keeps norm 1."""
    norms = value.norm(dim=1)
    norms = torch.where(norms > 0, norms, torch.ones_like(norms))
    return value / norms[:, None], norms


def scatter(index: Int[Tensor, "K S"], value: Float[Tensor, "K S"], tokens: int) -> Float[Tensor, "V K"]:
    """G as a dense matrix."""
    return value.new_zeros(len(index), tokens).scatter_(1, index, value).T


def gather_product(
    rows: Float[Tensor, "V D"], index: Int[Tensor, "K S"], value: Float[Tensor, "K S"]
) -> Float[Tensor, "K D"]:
    """(A G)^T, reading only the S rows that a column of G names."""
    return torch.nn.functional.embedding_bag(index, rows, per_sample_weights=value, mode="sum")


def ridge_solve(gram: Float[Tensor, "K K"], right: Float[Tensor, "K N"], ridge: float) -> Float[Tensor, "K N"]:
    """(gram + ridge mean(diag gram) I)^-1 right; the ridge grows tenfold, at most four times, until it can be solved."""
    scale = gram.diagonal().mean().clamp(min=torch.finfo(gram.dtype).tiny)
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    for attempt in range(5):
        factor, failed = torch.linalg.cholesky_ex(gram + identity * (scale * ridge * 10**attempt))
        if not failed:
            return torch.cholesky_solve(right, factor)
    return torch.full_like(right, torch.nan)


def gram(g: Float[Tensor, "V K"]) -> Float[Tensor, "K K"]:
    """G^T G."""
    return g.T @ g


def solve_features(
    product: Float[Tensor, "K D"], gram: Float[Tensor, "K K"], ridge: float = RIDGE
) -> Float[Tensor, "K D"]:
    """Step 1: F <- A G (G^T G + lambda I)^-1, given `product` = (A G)^T."""
    return ridge_solve(gram, product, ridge)


def solve_loadings(
    rows: Float[Tensor, "V D"], features: Float[Tensor, "K D"], ridge: float = RIDGE
) -> Float[Tensor, "V K"]:
    """Step 3: G <- A^T F (F^T F + lambda I)^-1. The small matrix is solved first, so that V is met once."""
    return rows @ ridge_solve(features @ features.T, features, ridge).T


def squared_error(
    energy: Float[Tensor, ""], product: Float[Tensor, "K D"], features: Float[Tensor, "K D"], gram: Float[Tensor, "K K"]
) -> Float[Tensor, ""]:
    """Step 5: ||A - F G^T||^2 = ||A||^2 - 2 <A G, F> + <G^T G, F^T F>, without building F G^T."""
    return energy - 2 * (product * features).sum() + (gram * (features @ features.T)).sum()


def activity(g: Float[Tensor, "V K"], *, by_row: bool) -> Float[Tensor, "V K"]:
    """|G|; `by_row` gives each token unit l1 norm first, which takes out any gap of scale between the two sides."""
    size = g.abs()
    return size / size.sum(1, keepdim=True).clamp(min=torch.finfo(g.dtype).tiny) if by_row else size


def activity_ratio(
    size: Float[Tensor, "V K"], concept: Bool[Tensor, " V"], neutral: Bool[Tensor, " V"]
) -> Float[Tensor, " K"]:
    """ratio_k = mean |G_ik| over concept-only tokens / (mean over neutral-only tokens + 1e-8)."""
    return size[concept].mean(0) / (size[neutral].mean(0) + 1e-8)


def keyness(
    ours: Float[Tensor, " V"], theirs: Float[Tensor, " V"], our_size: float, their_size: float
) -> Float[Tensor, " V"]:
    """Signed log-likelihood ratio G^2 of each token's counts in two texts (Dunning 1993); positive where it is ours."""
    share = (ours + theirs) / (our_size + their_size)

    def part(count: Tensor, expected: Tensor) -> Tensor:
        return torch.where(count > 0, count * (count.clamp(min=1) / expected.clamp(min=1e-12)).log(), 0.0)

    value = 2 * (part(ours, our_size * share) + part(theirs, their_size * share))
    return torch.where(ours / our_size >= theirs / their_size, value, -value)


def contrast(size: Float[Tensor, "V K"], signs: Float[Tensor, "P V"]) -> Float[Tensor, "P K"]:
    """Share of activity on concept tokens minus that on neutral ones, for P labellings of signs +1 and -1."""
    return signs @ size / size.sum(0).clamp(min=torch.finfo(size.dtype).tiny)


def permutation_p(observed: Float[Tensor, " K"], null: Float[Tensor, "P K"]) -> Float[Tensor, " K"]:
    """One-sided p-value, the data being one of the labellings; rounding makes a tie."""
    return (1 + (null >= observed - 1e-6).sum(0)) / (1 + len(null))


def pooled_keyness(size: Float[Tensor, "V K"], keyness: Float[Tensor, " V"]) -> Float[Tensor, " K"]:
    """Stouffer's Z of each feature: its tokens' signed sqrt(G^2), normal where both texts use them alike, weighted by |G|."""
    z = keyness.sign() * keyness.abs().sqrt()
    return z @ size / size.square().sum(0).sqrt().clamp(min=torch.finfo(size.dtype).tiny)


def normal_tail(z: Float[Tensor, " K"]) -> Float[Tensor, " K"]:
    """One-sided p-value of a standard normal value."""
    return 0.5 * torch.special.erfc(z / 2**0.5)


def concept_component(g: Float[Tensor, "T K"], features: Float[Tensor, "K D"]) -> Float[Tensor, "T D"]:
    """c_i = F[:, S] G[i, S]^T for chosen features S, whose columns of G and rows of `features` are passed."""
    return g @ features


def erased(rows: Float[Tensor, "T D"], component: Float[Tensor, "T D"], delta: float) -> Float[Tensor, "T D"]:
    """e_i <- e_i - delta c_i."""
    return rows - delta * component


def harmonic_mean(*terms: float) -> float:
    """Harmonic mean; 0 as soon as a term is not positive."""
    return len(terms) / sum(1 / term for term in terms) if min(terms) > 0 else 0.0


def retained(value: float, before: float, chance: float) -> float:
    """Retained knowledge r = max(0, (value - chance) / (before - chance)), at most 1."""
    return min(1.0, max(0.0, (value - chance) / (before - chance)))


def choice_probability(scores: Float[Tensor, " C"], correct: int) -> Float[Tensor, ""]:
    """The correct choice's share of the choices' likelihoods: the logistic function of its log-likelihood margin."""
    return scores.log_softmax(0)[correct].exp()


def ablate_direction(rows: Float[Tensor, "N D"], direction: Float[Tensor, " D"], delta: float) -> Float[Tensor, "N D"]:
    """What directional ablation adds to rows: -delta f (f^T w), f of unit length (SNMF erasure, W_down and W_up)."""
    return -delta * torch.outer(rows @ direction, direction)


def semi_nmf_loadings(
    g: Float[Tensor, "V K"], product: Float[Tensor, "V K"], gram: Float[Tensor, "K K"]
) -> Float[Tensor, "V K"]:
    """Multiplicative update of a non-negative G: product = A^T F, gram = F^T F (Ding, Li and Jordan 2010)."""
    up = product.clamp(min=0) + g @ (-gram).clamp(min=0)
    down = (-product).clamp(min=0) + g @ gram.clamp(min=0)
    return g * (up / (down + 1e-6)).sqrt()


def npo_loss(log_p: Float[Tensor, " B"], reference: Float[Tensor, " B"], beta: float) -> Float[Tensor, ""]:
    """Sum of -(2 / beta) log sigma(-beta (log p - log p_ref)) over sequences (Zhang et al. 2024)."""
    return -(2 / beta) * torch.nn.functional.logsigmoid(-beta * (log_p - reference)).sum()


def guided(
    plain: Float[Tensor, "N V"],
    novice: Float[Tensor, "N V"],
    expert: Float[Tensor, "N V"],
    strength: Float[Tensor, " N"],
) -> Float[Tensor, "N V"]:
    """ELM's target scores: log p(x) + eta (log p(x | novice) - log p(x | expert)) (Gandikota et al. 2024)."""
    return plain.log_softmax(-1) + strength[:, None] * (novice.log_softmax(-1) - expert.log_softmax(-1))
