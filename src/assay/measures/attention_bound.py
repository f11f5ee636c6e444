"""How sharp attention can be, given the size of its logits: a lower bound of its entropy, and where it is attained."""

from __future__ import annotations

import torch
from torch import Tensor

from assay._errors import InputError


def attention_entropy_lower_bound(logit_norm: Tensor | float, length: int) -> Tensor:
    """The smallest entropy, in nats, of the softmax over T logits whose Euclidean norm is at most sb.

    `ln(1 + (T - 1) b) + sb sqrt(T (T - 1)) b / (1 + (T - 1) b)`, `b = exp(-sb sqrt(T / (T - 1)))` (Zhai et al. 2023,
    arXiv 2303.06296, theorem 3.1). It is attained by `extremal_logits`; for large sb it decays as T sb exp(-sb). In
    attention with logits `X W_K W_Q^T X^T`, sb is at most `||W_K W_Q^T||_2 ||X X^T||_2`, the factor 1 / sqrt(d) being
    part of the weights. The entropy does not change when a constant is added to the logits of a row, so the norm of
    the row less its mean gives a bound, too, and a better one.

    Args:
        logit_norm: sb, any shape, at least 0.
        length: T, the number of keys in reach: where attention is causal, i + 1 for query i.

    Returns the shape of `logit_norm`, float64, from 0 to ln T. Raises `InputError` for sb below 0 or NaN, or T < 2.

    >>> attention_entropy_lower_bound(torch.tensor([0.0, 5.0, 50.0]), 16)
    tensor([2.7726e+00, 4.9029e-01, 2.9548e-20], dtype=torch.float64)
    """
    sb = torch.as_tensor(logit_norm, dtype=torch.float64)
    _check(sb, length)
    T = float(length)
    others = (T - 1) * torch.exp(-sb * (T / (T - 1)) ** 0.5)  # the mass of the other keys over that of the largest
    return torch.log1p(others) + sb * (T / (T - 1)) ** 0.5 * others / (1 + others)


def extremal_logits(logit_norm: Tensor | float, length: int) -> Tensor:
    """The logits of norm sb with the least entropy: `sb sqrt((T - 1) / T)` once, `-sb / sqrt(T (T - 1))` else.

    Shapes and errors as in `attention_entropy_lower_bound`; returns (..., T), float64, each row of mean 0.
    """
    sb = torch.as_tensor(logit_norm, dtype=torch.float64)
    _check(sb, length)
    T = float(length)
    direction = torch.full((length,), -((T * (T - 1)) ** -0.5), dtype=torch.float64, device=sb.device)
    direction[0] = ((T - 1) / T) ** 0.5
    return sb[..., None] * direction


def _check(sb: Tensor, length: int) -> None:
    if length < 2:
        raise InputError(f"length is {length}; expected at least 2: a single key has no entropy")
    if not bool((sb >= 0).all()):
        raise InputError(f"logit_norm holds {sb[~(sb >= 0)].flatten()[0].item():g}; expected numbers of at least 0")
