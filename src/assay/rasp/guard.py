"""What RASP-L forbids, refused while a program runs: a check against mistakes, which who wants to gets around."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from assay._errors import InputError

Program = Callable[[Tensor], Tensor]
"""Tokens (..., s), int64, to the next token at every position, (..., s)."""

SMALLEST, LARGEST = -128, 127  # int8
_COMPARISONS = {"eq", "ne", "lt", "le", "gt", "ge"}
_ELEMENTWISE = {
    *("add", "radd", "sub", "rsub", "mul", "rmul", "floordiv", "floor_divide", "mod", "remainder", "neg", "abs"),
    *("and", "or", "xor", "invert", "bitwise_and", "bitwise_or", "bitwise_not", "bitwise_xor"),
    *("logical_and", "logical_or", "logical_not", "minimum", "maximum"),
}
_STEPS = {"add", "radd", "sub"}


class Guarded(Tensor):
    """A sequence that refuses what RASP-L does not have, by an `InputError`. See `check_rasp_l`."""

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.__name__
        if name in {"__get__", "__set__"}:  # of an attribute, such as shape
            name = getattr(getattr(func, "__self__", func), "__name__", name)
        name = name[2:-2] if name.startswith("__") else name  # __add__, but not add_, which works in place
        if name in {"repr", "format"}:
            return func(*map(plain, args), **(kwargs or {}))
        values = args[1:] if name == "where" else args
        check_inside(name, *args)
        of_index = any(isinstance(one, Index) for one in values)
        if of_index:
            _check_index(name, values)
        if kwargs or name not in _COMPARISONS | _ELEMENTWISE | {"where"}:
            raise _refusal(name)
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*map(plain, args))
        return index(result) if of_index and name not in _COMPARISONS else tokens(result)

    def __iter__(self) -> Any:
        raise _refusal("iteration")

    def as_subclass(self, _: Any) -> Any:  # torch hands this one to no __torch_function__
        raise _refusal("as_subclass")


class Tokens(Guarded):
    """Tokens and what is computed from them: whole numbers of int8, and truth values."""


class Index(Guarded):
    """Positions and counts, which grow with the length: compared with one another or a constant, or moved by one."""


def _refusal(name: str) -> InputError:
    return InputError(f"{name} is no elementwise operation of two; RASP-L mixes positions by kqv alone")


def check_inside(name: str, *values: Any) -> None:
    """Raises `InputError` where a tensor without a guard stands beside one with it."""
    tensors = [isinstance(one, Guarded) for one in values if isinstance(one, Tensor)]
    if any(tensors) and not all(tensors):
        raise InputError(f"{name} takes a tensor from outside the program; expected full(x, constant)")


def _check_index(name: str, values: tuple[Any, ...]) -> None:
    if any(isinstance(one, Tokens) for one in values):
        raise InputError(f"{name} mixes indices with tokens; expected indices, or a constant")
    by = values[1] if len(values) == 2 else None
    by_one = name in _STEPS and isinstance(by, int) and abs(by) == 1
    if not by_one and name not in _COMPARISONS | {"where"}:
        raise InputError(f"{name} computes with indices; expected a comparison, + 1 or - 1")


def plain(x: Any) -> Any:
    """The same without a guard."""
    with torch._C.DisableTorchFunctionSubclass():
        return Tensor.as_subclass(x, Tensor) if isinstance(x, Guarded) else x


def tokens(x: Tensor) -> Tensor:
    """x as tokens under guard; raises `InputError` for what int8 cannot hold."""
    x = plain(x)
    if x.is_floating_point() or x.is_complex():
        raise InputError(f"a value has dtype {x.dtype}; expected whole numbers and truth values")
    if x.dtype != torch.bool and x.numel() and not SMALLEST <= int(x.min()) <= int(x.max()) <= LARGEST:
        raise InputError(f"values reach from {int(x.min())} to {int(x.max())}; expected {SMALLEST} to {LARGEST}")
    return x.as_subclass(Tokens)


def index(x: Tensor) -> Tensor:
    """x as positions or counts under guard."""
    return x.as_subclass(Index)


def check_rasp_l(fn: Program) -> Program:
    """`fn` with a guard: it returns what `fn` returns, or raises `InputError` where a step of it is not RASP-L.

        RaspProgram(check_rasp_l(fn)).generate(prompt, eos=EOS, max_len=100)

    The restrictions: tokens and intermediate values are whole numbers of int8; indices are compared, or moved by one;
    positions are mixed by `select` and `aggr` alone, which are causal; anything else is elementwise. Counts
    (`sel_width`) grow with the length, so they are indices here. The length of a sequence is refused, too. The check is
    dynamic: it sees the steps that are taken on the tokens it is called with. It is there against mistakes, not against
    intent: `torch.as_tensor`, for one, takes the guard off. Needs O(s^2) at each kqv as the program itself does.

    Source: Zhou et al. 2023 (arXiv 2310.16028), from memory and public summaries; that counts are indices is
    our reading.
    """

    @functools.wraps(fn)
    def checked(x: Tensor) -> Tensor:
        result = fn(tokens(x))
        if not isinstance(result, Tokens):
            raise InputError(f"the program returned {type(result).__name__}; expected tokens")
        return plain(result).long()

    return checked
