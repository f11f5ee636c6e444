"""Running a recurrence over values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from assay.operators._steps import Transition

_WIDTH = 2**15  # numbers of state that one step should work on, so that calling it does not count
_FEWEST = 8  # chunks that make up for the second run
_BLOCK = 32  # steps that are converted and laid out in the order of time together


def scan(
    A: Tensor,
    B: Tensor,
    C: Tensor,
    values: Tensor,
    rank_one: tuple[Tensor, Tensor] | None = None,
    *,
    pre_update: bool = False,
) -> Tensor:
    """`h_t = A_t h_{t-1} + B_t v_t,  y_t = C_t h_t` from `h_{-1} = 0`: (..., L, V) -> (..., L, V).

    Shapes: A (..., L, N) diagonal or (..., L, N, N) dense; B, C (..., L, N); `rank_one` = (u, w), (..., L, N) each, for
    transitions `diag(A_t) + u_t w_t^T`. All have the same batch shape; that of values, (..., L, V), broadcasts with it.
    `pre_update`: `y_t = C_t h_{t-1}`. In the dtype that B and values promote to. Differentiable.

    A state too small to keep a core busy is run over up to sqrt(L) chunks side by side: first from an empty state,
    which says what each chunk makes of its inputs and of what comes in; then from the state that is handed to it.
    Nothing is divided by a decay. Complexity: O(L N V) for diagonal transitions and those with a rank-one part (for
    the latter O(L N (V + N)) in chunks), O(L N^2 (V + N)) for dense ones. Memory besides arguments and result: the
    chunks' states.
    """
    batch = torch.broadcast_shapes(B.shape[:-2], values.shape[:-2])
    (length, size), width = B.shape[-2:], values.shape[-1]
    u, w = rank_one or (None, None)
    run = _Run(A, B, C, u, w, pre_update, torch.promote_types(B.dtype, values.dtype))
    run = run.map(lambda tensor, dim: tensor.expand(*batch, *tensor.shape[dim:]))
    state = B.new_zeros(*batch, width, size, dtype=run.dtype)
    chunks = min(math.isqrt(length), _WIDTH // max(1, state.numel()))
    if chunks < _FEWEST:
        return run.outputs(values, state)[0]
    split = length - length % chunks
    chunked = run.map(lambda tensor, dim: tensor.narrow(dim, 0, split).unflatten(dim, (chunks, -1)))
    first = values[..., :split, :].unflatten(-2, (chunks, -1))
    y, ends = chunked.outputs(first, chunked.handed_on(first, state))
    rest = run.map(lambda tensor, dim: tensor.narrow(dim, split, length - split))
    return torch.cat([y.flatten(-3, -2), rest.outputs(values[..., split:, :], ends[..., -1, :, :])[0]], dim=-2)


@dataclass(frozen=True)
class _Run:
    """The arguments of `scan`. The state is a row for each value channel, (..., V, N)."""

    A: Tensor
    B: Tensor
    C: Tensor
    u: Tensor | None
    w: Tensor | None
    pre_update: bool
    dtype: torch.dtype

    def map(self, change: Callable[[Tensor, int], Tensor]) -> _Run:
        """`change` is given each tensor and its time dimension."""
        dense = self.A.ndim > self.B.ndim
        B, C, u, w = (None if t is None else change(t, t.ndim - 2) for t in (self.B, self.C, self.u, self.w))
        assert B is not None
        assert C is not None
        return replace(self, A=change(self.A, self.A.ndim - (3 if dense else 2)), B=B, C=C, u=u, w=w)

    def outputs(self, values: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """(..., T, V) from a state, and the last state."""
        found = []
        for transition, B, C, v in self._steps(values):
            if self.pre_update:
                found.append((state * C[..., None, :]).sum(-1))
            state = torch.addcmul(transition.after(state), v[..., :, None], B[..., None, :])
            if not self.pre_update:
                found.append((state * C[..., None, :]).sum(-1))
        return torch.stack(found, dim=-2) if found else values.to(self.dtype).expand(*state.shape[:-2], -1, -1), state

    def handed_on(self, values: Tensor, empty: Tensor) -> Tensor:
        """The state that each chunk begins with, from values (..., K, T, V): (..., K, V, N)."""
        chunks, width, size = values.shape[-3], *empty.shape[-2:]
        state = empty.unsqueeze(-3).expand(*empty.shape[:-2], chunks, -1, -1)
        diagonal = self.A.ndim == self.B.ndim and self.u is None
        if not diagonal:  # what becomes of each unit state is run along
            unit = torch.eye(size, dtype=self.dtype, device=empty.device)
            state = torch.cat([state, unit.expand(*state.shape[:-2], -1, -1)], dim=-2)
            values = torch.nn.functional.pad(values, (0, size))
        for transition, B, _, v in self._steps(values):
            state = torch.addcmul(transition.after(state), v[..., :, None], B[..., None, :])
        through = self.A.to(self.dtype).prod(-2) if diagonal else state[..., width:, :]
        states = [empty]
        for k in range(chunks - 1):
            moved = states[-1] * through[..., k, None, :] if diagonal else states[-1] @ through[..., k, :, :]
            states.append(moved + state[..., k, :width, :])
        return torch.stack(states, dim=-3)

    def _steps(self, values: Tensor) -> Iterator[tuple[Transition, Tensor, Tensor, Tensor]]:
        """Transition, B, C and values at each step, the time dimension gone."""
        for start in range(0, values.shape[-2], _BLOCK):
            stop = min(start + _BLOCK, values.shape[-2])
            block = self.map(lambda tensor, dim: self._in_time(tensor, dim, start, stop))  # noqa: B023
            v = self._in_time(values, values.ndim - 2, start, stop)
            for t in range(stop - start):
                pair = () if block.u is None or block.w is None else (block.u[t], block.w[t])
                yield Transition(block.A[t], *pair), block.B[t], block.C[t], v[t]

    def _in_time(self, tensor: Tensor, dim: int, start: int, stop: int) -> Tensor:
        part = tensor.narrow(dim, start, stop - start)
        once = part[tuple(slice(0, 1) if step == 0 else slice(None) for step in part.stride())]  # not what is expanded
        return once.to(self.dtype).movedim(dim, 0).contiguous().expand(part.movedim(dim, 0).shape)
