"""Context-conditioned Markov chains: one layer of softmax attention with a tied head as a Markov chain whose rows are
weighted with the tokens of the prompt.

Source: Ildiz, Huang, Li, Rawat, Oymak 2024, *From Self-Attention to Markov Models* (arXiv 2402.13512).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from assay._errors import InputError
from assay.theory.choice_model import choice_log_probabilities, choice_mle
from assay.theory.coverage import Coverage, check_finite, coverage
from assay.theory.last_token_attention import tied_head
from assay.theory.prompts import CountedPrompts, check_tokens


def check_stochastic(p: Tensor) -> Tensor:
    """p (..., K, K) in float64; raises `InputError` unless each row is a distribution, to 1e-6."""
    p = p.double()
    if p.ndim < 2 or p.shape[-1] != p.shape[-2] or p.numel() == 0:
        raise InputError(f"p has shape {tuple(p.shape)}; expected (K, K)")
    sums = p.sum(-1)
    if not bool((p >= 0).all()) or not bool((sums - 1).abs().max() <= 1e-6):
        worst = sums.flatten()[(sums - 1).abs().flatten().argmax()].item()
        found = f"has entries from {p.min().item():.3g} and a row that sums to {worst:.6g}"
        raise InputError(f"p {found}; expected rows that are distributions")
    return p / sums[..., None]


def ccmc_transition(p: Tensor, counts: Tensor, queries: Tensor) -> Tensor:
    """The law of the next token, (n, K): `counts_j P_kj / sum`, for query k.

    p: (K, K), row k for query k; counts: (n, K), or frequencies; with position encodings u_l, the sums of
    `exp(u_l^T W e_k)` over the positions of each token: see `token_counts`. queries: (n,), int64. Raises `InputError`
    where p is not stochastic, queries are outside 0..K-1, counts are negative or not finite, or a prompt has nothing
    that p allows.
    """
    p = check_stochastic(p)
    check_tokens("queries", queries, len(p))
    rows = p[queries]
    if rows.shape != counts.shape:
        raise InputError(f"counts has shape {tuple(counts.shape)}; expected {tuple(rows.shape)}, as p and queries say")
    if not bool((torch.isfinite(counts) & (counts >= 0)).all()):
        raise InputError("counts has entries that are negative or not finite; expected how often each token occurs")
    weights = rows * counts
    if not bool((weights.sum(-1) > 0).all()):
        raise InputError("counts has a row with no token to which p goes from its query; expected at least one")
    return weights / weights.sum(-1, keepdim=True)


def attention_to_markov(w: Tensor, embeddings: Tensor) -> Tensor:
    """The base chain P (K, K) of attention weights: `P_kj = exp(e_j^T W e_k) / sum`. w: (d, d); embeddings: (K, d)."""
    return (embeddings @ w @ embeddings.mT).double().mT.softmax(-1)


def markov_to_attention(p: Tensor, embeddings: Tensor) -> Tensor:
    """The attention weights W (d, d) of a base chain: those of least norm, which lie in the span of all
    `(e_i - e_j) e_k^T`.

    p: (K, K), stochastic and positive, since softmax has no zeros; embeddings: (K, d), independent. Exact both ways:
    `attention_to_markov` gives p again, and a W of that span comes back. Raises `InputError`. O(K^2 d).
    """
    log_p = check_stochastic(p).log()
    head = tied_head(embeddings.double())
    if p.shape != (len(embeddings),) * 2:
        raise InputError(
            f"p has shape {tuple(p.shape)}; expected ({len(embeddings)}, {len(embeddings)}), as embeddings"
        )
    if not bool(torch.isfinite(log_p).all()):
        raise InputError("p has zeros, which no finite attention weights give; expected positive entries")
    e = embeddings.double()
    return torch.linalg.pinv(e[1:] - e[:1]) @ (log_p[:, 1:] - log_p[:, :1]).mT @ head


@dataclass(frozen=True)
class CCMCFit:
    """p: (K, K), the estimate; theta: (K, K), its logits with the least norm; coverage: what the prompts connect."""

    p: Tensor
    theta: Tensor
    coverage: Coverage


def fit_ccmc(data: CountedPrompts, *, ridge: float = 0.0) -> CCMCFit:
    """The base chain that makes the labels most likely, by Newton's method on a convex problem for each query.

    ridge: minus log likelihood, summed over prompts, gets `ridge ||theta||^2 / 2` added. Raises `InputError` where
    `ridge` is 0 and there is no unique finite maximum: the prompts do not connect all tokens for all queries, or some
    never win against others; the message names them. With `ridge` > 0 what the prompts do not tell is as equal as
    possible, and `coverage` says what that is. Raises `InputError` for `ridge` below 0 too, and `ArithmeticError` where
    Newton's method does not come to the maximum, as `choice_mle`.
    """
    if not ridge >= 0:
        raise InputError(f"ridge is {ridge}; expected at least 0")
    if ridge == 0:
        check_finite(data)
    theta = data.counts.new_zeros(data.vocab_size, data.vocab_size)
    for query in data.queries.unique().tolist():
        own = data.with_query(query)
        theta[query] = choice_mle(own.counts, own.labels, ridge)
    return CCMCFit(theta.softmax(-1), theta, coverage(data.counts, data.queries))


def log_loss(p: Tensor, data: CountedPrompts) -> float:
    """Mean of `-log p(label)` under the chain, in nats. p: (K, K)."""
    log_p = choice_log_probabilities(check_stochastic(p).log()[data.queries], data.counts)
    return -log_p.gather(1, data.labels[:, None]).mean().item()
