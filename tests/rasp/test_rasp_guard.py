"""The guard lets RASP-L pass and refuses everything else."""

from __future__ import annotations

from collections.abc import Callable
from operator import eq

import numpy as np
import pytest
import torch
from torch import Tensor

from assay._errors import InputError
from assay.data.algorithmic import AlgorithmicTask
from assay.rasp.core import aggr, full, indices, kqv, sel_width, select
from assay.rasp.guard import check_rasp_l
from assay.rasp.library import cumsum, firsts, index_select, lasts, shift_right, where
from assay.rasp.programs import program_for

X = torch.randint(0, 5, (3, 9), generator=torch.Generator().manual_seed(0))

REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "half an index": (lambda x: index_select(x, indices(x) // 2), "floordiv computes with indices"),
    "twice an index": (lambda x: index_select(x, 2 * indices(x)), "computes with indices"),
    "two indices added": (lambda x: index_select(x, firsts(x, x) + indices(x)), "add computes with indices"),
    "steps of two": (lambda x: index_select(x, indices(x) - 2), "sub computes with indices"),
    "mirrored": (lambda x: index_select(x, 1 - indices(x)), "rsub computes with indices"),
    "parity of a count": (lambda x: cumsum(x == 1) % 2, "computes with indices"),
    "an index as a token": (lambda x: x + indices(x), "mixes indices with tokens"),
    "index beside token": (lambda x: kqv(x, indices(x), x, eq), "mixes indices with tokens"),
    "token or index": (lambda x: where(x > 1, x, lasts(x, x)), "mixes indices with tokens"),
    "returns an index": (indices, "returned Index"),
    "returns a count": (lambda x: sel_width(select(x, x, eq)), "returned Index"),
    "mean of indices": (lambda x: index_select(x, kqv(x, x, indices(x), lambda k, q: k <= q)), "mean of different"),
    "a value above int8": (lambda x: x * 100, "values reach from 0 to 400"),
    "a value below int8": (lambda x: (x - 100) - 100, "expected -128 to 127"),
    "a constant above int8": (lambda x: full(x, 128), "expected -128 to 127"),
    "floats": (lambda x: x * 0.5, "dtype torch.float32"),
    "a mean of our own": (lambda x: x.float().mean(-1), "float is no elementwise"),
    "looks ahead": (lambda x: x.flip(-1), "flip is no elementwise operation"),
    "sorted by torch": (lambda x: x.sort(-1).values, "sort is no elementwise operation"),
    "summed by torch": (lambda x: x.cumsum(-1), "cumsum is no elementwise operation"),
    "sliced": (lambda x: x[..., ::2], "getitem is no elementwise operation"),
    "the length": (lambda x: full(x, x.shape[-1]), "shape is no elementwise operation"),
    "the length, another way": (lambda x: full(x, len(x)), "len is no elementwise operation"),
    "an attribute set": (lambda x: setattr(x, "requires_grad", False) or x, "requires_grad is no elementwise"),
    "a loop": (lambda x: next(row for row in x), "iteration is no elementwise operation"),
    "without the guard": (lambda x: full(x, x.as_subclass(Tensor).shape[-1]), "as_subclass is no elementwise"),
    "positions by a predicate": (lambda x: kqv(x, x, x, lambda *_: torch.eye(9).bool()), "pred returned Tensor"),
    "an array by a predicate": (lambda x: kqv(x, x, x, lambda *_: np.eye(9, dtype=bool)), "pred returned ndarray"),
    "keys of its own": (lambda x: kqv(torch.arange(9), x, x, lambda k, _: k > 3), "select takes a tensor"),
    "queries of its own": (lambda x: kqv(x, torch.arange(9), x, lambda *_: True), "select takes a tensor from"),
    "a selection of its own": (lambda x: aggr(torch.eye(9).bool(), x), "aggr takes a tensor from outside"),
    "decides in Python": (lambda x: x if x.max() > 2 else -x, "max is no elementwise operation"),
    "positions of its own": (lambda x: x + torch.arange(9), "from outside the program"),
    "five times the step": (lambda x: index_select(x, torch.add(indices(x), 1, alpha=5)), "add is no elementwise"),
    "in place": (lambda x: x.add_(1), "add_ is no elementwise operation"),
}  # fmt: skip

ALLOWED: dict[str, Callable[[Tensor], Tensor]] = {
    "next index": lambda x: index_select(x, firsts(x, x) + 1 - 1),
    "compared indices": lambda x: where(indices(x) <= firsts(x, x), x, -x),
    "not found": lambda x: where(firsts(x, full(x, 3)) == -1, x, full(x, 0)),
    "counts compared": lambda x: where(cumsum(x == 1) > cumsum(x == 2), x, -x),
    "tokens computed": lambda x: (3 * x - 1) % 4 // 2 + (x > 2),
    "one index for each": lambda x: index_select(x, shift_right(indices(x))),
    "negative": lambda x: abs(-x) & 3,
    "attends to all": lambda x: kqv(x, x, x, lambda *_: True, reduction="max"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_rasp_l_is_refused(name: str) -> None:
    program, why = REFUSED[name]
    with pytest.raises(InputError, match=why):
        check_rasp_l(program)(X)


@pytest.mark.parametrize("program", ALLOWED.values(), ids=ALLOWED)
def test_what_is_rasp_l_passes_and_gives_the_same(program: Callable[[Tensor], Tensor]) -> None:
    found = check_rasp_l(program)(X)
    assert type(found) is Tensor
    assert torch.equal(found, program(X).long())


@pytest.mark.parametrize(
    "task",
    [
        *(AlgorithmicTask(name) for name in ("count", "copy", "sort", "mode")),
        AlgorithmicTask("parity", hints=True, scratchpad=True),
        AlgorithmicTask("addition", hints=True),
        AlgorithmicTask("addition", hints=True, reverse=True),
    ],
)
def test_the_programs_are_rasp_l(task: AlgorithmicTask) -> None:
    program = program_for(task)
    assert program is not None
    batch = task.sample(50, max_length=25, generator=torch.Generator().manual_seed(1))
    assert torch.equal(check_rasp_l(program)(batch.inputs), program(batch.inputs))


def test_prompts_out_of_bounds_are_refused() -> None:
    with pytest.raises(InputError, match="values reach from 0 to 300"):
        check_rasp_l(lambda x: x)(torch.tensor([[0, 300]]))
