"""The common form of the sequence operators: `y = T(u) v`, T causal."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from assay._errors import InputError


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
        if tensor is not None and not torch.isfinite(tensor).all():
            raise InputError(f"{name} holds NaN or infinite entries; expected finite numbers")
