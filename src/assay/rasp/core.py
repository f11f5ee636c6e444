"""The core of RASP-L: whole sequences in, whole sequences out, and one way to look back.

A sequence is an int64 or bool tensor (..., s); all leading dimensions are a batch. Where the paper maps a function over
the tokens of a sequence, operators of tensors do: `x + 1`, `x == SEP`, `(x > 3) & seen`.
Source: Zhou et al. 2023 (arXiv 2310.16028); the meaning of each operation is that of the authors' code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from assay._errors import InputError
from assay.rasp.guard import Guarded, Index, check_inside, index, plain, tokens

Predicate = Callable[[Tensor, Tensor], "Tensor | bool"]
"""Of keys and queries; elementwise on tensors that broadcast."""


def full(x: Tensor, constant: int) -> Tensor:
    """The constant at every position of x."""
    return _tokens_like(x, torch.full_like(plain(x), constant, dtype=torch.int64))


def indices(x: Tensor) -> Tensor:
    """0, 1, .., s - 1."""
    bare = plain(x)
    here = torch.arange(bare.shape[-1], device=bare.device).expand(bare.shape)
    return index(here) if isinstance(x, Guarded) else here


def tok_map(x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
    """f of every token; f is elementwise on tensors."""
    return _of_shape(f(x), x, "f")


def seq_map(x: Tensor, y: Tensor, f: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """f of the tokens of x and y at every position; f is elementwise on tensors."""
    return _of_shape(f(x, y), x, "f")


def select(k: Tensor, q: Tensor, pred: Predicate) -> Tensor:
    """Which earlier positions each position attends to: A[i, j] = pred(k_j, q_i) for j <= i, (..., s, s), bool.

    Under guard, raises `InputError` where keys, queries or what `pred` returns come from outside the program.
    """
    keys, queries = plain(k).unsqueeze(-2), plain(q).unsqueeze(-1)
    check_inside("select", k, q)
    result = pred(_like(k, keys), _like(q, queries))
    if isinstance(k, Guarded) and not isinstance(result, Guarded | bool):
        raise InputError(f"pred returned {type(result).__name__}; expected a comparison of keys and queries, or a bool")
    chosen = torch.as_tensor(plain(result), device=keys.device).bool()
    s = keys.shape[-1]
    causal = torch.ones(s, s, dtype=torch.bool, device=keys.device).tril()
    return _tokens_like(k, (chosen & causal).expand(torch.broadcast_shapes(keys.shape, queries.shape)))


def sel_width(A: Tensor) -> Tensor:
    """How many positions each one attends to, (..., s)."""
    width = plain(A).sum(-1)
    return index(width) if isinstance(A, Guarded) else width


def aggr(A: Tensor, v: Tensor, default: int = 0, reduction: Literal["mean", "max", "min"] = "mean") -> Tensor:
    """The mean, largest or smallest v_j over the j that position i attends to; `default` where there are none.

    A mean is cut to a whole number, towards 0: that of 1 and 2 is 1. Truth values count as 0 and 1. O(s^2) time and
    memory for each row of the batch. Raises `InputError` for another reduction, and under guard for the mean of
    different indices and for tensors from outside the program.
    """
    if reduction not in ("mean", "max", "min"):
        raise InputError(f"reduction is {reduction!r}; expected 'mean', 'max' or 'min'")
    check_inside("aggr", A, v)
    chosen, values = plain(A), plain(v).long().unsqueeze(-2)
    if reduction == "mean":
        count, total = chosen.sum(-1), torch.where(chosen, values, 0).sum(-1)
        found = torch.div(total, count.clamp(min=1), rounding_mode="trunc")
    else:
        found = _extreme(chosen, values, reduction)
    if reduction == "mean" and isinstance(v, Index):
        same = _extreme(chosen, values, "max") == _extreme(chosen, values, "min")
        if not bool((same | ~chosen.any(-1)).all()):
            raise InputError("aggr takes the mean of different indices; expected reduction='max' or 'min'")
    return _like(v, torch.where(chosen.any(-1), found, default))


def kqv(
    k: Tensor,
    q: Tensor,
    v: Tensor,
    pred: Predicate,
    default: int = 0,
    reduction: Literal["mean", "max", "min"] = "mean",
) -> Tensor:
    """`aggr(select(k, q, pred), v, default, reduction)`: what one head of attention does."""
    return aggr(select(k, q, pred), v, default, reduction)


def _extreme(chosen: Tensor, values: Tensor, which: str) -> Tensor:
    worst = torch.iinfo(torch.int64)
    if which == "max":
        return torch.where(chosen, values, worst.min).amax(-1)
    return torch.where(chosen, values, worst.max).amin(-1)


def _of_shape(result: Tensor, x: Tensor, name: str) -> Tensor:
    found, expected = plain(result).shape, plain(x).shape
    if found != expected:
        raise InputError(f"{name} returned shape {tuple(found)}; expected that of the sequence, {tuple(expected)}")
    return result


def _like(x: Tensor, values: Tensor) -> Tensor:
    """`values` with the guard of x, if it has one."""
    return index(values) if isinstance(x, Index) else _tokens_like(x, values)


def _tokens_like(x: Tensor, values: Tensor) -> Tensor:
    return tokens(values) if isinstance(x, Guarded) else values
