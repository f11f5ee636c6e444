"""Gradient descent and Newton's iteration at many step counts at once: both are a gain on each eigenvalue of X^T X.

From 0, after t steps the weights are `U diag(g_t(lambda)) U^T b` with S = X^T X = U diag(lambda) U^T and b = X^T y:

    gradient descent      g_t = (1 - (1 - lr lambda)^t) / lambda
    Newton's iteration    g_t = (1 - (1 - alpha lambda^2)^(2^t)) / lambda,   alpha = 1 / ||S S^T||_F

so one eigendecomposition serves every step count, however large. Newton squares the spectrum first and then doubles the
exponent with every step; to follow one of its steps, gradient descent needs sqrt(2) times as many.
Source: Fu et al. 2023 (arXiv 2310.17086) for both algorithms; the closed forms follow from them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from assay._errors import InputError
from assay.icl.learners import prefix_moments


def gd_predictions(xs: Tensor, ys: Tensor, steps: Sequence[int], *, lr: float | Tensor | None = None) -> Tensor:
    """What gradient descent predicts after each number of `steps`: (J, B, N), float64.

    `GradientDescent(steps[j], lr).predict_prefixes(xs, ys)` for all j, xs (B, N, d), ys (B, N).
    lr: a number, or one for each prompt, (B,), as `safe_rate` gives; by default 1 / the largest eigenvalue at each
    position. Raises `InputError` for steps below 0 and shapes that disagree. Time O(B N d^3 + J B N d).
    """
    values, along, query = _spectrum(xs, ys, steps)
    if lr is None:
        rate = 1 / values[..., -1:]
    else:
        rate = torch.as_tensor(lr, dtype=values.dtype, device=values.device)
        if rate.shape not in ((), values.shape[:1]):
            raise InputError(f"lr has shape {tuple(rate.shape)}; expected a number or ({len(values)},)")
        rate = rate.reshape(-1, 1, 1)
    return _predictions(rate * values, steps, values, along, query)


def newton_predictions(xs: Tensor, ys: Tensor, steps: Sequence[int]) -> Tensor:
    """What Newton's iteration predicts after each number of `steps`: (J, B, N), float64.

    `Newton(steps[j]).predict_prefixes(xs, ys)` for all j, without its rounding in the null space of S.
    Raises as `gd_predictions`, whose cost it has.
    """
    values, along, query = _spectrum(xs, ys, steps)
    alpha = 1 / values.square().square().sum(-1, keepdim=True).sqrt()
    return _predictions(alpha * values.square(), [2**step for step in steps], values, along, query)


def safe_rate(xs: Tensor) -> Tensor:
    """1 / the largest eigenvalue of X^T X over the whole prompt, (B,), float64: no prefix diverges at it."""
    return 1 / torch.linalg.matrix_norm(xs.double(), 2).square()


def _spectrum(xs: Tensor, ys: Tensor, steps: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues of S, and b and x in its eigenbasis: (B, N, d) each."""
    if not steps or min(steps) < 0:
        raise InputError(f"steps are {list(steps)}; expected numbers of at least 0")
    S, b = prefix_moments(xs, ys)
    values, vectors = torch.linalg.eigh(S)
    tiny = torch.finfo(values.dtype).tiny ** 0.25  # its fourth power is still a number
    along, query = ((one[..., None, :] @ vectors)[..., 0, :] for one in (b, xs.double()))
    return values.clamp(min=tiny), along, query


def _predictions(rate: Tensor, exponents: Sequence[int], values: Tensor, along: Tensor, query: Tensor) -> Tensor:
    """`sum_i (1 - (1 - rate_i)^e) / lambda_i b_i x_i` for each exponent e."""
    weight = along * query / values
    # small rates lose their digits in 1 - rate; large ones may be above 1, where the logarithm is none
    log = torch.log1p(-rate.clamp(max=0.5))
    gains = (torch.where(rate < 0.5, -torch.expm1(e * log), 1 - (1 - rate) ** e) for e in exponents)
    return torch.stack([(gain * weight).sum(-1) for gain in gains])
