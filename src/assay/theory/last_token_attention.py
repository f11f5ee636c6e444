"""One layer of softmax attention from the last token, with a tied head: `f = X^T softmax(X W e_k)`, `p = C f`.

With `C E^T = I` the probability of a token is all the attention that its positions get, which is what makes this
layer solvable: see ccmc.py and graph_svm.py. Source: Ildiz et al. 2024 (arXiv 2402.13512); Li et al. 2024 (arXiv
2403.08081).
"""

from __future__ import annotations

import torch
from torch import Tensor

from assay._errors import InputError
from assay.theory.prompts import check_tokens
from assay.theory.saturation import centred_logit_gradient, normalised_step_


def tied_head(embeddings: Tensor) -> Tensor:
    """The head C (..., K, d) with `C E^T = I`. Raises `InputError` where the K rows of E depend on each other."""
    if embeddings.ndim < 2 or not bool((torch.linalg.matrix_rank(embeddings) == embeddings.shape[-2]).all()):
        expected = "expected (K, d) with linearly independent rows, so d at least K, for which C E^T = I has a solution"
        raise InputError(f"embeddings has shape {tuple(embeddings.shape)} and dependent rows; {expected}")
    return torch.linalg.pinv(embeddings).mT


def attention_law(
    w: Tensor, embeddings: Tensor, prompts: Tensor, queries: Tensor | None = None, positions: Tensor | None = None
) -> Tensor:
    """The law of the next token, (n, K), computed as attention does it.

    w: (d, d); embeddings: (K, d), with independent rows; prompts: (n, L), int64; queries: (n,), int64, the prompts'
    last tokens by default; positions: (L, d), encodings that are added to keys and values. They must be orthogonal to
    the embeddings, for the head to leave them out. O(n L d). Raises `InputError`.
    """
    head = tied_head(embeddings)
    check_tokens("prompts", prompts, len(embeddings))
    queries = prompts[:, -1] if queries is None else queries
    check_tokens("queries", queries, len(embeddings))
    x = embeddings[prompts]
    if positions is not None:
        if positions.shape != x.shape[1:] or not bool((head @ positions.mT).abs().max() < 1e-9):
            expected = f"expected {tuple(x.shape[1:])}, orthogonal to the embeddings"
            raise InputError(f"positions has shape {tuple(positions.shape)}, or a part in their span; {expected}")
        x = x + positions
    s = (x @ (embeddings[queries] @ w.mT)[..., None]).squeeze(-1).softmax(-1)
    return (s[..., None] * x).sum(-2) @ head.mT


def normalised_descent(
    embeddings: Tensor,
    prompts: Tensor,
    labels: Tensor,
    *,
    steps: int,
    lr: float,
    start: Tensor | None = None,
    radius: Tensor | None = None,
) -> Tensor:
    """Train W (S, d, d) on the log-loss by normalised gradient descent, S independent problems at once.

    embeddings: (S, K, d); prompts: (S, n, L), int64, the last token attends; labels: (S, n), int64, tokens of their
    prompts; start: (S, d, d), zeros by default; radius: (S,), the largest Frobenius norm allowed, for points of the
    regularisation path (each step is projected). The gradient is centred, and so goes on where p is 1 in rounding.
    Steps have length lr, and so has the oscillation that remains. O(steps S n L d).
    Raises `InputError` where a label does not occur in its prompt.
    """
    check_tokens("prompts", prompts, embeddings.shape[-2])
    problems = torch.arange(len(prompts), device=prompts.device)[:, None]
    x, q = embeddings[problems[..., None], prompts], embeddings[problems, prompts[..., -1]]
    hits = (prompts == labels[..., None]).to(x.dtype)
    if not bool(hits.any(-1).all()):
        raise InputError("labels has tokens that do not occur in their prompts; expected tokens that do")
    w = x.new_zeros(len(x), x.shape[-1], x.shape[-1]) if start is None else start.clone()
    for _ in range(steps):
        logits = (x @ (q @ w.mT)[..., None]).squeeze(-1)
        of_p, _ = centred_logit_gradient(logits, hits)
        of_loss = -of_p / (logits.softmax(-1) * hits).sum(-1, keepdim=True)  # up to one positive factor
        normalised_step_(w, (of_loss[..., None] * x).sum(-2).mT @ q, lr, dims=2)
        if radius is not None:
            w *= (radius / w.flatten(1).norm(dim=1).clamp(min=1e-300)).clamp(max=1)[:, None, None]
    return w
