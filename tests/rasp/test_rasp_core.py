"""The core and the library against loops that follow the definitions one position at a time."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from assay._errors import InputError
from assay.rasp import core, library

PREDICATES = {"==": operator.eq, "<=": operator.le, ">": operator.gt, "k": lambda k, _: k > 1}
X = torch.randint(-3, 4, (5, 12), generator=torch.Generator().manual_seed(0))
Q = torch.randint(-3, 4, (5, 12), generator=torch.Generator().manual_seed(1))
V = torch.randint(-9, 10, (5, 12), generator=torch.Generator().manual_seed(2))


def looked_up(k: list[int], q: list[int], v: list[int], pred: Callable[..., Any], reduce: Callable[..., int],
              default: int) -> list[int]:  # fmt: skip
    """kqv, position by position."""
    result = []
    for i in range(len(q)):
        chosen = [v[j] for j in range(i + 1) if pred(k[j], q[i])]
        result.append(reduce(chosen) if chosen else default)
    return result


def by_row(function: Callable[..., list[int]], *sequences: Tensor) -> Tensor:
    return torch.tensor([function(*rows) for rows in zip(*(one.tolist() for one in sequences), strict=True)])


REDUCTIONS = {"mean": lambda chosen: int(sum(chosen) / len(chosen)), "max": max, "min": min}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("pred", PREDICATES.values(), ids=PREDICATES)
@pytest.mark.parametrize("default", [0, -7])
def test_kqv_is_what_a_loop_gives(reduction: Any, pred: Callable[..., Any], default: int) -> None:
    expected = by_row(lambda k, q, v: looked_up(k, q, v, pred, REDUCTIONS[reduction], default), X, Q, V)
    assert torch.equal(core.kqv(X, Q, V, pred, default, reduction), expected)
    assert torch.equal(core.kqv(X[0], Q[0], V[0], pred, default, reduction), expected[0])  # without a batch


def test_a_mean_is_cut_towards_zero() -> None:
    always = core.select(torch.zeros(2).long(), torch.zeros(2).long(), lambda *_: True)
    assert core.aggr(always, torch.tensor([1, 2])).tolist() == [1, 1]
    assert core.aggr(always, torch.tensor([-1, -2])).tolist() == [-1, -1]  # floor would be -2


def test_select_is_causal() -> None:
    everything = core.select(X, Q, lambda *_: True)
    assert everything.shape == (5, 12, 12)
    assert torch.equal(everything, torch.ones(5, 12, 12).tril().bool())
    assert torch.equal(core.sel_width(everything)[0], torch.arange(1, 13))


FUNCTIONS: dict[str, tuple[Callable[[], Tensor], Callable[[list[int], list[int]], list[int]]]] = {
    "full": (lambda: core.full(X, 3), lambda x, _: [3] * len(x)),
    "indices": (lambda: core.indices(X), lambda x, _: list(range(len(x)))),
    "tok_map": (lambda: core.tok_map(X, lambda t: t * 2), lambda x, _: [2 * t for t in x]),
    "seq_map": (lambda: core.seq_map(X, Q, lambda a, b: a - b), lambda x, q: [a - q[i] for i, a in enumerate(x)]),
    "where": (lambda: library.where(X > 0, X, Q), lambda x, q: [a if a > 0 else b for a, b in zip(x, q, strict=True)]),
    "mask": (lambda: library.mask(X, Q > 0, 9), lambda x, q: [a if b > 0 else 9 for a, b in zip(x, q, strict=True)]),
    "shift_right": (lambda: library.shift_right(X, 2, 7), lambda x, _: [7, 7, *x[:-2]]),
    "index_select": (
        lambda: library.index_select(X, Q, 9),
        lambda x, q: [x[at] if 0 <= at <= i else 9 for i, at in enumerate(q)],
    ),
    "cumsum": (lambda: library.cumsum(X > 0), lambda x, _: [sum(t > 0 for t in x[: i + 1]) for i in range(len(x))]),
    "num_prev": (lambda: library.num_prev(X, Q), lambda x, q: [x[: i + 1].count(t) for i, t in enumerate(q)]),
    "has_seen": (lambda: library.has_seen(X, Q).long(), lambda x, q: [t in x[: i + 1] for i, t in enumerate(q)]),
    "firsts": (
        lambda: library.firsts(X, Q),
        lambda x, q: [x.index(t) if t in x[: i + 1] else -1 for i, t in enumerate(q)],
    ),
    "lasts": (
        lambda: library.lasts(X, Q, -5),
        lambda x, q: [max((j for j in range(i + 1) if x[j] == t), default=-5) for i, t in enumerate(q)],
    ),
    "first_true": (
        lambda: library.first_true(X > 1),
        lambda x, _: [next((j for j in range(i + 1) if x[j] > 1), -1) for i in range(len(x))],
    ),
    "maximum": (lambda: library.maximum(X), lambda x, _: [max(x[: i + 1]) for i in range(len(x))]),
    "minimum": (lambda: library.minimum(X), lambda x, _: [min(x[: i + 1]) for i in range(len(x))]),
    "argmax": (lambda: library.argmax(X), lambda x, _: [last(x[: i + 1], max(x[: i + 1])) for i in range(len(x))]),
    "argmin": (lambda: library.argmin(X), lambda x, _: [last(x[: i + 1], min(x[: i + 1])) for i in range(len(x))]),
    "mode": (lambda: library.mode(X), lambda x, _: [mode(x[: i + 1]) for i in range(len(x))]),
    "induct": (lambda: library.induct(X, Q, 1, 9), lambda x, q: behind(x, q, x, 1)),
    "induct_kqv": (lambda: library.induct_kqv(X, Q, V[0].expand(5, -1), 2, 9),
                   lambda x, q: behind(x, q, V[0].tolist(), 2)),
    "induct_prev": (
        lambda: library.induct_prev(X, Q, 1, 9),
        lambda x, q: [x[x.index(t) - 1] if t in x[: i + 1] and x.index(t) > 0 else 9 for i, t in enumerate(q)],
    ),
}  # fmt: skip


def last(x: list[int], value: int) -> int:
    return len(x) - 1 - x[::-1].index(value)


def mode(x: list[int]) -> int:
    """Of the most frequent the one that got there last: the one whose last occurrence is last."""
    counts = Counter(x)
    return max((t for t in counts if counts[t] == max(counts.values())), key=lambda t: last(x, t))


def behind(k: list[int], q: list[int], v: list[int], offset: int) -> list[int]:
    found = []
    for i, t in enumerate(q):
        keys = k[: max(0, i + 1 - offset)]
        found.append(v[keys.index(t) + offset] if t in keys else 9)
    return found


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_what_a_loop_gives(name: str) -> None:
    ours, loop = FUNCTIONS[name]
    assert torch.equal(ours(), by_row(loop, X, Q).long())


def test_bad_arguments() -> None:
    with pytest.raises(InputError, match="reduction is 'median'"):
        core.aggr(core.select(X, X, operator.eq), X, reduction="median")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"f returned shape \(5, 6\)"):
        core.tok_map(X, lambda t: t[..., ::2])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu() -> None:
    assert torch.equal(library.mode(X.cuda()).cpu(), library.mode(X))
