"""The recurrent form: a linear state that is carried along."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from assay._errors import InputError
from assay.operators._gramians import hankel_singular_values
from assay.operators._operator import SequenceOperator, check_finite, check_positions


class RecurrentOperator(SequenceOperator):
    """`h_t = A_t h_{t-1} + B_t u_t,  y_t = C_t h_t + D_t u_t` with `h_{-1} = 0`, scalar u and y for each channel.

    Args:
        A: transitions; (..., L, N) for diagonal ones, (..., L, N, N) for dense ones. Any of `...`, N may be 1 and is
            expanded (a scalar transition is (..., L, 1)).
        B: input vectors, (..., L, N).
        C: output vectors, (..., L, N).
        D: skip connection, (..., L), or None for none.

    The *post-update* convention of most libraries; a recurrence that reads its state before the update
    (`y_t = C_t h_{t-1} + D_t u_t`) is made by `RecurrentOperator.pre_update`.
    Raises `InputError` for shapes that disagree and entries that are not finite.
    """

    def __init__(self, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None) -> None:
        dense = A.ndim == B.ndim + 1
        try:
            shape = torch.broadcast_shapes(B.shape, C.shape, A.shape[:-1] if dense else A.shape)
            self.A = A.expand(*shape, shape[-1]) if dense else A.expand(shape)
            self.B, self.C = B.expand(shape), C.expand(shape)
            self.D = None if D is None else D.expand(shape[:-1])
        except RuntimeError:
            shapes = ", ".join(f"{n} {tuple(t.shape)}" for n, t in (("A", A), ("B", B), ("C", C)))
            raise InputError(f"shapes disagree: {shapes}; expected A (..., L, N[, N]), B, C (..., L, N)") from None
        check_finite(A=A, B=B, C=C, D=D)
        self._pre_update = False

    @classmethod
    def pre_update(cls, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None) -> RecurrentOperator:
        """The convention of Parnichkun et al.: `s_{t+1} = A_t s_t + B_t u_t,  y_t = C_t s_t + D_t u_t`."""
        operator = cls(A, B, C, D)
        operator._pre_update = True
        return operator

    @property
    def is_diagonal(self) -> bool:
        return self.A.ndim == self.B.ndim

    @property
    def batch_shape(self) -> torch.Size:
        return self.B.shape[:-2]

    @property
    def length(self) -> int:
        return self.B.shape[-2]

    def apply(self, values: Tensor) -> Tensor:
        """O(L N C) time, and the state is all the memory it needs besides the output."""
        dtype = torch.promote_types(self.B.dtype, values.dtype)
        state = values.new_zeros(*self.batch_shape, self.B.shape[-1], values.shape[-1], dtype=dtype)
        outputs = []
        for t in range(self.length):
            B, C, v = self.B[..., t, :, None], self.C[..., t, None, :], values[..., t, None, :]
            if self._pre_update:
                outputs.append(C @ state)
            A = self.A[..., t, :, None] if self.is_diagonal else self.A[..., t, :, :]
            state = (A * state if self.is_diagonal else A @ state) + B * v
            if not self._pre_update:
                outputs.append(C @ state)
        y = torch.cat(outputs, dim=-2)
        return y if self.D is None else y + self.D[..., None] * values

    def to_dense(self) -> Tensor:
        """O(L^2 N): the response to each unit impulse."""
        return self.apply(torch.eye(self.length, dtype=self.B.dtype, device=self.B.device))

    def state_size(self, positions: Sequence[int]) -> Tensor:
        return torch.full((len(check_positions(positions, self.length)),), self.B.shape[-1])

    def singular_values(self, positions: Sequence[int]) -> Tensor:
        """Time-varying Hankel singular values, without forming T. O(L N^2 + P N^3) for diagonal transitions."""
        positions = check_positions(positions, self.length)
        A, B, C = self.A.double(), self.B.double(), self.C.double()
        if not self._pre_update:  # y_t = C_t A_t h_{t-1} + ...
            C = C * A if self.is_diagonal else (C[..., None, :] @ A).squeeze(-2)
        return hankel_singular_values(A, B, C, positions)

    def window(self, start: int, stop: int) -> RecurrentOperator:
        return self._map(lambda tensor, event: tensor.narrow(tensor.ndim - event - 1, start, stop - start))

    def __getitem__(self, index: int | slice | tuple[int | slice, ...]) -> RecurrentOperator:
        return self._map(lambda tensor, _: tensor[index])

    def double(self) -> RecurrentOperator:
        return self._map(lambda tensor, _: tensor.double())

    def _map(self, change) -> RecurrentOperator:  # type: ignore[no-untyped-def]
        make = RecurrentOperator.pre_update if self._pre_update else RecurrentOperator
        A = change(self.A, 1 if self.is_diagonal else 2)
        return make(A, change(self.B, 1), change(self.C, 1), None if self.D is None else change(self.D, 0))
