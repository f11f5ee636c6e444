"""What programs are written with: each function is a few operations of the core.

Source: Zhou et al. 2023 (arXiv 2310.16028), the library of the authors' code, by its names and meanings. There
`argmax`, `argmin` and `mode` raise an error, since a predicate is missing; here they have it.
Sequences are (..., s); "so far" is up to and including the position itself.
"""

from __future__ import annotations

from operator import eq

import torch
from torch import Tensor

from assay.rasp.core import full, indices, kqv, sel_width, select
from assay.rasp.guard import SMALLEST

NULL = SMALLEST  # equals no token


def where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """a where the condition is true, b elsewhere."""
    return torch.where(condition, a, b)


def mask(x: Tensor, keep: Tensor, value: int = 0) -> Tensor:
    """x where `keep` is true, `value` elsewhere."""
    return where(keep, x, full(x, value))


def shift_right(x: Tensor, n: int = 1, default: int = 0) -> Tensor:
    """The token n positions before; `default` at the first n."""
    moved = indices(x)
    for _ in range(n):
        moved = moved + 1
    return kqv(moved, indices(x), x, eq, default)


def index_select(x: Tensor, at: Tensor, default: int = 0) -> Tensor:
    """x at the index that each position holds, where that is not after it; `default` elsewhere."""
    return kqv(indices(x), at, x, eq, default)


def cumsum(b: Tensor) -> Tensor:
    """How many truth values are true so far."""
    return sel_width(select(b, b, lambda k, _: k))


def num_prev(x: Tensor, q: Tensor) -> Tensor:
    """How many of x so far equal q_i."""
    return sel_width(select(x, q, eq))


def has_seen(x: Tensor, q: Tensor) -> Tensor:
    """Whether one of x so far equals q_i; bool."""
    return num_prev(x, q) >= 1


def firsts(x: Tensor, q: Tensor, default: int = -1) -> Tensor:
    """The index of the first of x so far that equals q_i."""
    return kqv(x, q, indices(x), eq, default, "min")


def lasts(x: Tensor, q: Tensor, default: int = -1) -> Tensor:
    """The index of the last of x so far that equals q_i."""
    return kqv(x, q, indices(x), eq, default, "max")


def first_true(b: Tensor, default: int = -1) -> Tensor:
    """The index of the first true value so far."""
    return kqv(b, b, indices(b), lambda k, _: k, default, "min")


def maximum(x: Tensor) -> Tensor:
    """The largest so far."""
    return kqv(x, x, x, _always, reduction="max")


def minimum(x: Tensor) -> Tensor:
    """The smallest so far."""
    return kqv(x, x, x, _always, reduction="min")


def argmax(x: Tensor) -> Tensor:
    """The index of the largest so far, the last of equals."""
    return kqv(x, maximum(x), indices(x), eq, reduction="max")


def argmin(x: Tensor) -> Tensor:
    """The index of the smallest so far, the last of equals."""
    return kqv(x, minimum(x), indices(x), eq, reduction="max")


def mode(x: Tensor) -> Tensor:
    """The most frequent token so far; of several the one that was the last to become so frequent."""
    return index_select(x, argmax(num_prev(x, x)))


def induct_kqv(k: Tensor, q: Tensor, v: Tensor, offset: int = 1, default: int = 0) -> Tensor:
    """v, `offset` positions behind the first k that equals q_i: the induction head. The last `offset` keys so far are
    left out, since what is behind them is not there yet."""
    return index_select(v, firsts(shift_right(k, offset, NULL), q), default)


def induct(k: Tensor, q: Tensor, offset: int = 1, default: int = 0) -> Tensor:
    """The token `offset` positions behind the first k that equals q_i."""
    return induct_kqv(k, q, k, offset, default)


def induct_prev(k: Tensor, q: Tensor, offset: int = 1, default: int = 0) -> Tensor:
    """The token `offset` positions before the first k that equals q_i."""
    at = firsts(k, q)
    for _ in range(offset):
        at = at - 1
    return index_select(k, at, default)


def _always(k: Tensor, q: Tensor) -> bool:
    del k, q
    return True
