"""The recurrent form: a linear state that is carried along."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy

import torch
from torch import Tensor

from assay._errors import InputError
from assay.operators._gramians import approximate_hankel_singular_values, hankel_singular_values
from assay.operators._operator import SequenceOperator, check_finite, check_fits, check_positions
from assay.operators._scan import scan


class RecurrentOperator(SequenceOperator):
    """`h_t = A_t h_{t-1} + B_t u_t,  y_t = C_t h_t + D_t u_t` with `h_{-1} = 0`, scalar u and y for each channel.

    Args:
        A: transitions. Diagonal: (..., L, N), where N may be 1 for a scalar one; dense: (..., L, N, N); block-diagonal
            with K blocks: (..., L, K, N / K, N / K). Any of `...` may be 1 and is expanded.
        B: input vectors, (..., L, N).
        C: output vectors, (..., L, N).
        D: skip connection, (..., L), or None for none.
        rank_one: (u, w), (..., L, N) each; the transition is then `diag(A_t) + u_t w_t^T` (DeltaNet, RWKV-7).

    The *post-update* convention of most libraries; a recurrence that reads its state before the update
    (`y_t = C_t h_{t-1} + D_t u_t`) is made by `RecurrentOperator.pre_update`.
    The state of C channels that share an operator, as in `apply`, is a matrix (N, C); channels with a
    recurrence each are a batch dimension.
    Raises `InputError` for shapes that disagree and entries that are not finite.

    >>> ones = torch.ones(3, 1)
    >>> RecurrentOperator(0.5 * ones, ones, ones).to_dense()
    tensor([[1.0000, 0.0000, 0.0000],
            [0.5000, 1.0000, 0.0000],
            [0.2500, 0.5000, 1.0000]])
    """

    def __init__(
        self,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None = None,
        *,
        rank_one: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        u, w = rank_one or (None, None)
        given = {"A": A, "B": B, "C": C, "D": D, "u": u, "w": w}
        try:
            self._set(A, B, C, D, rank_one)
        except RuntimeError:
            shapes = ", ".join(f"{name} {tuple(t.shape)}" for name, t in given.items() if t is not None)
            raise InputError(
                f"shapes disagree: {shapes}; expected A (..., L, N), (..., L, N, N) or (..., L, K, N/K, N/K), "
                "B, C, u, w (..., L, N), D (..., L), and u, w only with a diagonal A"
            ) from None
        check_finite(**given)
        self._pre_update = False

    def _set(self, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, rank_one: tuple[Tensor, Tensor] | None) -> None:
        inner = max(0, A.ndim - B.ndim)  # 0 diagonal, 1 dense, 2 blocks
        if inner > (2 if rank_one is None else 0):
            raise RuntimeError
        if inner == 2:
            A = _block_diagonal(A)
        vectors = torch.broadcast_shapes(B.shape, C.shape, *(t.shape for t in rank_one or ()))
        shape = torch.broadcast_shapes(vectors, A.shape if inner == 0 else A.shape[:-1])
        if shape[-1] != max(B.shape[-1], C.shape[-1]):  # the state has the size of its vectors
            raise RuntimeError
        self.A = A.expand(shape) if inner == 0 else A.expand(*shape, shape[-1])
        self.B, self.C = B.expand(shape), C.expand(shape)
        self.D = None if D is None else D.expand(shape[:-1])
        self.rank_one = None if rank_one is None else (rank_one[0].expand(shape), rank_one[1].expand(shape))

    @classmethod
    def pre_update(
        cls,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None = None,
        *,
        rank_one: tuple[Tensor, Tensor] | None = None,
    ) -> RecurrentOperator:
        """The convention of Parnichkun et al.: `s_{t+1} = A_t s_t + B_t u_t,  y_t = C_t s_t + D_t u_t`."""
        operator = cls(A, B, C, D, rank_one=rank_one)
        operator._pre_update = True
        return operator

    @property
    def is_diagonal(self) -> bool:
        return self.A.ndim == self.B.ndim and self.rank_one is None

    @property
    def batch_shape(self) -> torch.Size:
        return self.B.shape[:-2]

    @property
    def length(self) -> int:
        return self.B.shape[-2]

    @property
    def dtype(self) -> torch.dtype:
        return self.B.dtype

    def apply(self, values: Tensor) -> Tensor:
        """O(L N C) time for diagonal(-plus-rank-one) transitions; little memory besides the output."""
        y = scan(self.A, self.B, self.C, values, self.rank_one, pre_update=self._pre_update)
        return y if self.D is None else y + self.D[..., None] * values

    def transitions(self) -> Tensor:
        """A as it is where it is diagonal, (..., L, N); otherwise as matrices, (..., L, N, N)."""
        if self.rank_one is None:
            return self.A
        u, w = self.rank_one
        return torch.diag_embed(self.A) + u[..., :, None] * w[..., None, :]

    def read_before_update(self) -> RecurrentOperator:
        """The same operator in the pre-update convention, with a D."""
        if self._pre_update:
            D = self.B.new_zeros(self.B.shape[:-1]) if self.D is None else self.D
            return RecurrentOperator.pre_update(self.A, self.B, self.C, D, rank_one=self.rank_one)
        A, C = self.transitions(), self.C
        before = C * A if self.is_diagonal else (C[..., None, :] @ A).squeeze(-2)  # y_t = C_t (A_t h_{t-1} + B_t u_t)
        through = (C * self.B).sum(-1)
        return RecurrentOperator.pre_update(
            self.A, self.B, before, through if self.D is None else self.D + through, rank_one=self.rank_one
        )

    def to_dense(self) -> Tensor:
        """O(L^2 N): the response to each unit impulse. Raises `InputError` where T is larger than the free memory."""
        check_fits("T", *self.batch_shape, self.length, self.length, itemsize=self.dtype.itemsize)
        return self.apply(torch.eye(self.length, dtype=self.B.dtype, device=self.B.device))

    def state_size(self, positions: Sequence[int]) -> Tensor:
        return torch.full((len(check_positions(positions, self.length)),), self.B.shape[-1])

    def hankel_singular_values(self, positions: Sequence[int]) -> Tensor:
        """Time-varying Hankel singular values, without forming T. O(L N^2 + P N^3) for diagonal transitions."""
        positions = check_positions(positions, self.length)
        return hankel_singular_values(self.A, self.B, self.C, positions, self.rank_one, pre_update=self._pre_update)

    def gramian_singular_values(self, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """As `hankel_singular_values` but from Gramians, (..., P, N), and their absolute resolution, (..., P).

        Singular values below the resolution, about 1e-6 of the largest one, are noise. Not differentiable.
        """
        positions = check_positions(positions, self.length)
        return approximate_hankel_singular_values(
            self.A, self.B, self.C, positions, self.rank_one, pre_update=self._pre_update
        )

    def window(self, start: int, stop: int) -> RecurrentOperator:
        return self._map(lambda tensor, event: tensor.narrow(tensor.ndim - event - 1, start, stop - start))

    def __getitem__(self, index: int | slice | Tensor | tuple[int | slice, ...]) -> RecurrentOperator:
        return self._map(lambda tensor, _: tensor[index])

    def double(self) -> RecurrentOperator:
        return self._map(lambda tensor, _: _double(tensor))

    def _map(self, change: Callable[[Tensor, int], Tensor]) -> RecurrentOperator:
        """`change` is given each tensor and the number of its dimensions behind L."""
        operator = copy(self)  # what was checked already is not checked again
        operator.A = change(self.A, 1 + self.A.ndim - self.B.ndim)
        operator.B, operator.C = change(self.B, 1), change(self.C, 1)
        operator.D = None if self.D is None else change(self.D, 0)
        if self.rank_one is not None:
            operator.rank_one = (change(self.rank_one[0], 1), change(self.rank_one[1], 1))
        return operator


def _double(tensor: Tensor) -> Tensor:
    """Dimensions that were only expanded stay so: transitions that are the same at all times are not copied L times."""
    if tensor.dtype == torch.float64:
        return tensor
    once = tensor[tuple(slice(0, 1) if step == 0 else slice(None) for step in tensor.stride())]
    return once.double().expand(tensor.shape)


def _block_diagonal(blocks: Tensor) -> Tensor:
    """(..., K, b, b) -> (..., K b, K b)."""
    count, size = blocks.shape[-3], blocks.shape[-1]
    placed = blocks.new_zeros(*blocks.shape[:-3], count, size, count, size)
    index = torch.arange(count, device=blocks.device)
    placed[..., index, :, index, :] = blocks.movedim(-3, 0)
    return placed.reshape(*blocks.shape[:-3], count * size, count * size)
