"""The smallest recurrence that computes an operator, exactly or nearly.

Going through the sequence, the state is kept as coordinates of the past inputs in an orthonormal basis: `s_i = Q_i^T u`
for the inputs u before position i. What is still to come out of them is `H_i u`, so directions of the past that `H_i`
does not see are dropped: at each step the basis is widened by the new token, and turned and cut by a singular value
decomposition of `H_i Q_i`. This is the time-varying form of Ho & Kalman's realisation (1966), as used for
sequentially semiseparable matrices (Chandrasekaran et al. 2005) and, from tensor networks, the TT-SVD (Oseledets 2011).

What is dropped at different steps lies in orthogonal directions of the input. Hence the error of the whole operator is
known without forming it: its Frobenius norm is exactly, and its spectral norm at most, the root of the sum over the
steps of the squares of what was dropped. Without dropping, the state at i has the size rank `H_i`: the minimal one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from assay._errors import InputError
from assay.operators._operator import SequenceOperator, check_fits
from assay.operators._recurrent import RecurrentOperator
from assay.operators._spectrum import in_parallel

ROUNDING = 64  # times the machine epsilon of the entries, relative to the largest singular value so far


@dataclass(frozen=True)
class Realisation:
    """A recurrence for an operator with batch shape `...`.

    `operator`: in the pre-update convention, states padded with zeros to the largest. `state_sizes`: (..., L), the size
    of the state carried into each position (0 at the first). `error`: (...), the Frobenius norm of the difference
    between the two operators. `error_bound`: (...), a bound on its spectral norm: `|T v - T' v| <= error_bound |v|`.
    """

    operator: RecurrentOperator
    state_sizes: Tensor
    error: Tensor
    error_bound: Tensor


@torch.no_grad()
def realise(operator: SequenceOperator, *, rank: int | None = None, tolerance: Tensor | float = 0.0) -> Realisation:
    """Keep the singular values above `tolerance` (a number, or one for each operator, (...)), at most `rank` of them.

    Values at rounding level are always dropped. Everything is computed in float64.
    Complexity: O(L N^3) for a recurrence with state N; O(L^2 n^2) otherwise, with n the largest state kept.
    Raises `InputError` for a rank or tolerance below 0, for operators that mix channels, and where the transitions
    would be larger than the free memory.
    """
    if rank is not None and rank < 0:
        raise InputError(f"rank is {rank}; expected 0 or more")
    threshold = torch.as_tensor(tolerance, dtype=torch.float64)
    if not bool((threshold >= 0).all()):
        raise InputError(f"tolerance is {tolerance}; expected 0 or more")
    if operator.channels > 1:
        raise InputError(f"{operator!r} mixes {operator.channels} channels; expected operators of one channel")
    resolution = ROUNDING * torch.finfo(operator.dtype).eps
    if isinstance(operator, RecurrentOperator):
        return _sweep(_FutureOfRecurrence(operator), rank, threshold, resolution)
    T = operator.to_dense().double()
    matrices, thresholds = T.reshape(-1, *T.shape[-2:]), threshold.expand(operator.batch_shape).reshape(-1)

    def one(k: int) -> Realisation:
        return _sweep(_FutureOfMatrix(matrices[k]), rank, thresholds[k], resolution)

    return _stack(in_parallel(one, range(len(matrices)), device=T.device), operator.batch_shape)


def _sweep(future: _Future, rank: int | None, threshold: Tensor, resolution: float) -> Realisation:
    """From the first position to the last."""
    threshold = threshold.to(future.D.device)
    largest = error = bound = future.D.new_zeros(future.D.shape[:-1])
    steps: list[tuple[Tensor, Tensor, Tensor]] = []  # A_i, B_i, C_i
    sizes = [largest.long()]
    for i in range(future.D.shape[-1]):
        C = future.output(i)
        sigma, turn = _right_singular(future.widen(i))
        largest = torch.maximum(largest, sigma.amax(-1)) if sigma.shape[-1] else largest
        kept = sigma > torch.maximum(threshold, resolution * largest)[..., None]
        if rank is not None:
            kept[..., rank:] = False
        dropped = sigma * ~kept
        error = error + dropped.square().sum(-1)
        bound = bound + (dropped.amax(-1).square() if sigma.shape[-1] else 0)
        sizes.append(kept.sum(-1))
        width = int(sizes[-1].max())
        turn = turn[..., :width] * kept[..., None, :width]
        future.turn(turn)
        steps.append((turn[..., :-1, :].mT, turn[..., -1, :], C))
    width = max(int(size.max()) for size in sizes)
    check_fits("a recurrence with its transitions", *future.D.shape, width, width)
    A = torch.stack([_pad(A, width, width) for A, _, _ in steps], dim=-3)
    B = torch.stack([_pad(B, width) for _, B, _ in steps], dim=-2)
    C = torch.stack([_pad(C, width) for _, _, C in steps], dim=-2)
    operator = RecurrentOperator.pre_update(A, B, C, future.D)
    return Realisation(operator, torch.stack(sizes[:-1], dim=-1), error.sqrt(), bound.sqrt())


def _stack(parts: list[Realisation], batch_shape: torch.Size) -> Realisation:
    """Realisations of single operators as one of their batch, states padded to the largest."""
    size = max(part.operator.B.shape[-1] for part in parts)

    def stacked(tensors: list[Tensor]) -> Tensor:
        return torch.stack(tensors).unflatten(0, batch_shape) if batch_shape else tensors[0]

    operators = [part.operator for part in parts]
    operator = RecurrentOperator.pre_update(
        stacked([_pad(operator.A, size, size) for operator in operators]),
        stacked([_pad(operator.B, size) for operator in operators]),
        stacked([_pad(operator.C, size) for operator in operators]),
        stacked([operator.D for operator in operators if operator.D is not None]),
    )
    rest = ([getattr(part, name) for part in parts] for name in ("state_sizes", "error", "error_bound"))
    return Realisation(operator, *(stacked(tensors) for tensors in rest))


class _Future(Protocol):
    """What is still to come out of the state at a position, and how it changes from one to the next."""

    D: Tensor

    def output(self, i: int) -> Tensor:
        """C_i, (..., n)."""

    def widen(self, i: int) -> Tensor:
        """What the state at i and the token i will put out from i + 1 on, (..., R, n + 1)."""

    def turn(self, turn: Tensor) -> None:
        """New coordinates for that state, (..., n + 1, n')."""


class _FutureOfMatrix:
    """`H_i Q_i`, (L - i, n), for T (L, L)."""

    def __init__(self, T: Tensor) -> None:
        self.T, self.D = T, T.diagonal(dim1=-2, dim2=-1)
        self.now = T[..., :0]

    def output(self, i: int) -> Tensor:  # noqa: ARG002
        return self.now[..., 0, :]

    def widen(self, i: int) -> Tensor:
        self.wide = torch.cat([self.now[..., 1:, :], self.T[..., i + 1 :, i, None]], dim=-1)
        return self.wide

    def turn(self, turn: Tensor) -> None:
        self.now = self.wide @ turn


class _FutureOfRecurrence:
    """`G_i S_i`, (..., N, n): S_i maps the new state to the old one, `G_i` that one to the outputs (up to a turn)."""

    def __init__(self, operator: RecurrentOperator) -> None:
        operator = operator.double().read_before_update()
        assert operator.D is not None
        self.A = operator.transitions()
        if operator.is_diagonal:
            self.A = torch.diag_embed(self.A)
        self.B, self.C, self.D = operator.B, operator.C, operator.D
        G = self.B.new_zeros(*self.B.shape[:-2], self.B.shape[-1], self.B.shape[-1])
        self.G = [G]  # G_{i+1} for i = L-1, L-2, ..
        for i in range(operator.length - 1, 0, -1):
            G = torch.linalg.qr(torch.cat([G @ self.A[..., i, :, :], self.C[..., i, None, :]], dim=-2), mode="r").R
            self.G.append(G)
        self.now = G[..., :0]

    def output(self, i: int) -> Tensor:
        return (self.C[..., i, None, :] @ self.now)[..., 0, :]

    def widen(self, i: int) -> Tensor:
        self.wide = torch.cat([self.A[..., i, :, :] @ self.now, self.B[..., i, :, None]], dim=-1)
        return self.G.pop() @ self.wide

    def turn(self, turn: Tensor) -> None:
        self.now = self.wide @ turn


def _right_singular(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values (..., r) and right singular vectors (..., n, r) of (..., m, n)."""
    if blocks.shape[-2] > blocks.shape[-1]:
        blocks = torch.linalg.qr(blocks, mode="r").R
    _, sigma, V = torch.linalg.svd(blocks, full_matrices=False)
    return sigma, V.mT


def _pad(tensor: Tensor, *sizes: int) -> Tensor:
    """The last dimensions filled up with zeros."""
    missing = [size - have for size, have in zip(sizes, tensor.shape[-len(sizes) :], strict=True)]
    return torch.nn.functional.pad(tensor, [n for size in reversed(missing) for n in (0, size)])
