"""The steps of many recurrences, and stretches of them taken as one step.

A stretch of steps `s <- A_t s + B_t u_t` is one step itself: its transition is the product of theirs, and its inputs
enter through the rows `(A_last .. A_{j+1} B_j)^T`. Stretches of one recurrence do not depend on each other, so all of
them are computed side by side. Nothing is divided by a product of decays: what underflows ends in 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Transition(NamedTuple):
    """`A` (..., N) diagonal or (..., N, N); with `u` and `w`, (..., N), it is `diag(A) + u w^T`."""

    A: Tensor
    u: Tensor | None = None
    w: Tensor | None = None

    def after(self, rows: Tensor) -> Tensor:
        """`rows A^T`, (..., R, N): each row is a state that makes the step."""
        if self.A.ndim == rows.ndim:
            return rows @ self.A.mT
        moved = rows * self.A[..., None, :]
        if self.u is None or self.w is None:
            return moved
        return torch.addcmul(moved, rows @ self.w[..., None], self.u[..., None, :])

    def stretch(self, k: int) -> Transition:
        """That of the k-th stretch, from those of shape (M, S, ...)."""
        return Transition(*(None if t is None else t[:, k] for t in self))  # type: ignore[arg-type]

    def before(self, rows: Tensor) -> Tensor:
        """`rows A`, (..., R, N): each row reads the state before the step instead of after it."""
        if self.A.ndim == rows.ndim:
            return rows @ self.A
        moved = rows * self.A[..., None, :]
        if self.u is None or self.w is None:
            return moved
        return torch.addcmul(moved, rows @ self.u[..., None], self.w[..., None, :])


@dataclass(frozen=True)
class Stretches:
    """S stretches of T steps of M recurrences with state N, the newest step first.

    `A`: (M, S, T, N) diagonal or (M, S, T, N, N); `B`, and `u` and `w` where there are any: (M, S, T, N).
    """

    A: Tensor
    B: Tensor
    u: Tensor | None
    w: Tensor | None

    def transition(self, t: int) -> Transition:
        if self.u is None or self.w is None:
            return Transition(self.A[:, :, t])
        return Transition(self.A[:, :, t], self.u[:, :, t], self.w[:, :, t])

    def as_one(self) -> tuple[Transition, Tensor]:
        """One step for each stretch: its transition, (M, S, ...), and its rows, (M, S, T, N).

        O(T N) for each diagonal stretch, O(T N^2) with a rank-one part, O(T N^3) for a dense one.
        """
        length = self.B.shape[2]
        if self.u is None and self.A.ndim == self.B.ndim:
            product = self.A.cumprod(2)
            rows = self.B.clone()
            rows[:, :, 1:] *= product[:, :, :-1]
            return Transition(product[:, :, -1]), rows
        unit = torch.eye(self.B.shape[-1], dtype=self.B.dtype, device=self.B.device)
        product = unit.expand(*self.B.shape[:2], -1, -1)
        rows = torch.empty_like(self.B)
        for t in range(length):
            rows[:, :, t] = (product @ self.B[:, :, t, :, None])[..., 0]
            product = self.transition(t).before(product)
        return Transition(product), rows


@dataclass(frozen=True)
class Steps:
    """All steps of M recurrences, in any floating dtype: A (M, L, N) or (M, L, N, N); B, C, u, w (M, L, N).

    The output `C_t s` is read before the step's update, or after it if not `pre_update`.
    """

    A: Tensor
    B: Tensor
    C: Tensor
    u: Tensor | None
    w: Tensor | None
    pre_update: bool

    @property
    def length(self) -> int:
        return self.B.shape[1]

    def __getitem__(self, part: slice) -> Steps:
        """Some of the M recurrences."""
        u, w = (None if t is None else t[part] for t in (self.u, self.w))
        return Steps(self.A[part], self.B[part], self.C[part], u, w, self.pre_update)

    def between(self, starts: Tensor, stops: Tensor, *, backwards: bool = False) -> Stretches:
        """Steps start .. stop - 1 of each stretch in float64, then some that change nothing up to the longest stretch.

        `starts`, `stops`: (S,), on the CPU. Backwards the recurrence runs from the end with `A_t^T` for `A_t` and C as
        the input: its state gathers the rows `C_t A_{t-1} .. A_i` as the other one gathers columns.
        """
        if len(starts) == 1:
            return self._one(int(starts), int(stops), backwards=backwards)
        newest = torch.arange(int((stops - starts).max()))
        index = starts[:, None] + newest if backwards else stops[:, None] - 1 - newest
        idle = (index < starts[:, None]) | (index >= stops[:, None])
        index = index.clamp(0, self.length - 1)

        first, last = int(index.min()), int(index.max())
        chosen = (index - first).flatten().to(self.B.device)

        def take(tensor: Tensor) -> Tensor:
            near = tensor[:, first : last + 1].double()  # what is not contiguous is copied by index_select as a whole
            return near.index_select(1, chosen).reshape(len(tensor), *index.shape, *tensor.shape[2:])

        A, B, u, w = self._in_direction(take, backwards)
        if bool(idle.any()):
            idle = idle.to(B.device)[None, :, :, None]
            B = B.masked_fill(idle, 0)
            u = None if u is None else u.masked_fill(idle, 0)
            unit = torch.ones_like(A[0, 0, 0]) if A.ndim == B.ndim else torch.eye(A.shape[-1]).to(A)
            A = torch.where(idle if A.ndim == B.ndim else idle[..., None], unit, A)
        return Stretches(A, B, u, w)

    def _one(self, start: int, stop: int, *, backwards: bool) -> Stretches:
        """A single stretch, which needs no padding."""

        def take(tensor: Tensor) -> Tensor:
            part = tensor[:, start:stop].double()
            return (part if backwards else part.flip(1))[:, None]

        return Stretches(*self._in_direction(take, backwards))

    def _in_direction(
        self, take: Callable[[Tensor], Tensor], backwards: bool
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """A, B, u and w of the steps that `take` takes; transposed, and C for B, if backwards."""
        A, B = take(self.A), take(self.C if backwards else self.B)
        u, w = (None if t is None else take(t) for t in (self.u, self.w))
        if not backwards:
            return A, B, u, w
        if not self.pre_update:
            B = Transition(A, u, w).before(B[..., None, :])[..., 0, :]
        return (A if A.ndim == B.ndim else A.mT), B, w, u
