"""The common form of the sequence operators: `y = T(u) v`, T causal."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from assay._errors import InputError

if TYPE_CHECKING:
    from assay.operators._realise import Realisation


class SequenceOperator(ABC):
    """A causal linear operator along a sequence, one for each entry of `batch_shape`.

    Shapes: `...` is any batch shape (often batch, heads), L the length, C the channels that share an operator.
    """

    @property
    @abstractmethod
    def batch_shape(self) -> torch.Size:
        """The leading dimensions."""

    @property
    @abstractmethod
    def length(self) -> int:
        """L."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Of the entries."""

    @property
    def channels(self) -> int:
        """Channels that T mixes with each other at every position: 1 but for a Jacobian."""
        return 1

    @abstractmethod
    def apply(self, values: Tensor) -> Tensor:
        """`T v`: (..., L, C) -> (..., L, C)."""

    @abstractmethod
    def to_dense(self) -> Tensor:
        """T itself, (..., L, L)."""

    @abstractmethod
    def state_size(self, positions: Sequence[int]) -> Tensor:
        """TSS, the theoretically realisable state size at each position: (P,), entries per channel."""

    @abstractmethod
    def hankel_singular_values(self, positions: Sequence[int]) -> Tensor:
        """Those of `T[i:, :i]` for each position i: (..., P, r), float64, descending, padded with zeros.

        A block for which no LAPACK routine converges is NaN throughout.
        """

    @abstractmethod
    def window(self, start: int, stop: int) -> SequenceOperator:
        """The operator between positions start and stop (excluded): `T[start:stop, start:stop]`."""

    @abstractmethod
    def __getitem__(self, index: int | slice | tuple[int | slice, ...]) -> SequenceOperator:
        """Index into the batch shape."""

    @abstractmethod
    def double(self) -> SequenceOperator:
        """The same in float64."""

    # The forms know nothing of each other: what makes one from another is imported where it is used.

    def __add__(self, other: SequenceOperator) -> SequenceOperator:
        """In parallel: `(T + T') v = T v + T' v`. Two recurrences give one, with the sum of their state sizes."""
        from assay.operators._algebra import add

        return add(self, other)

    def compose(self, inner: SequenceOperator) -> SequenceOperator:
        """In series: `T T'`, the inner operator first. Two recurrences give one, with the sum of their state sizes."""
        from assay.operators._algebra import compose

        return compose(self, inner)

    def truncate(self, rank: int) -> Realisation:
        """The operator as a recurrence with a state of at most `rank`, with the error that this makes.

        Time-varying truncation of the Hankel blocks `T[i:, :i]`; see `assay.operators.Realisation`.
        Complexity: O(L N^3) for a recurrence with state N; O(L^2 rank^2) otherwise.
        """
        from assay.operators._realise import realise

        return realise(self, rank=rank)

    def realise(self, *, tolerance: float = 0.0) -> Realisation:
        """The smallest recurrence: at each position its state has the size rank `T[i:, :i]`.

        Singular values at or below `tolerance` (absolute), or at rounding level, are dropped.
        Complexity: O(L N^3) for a recurrence with state N; O(L^2 n^2) otherwise, with n the largest state found.
        Source: Ho & Kalman 1966; Parnichkun et al. 2025, section 2 (minimal realisation of a time-varying operator).
        """
        from assay.operators._realise import realise

        return realise(self, tolerance=tolerance)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch_shape={tuple(self.batch_shape)}, length={self.length})"


def check_positions(positions: Sequence[int], length: int) -> list[int]:
    """The positions as a list; raises `InputError` for one outside 1..L-1 (at 0 and L there is no block)."""
    found = [int(i) for i in positions]
    if wrong := [i for i in found if not 1 <= i < length]:
        raise InputError(f"position {wrong[0]} is outside the sequence; expected 1 to {length - 1}")
    return found


def check_finite(**tensors: Tensor | None) -> None:
    """Raise `InputError` that names the argument holding NaN or infinity."""
    for name, tensor in tensors.items():
        # a sum is finite only where all entries are, in one fast pass; where finite ones overflow, the extremes tell
        if tensor is None or not tensor.numel() or bool(tensor.sum().isfinite()):
            continue
        if not torch.stack(torch.aminmax(tensor)).isfinite().all():
            raise InputError(f"{name} holds NaN or infinite entries; expected finite numbers")


def check_fits(what: str, *shape: int, itemsize: int = 8) -> None:
    """Raise `InputError` where a tensor of this shape is larger than all the memory that is free on this machine."""
    import psutil

    needed, free = math.prod(shape) * itemsize, psutil.virtual_memory().available
    if needed > free:
        raise InputError(
            f"{what} of shape {shape} would take {needed / 1e9:,.0f} GB, and {free / 1e9:,.0f} are free; "
            "expected fewer operators at a time, a shorter window or a smaller state"
        )
