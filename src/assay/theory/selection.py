"""One token chosen of each input: what it must win against, whether it wins where it counts, and why it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from assay._errors import InputError
from assay.optim.max_margin import InfeasibleError


def advantages(tokens: Tensor, selected: Tensor) -> tuple[Tensor, Tensor]:
    """The selected token of each input less the others, and where the others are: (n, T, d), boolean (n, T).

    tokens: (n, T, d), floating point; selected: (n,), int64, indices of tokens. Raises `InputError`.
    """
    if tokens.ndim != 3 or not bool(torch.isfinite(tokens).all()):
        raise InputError(f"X, the tokens, has shape {tuple(tokens.shape)}; expected (n, T, d), all of it finite")
    kind = getattr(selected, "dtype", type(selected).__name__)
    if kind != torch.int64:
        raise InputError(f"selected is of {kind}; expected a tensor of torch.int64, an index for each input")
    n, T = tokens.shape[:2]
    if selected.shape != (n,) or not bool(((selected >= 0) & (selected < T)).all()):
        raise InputError(f"selected is {selected.tolist()}; expected {n} indices from 0 to {T - 1}, one for each input")
    chosen = torch.arange(n, device=tokens.device), selected
    others = torch.ones(n, T, dtype=torch.bool, device=tokens.device)
    others[chosen] = False
    if not bool(others.any()):
        raise InputError("X holds one token for each input; expected at least two, of which one is selected")
    return tokens[chosen][:, None] - tokens, others


def token_scores(X: Tensor, v: Tensor, y: Tensor) -> Tensor:
    """`y_i v^T x_it` (..., n, T): how much a token alone would do for its label, under the linear head v.

    X: (..., n, T, d); v: (..., d); y: (..., n), labels -1 or 1. Source: Tarzanagh et al. 2023 (arXiv 2306.13596).
    """
    return y[..., None] * torch.einsum("...itd,...d->...it", X, v)


def is_locally_optimal(margins: Tensor, scores: Tensor, selected: Tensor, tolerance: float = 1e-3) -> Tensor:
    """Whether the selected token of each input has a higher score than all its SVM-neighbours: boolean (..., n).

    margins: (..., n, T), of a hard-margin problem: neighbours are the other tokens with a margin of at most
    1 + tolerance. scores: (..., n, T), see `token_scores`; selected: (..., n). A selection is locally optimal where all
    inputs are. Source: Tarzanagh et al. 2023 (arXiv 2308.16898).
    """
    own = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, selected[..., None], True)
    neighbours = (margins <= 1 + tolerance) & ~own
    return (~neighbours | (scores < scores.gather(-1, selected[..., None]))).all(-1)


@contextmanager
def constraints_named(others: Tensor, argument: str = "selected") -> Iterator[None]:
    """An `InfeasibleError` on the constraints at `others` (n, T) says which they are, as (input, token), and has its
    certificate there, (n, T). `argument`: the name of what selects the tokens."""
    try:
        yield
    except InfeasibleError as error:
        certificate = torch.zeros_like(others, dtype=error.certificate.dtype)
        certificate[others] = error.certificate
        most = certificate.flatten().topk(min(5, certificate.numel()))
        worst = most.indices[most.values > 1e-6 * most.values.max()]
        where = [(int(i) // others.shape[1], int(i) % others.shape[1]) for i in worst]
        reason = f"expected tokens that one direction separates; (input, token) {where} contradict each other"
        raise InfeasibleError(f"{argument}: {reason}", certificate) from None
