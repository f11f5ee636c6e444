"""Hankel singular values of a time-varying recurrence from square-root Gramians.

For `s_{i+1} = A_i s_i + B_i u_i, y_i = C_i s_i` the block `H_i = T[i:, :i]` is the product of an observability and a
controllability factor, so its singular values are those of the small matrix `G_i F_i`, where `F_i F_i^T` and
`G_i^T G_i` are the two Gramians (time-varying Hankel theory: Dewilde & van der Veen 1998). The triangular factors are
carried along by QR steps and never squared, so errors stay at rounding times `|G_i| |F_i|`.

Shapes: A (..., L, N) or (..., L, N, N); B, C (..., L, N); factors (..., N, N).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from assay.operators._spectrum import in_parallel, singular_values

_BLOCK_BYTES = 2**26  # working memory for one group of operators


def hankel_singular_values(A: Tensor, B: Tensor, C: Tensor, positions: Sequence[int]) -> Tensor:
    """Singular values of `T[i:, :i]` at each position: (..., P, N), descending. All float64.

    Complexity O(L N^2 + P N^3) for diagonal A. Memory beyond the result does not grow with L squared.
    """
    batch, (length, size) = B.shape[:-2], B.shape[-2:]
    if B.requires_grad or A.requires_grad or C.requires_grad:
        return _differentiable(A, B, C, positions)
    count = math.prod(batch)
    A, B, C = (tensor.reshape(count, *tensor.shape[len(batch) :]) for tensor in (A, B, C))
    group = max(
        1, min(_BLOCK_BYTES // (8 * size * max(length, size * len(positions))), -(-count // torch.get_num_threads()))
    )
    parts = in_parallel(
        lambda k: _profile(A[k : k + group], B[k : k + group], C[k : k + group], positions),
        range(0, count, group),
        device=B.device,
    )
    return torch.cat(parts).reshape(*batch, len(positions), size)


def _profile(A: Tensor, B: Tensor, C: Tensor, positions: Sequence[int]) -> Tensor:
    order = sorted(set(positions))
    if not order:
        return B.new_zeros(*B.shape[:-2], 0, B.shape[-1])
    length = B.shape[-2]
    if len(order) == length - 1 and length >= 64:
        spectra = _everywhere(A, B, C)
    else:
        spectra = singular_values(_observability(A, C, order) @ _controllability(A, B, order).mT)
    index = {position: k for k, position in enumerate(order)}
    return spectra[..., [index[i] for i in positions], :]


def _controllability(A: Tensor, B: Tensor, positions: Sequence[int]) -> Tensor:
    """Upper-triangular `F_i^T` with `F_i F_i^T` the controllability Gramian: (..., P, N, N)."""
    factor = B.new_zeros(*B.shape[:-2], B.shape[-1], B.shape[-1])
    factors, start = [], 0
    for stop in positions:
        factor = _append(
            factor,
            *_inputs(A[..., start:stop, :] if _diagonal(A, B) else A[..., start:stop, :, :], B[..., start:stop, :]),
        )
        factors.append(factor)
        start = stop
    return torch.stack(factors, dim=-3)


def _observability(A: Tensor, C: Tensor, positions: Sequence[int]) -> Tensor:
    """Upper-triangular `G_i` with `G_i^T G_i` the observability Gramian: (..., P, N, N)."""
    A, C = _reversed(A, C)
    length = C.shape[-2]
    return _controllability(A, C, [length - i for i in reversed(positions)]).flip(-3)


def _reversed(A: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """The recurrence run backwards, in which C enters as an input.

    `G_i` gathers `C_t A_{t-1} .. A_i` for t >= i. Running from the end, step t takes the rows so far times `A_t`, then
    appends `C_t`: the same recursion as `F`, with `A_t^T` for the transition.
    """
    if A.ndim == C.ndim:
        return A.flip(-2), C.flip(-2)
    return A.mT.flip(-3), C.flip(-2)


def _inputs(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """A segment of steps as one: its transition, and the rows `(A_last .. A_{j+1} B_j)^T`."""
    if A.ndim == B.ndim:
        tail = torch.ones_like(A)  # products of the transitions after j: no ratios, underflow ends in 0
        if A.shape[-2] > 1:
            tail[..., :-1, :] = A[..., 1:, :].flip(-2).cumprod(-2).flip(-2)
        return tail[..., 0, :] * A[..., 0, :], tail * B
    transition = A[..., -1, :, :]
    rows = [B[..., -1, :]]
    for t in range(A.shape[-3] - 2, -1, -1):
        rows.append((transition @ B[..., t, :, None]).squeeze(-1))
        transition = transition @ A[..., t, :, :]
    return transition, torch.stack(rows[::-1], dim=-2)


def _append(factor: Tensor, transition: Tensor, rows: Tensor) -> Tensor:
    """R of QR([F^T A^T; rows])."""
    moved = factor * transition[..., None, :] if transition.ndim < factor.ndim else factor @ transition.mT
    return torch.linalg.qr(torch.cat([moved, rows], dim=-2), mode="r").R


def _diagonal(A: Tensor, B: Tensor) -> bool:
    return A.ndim == B.ndim


def _everywhere(A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """All positions 1..L-1. About sqrt(L) chunks step side by side, so only about 3 sqrt(L) steps are sequential."""
    length, size = B.shape[-2:]
    step = math.isqrt(length)
    chunks = -(-length // step)
    padding = chunks * step - length  # steps that keep the state, take no input and give no output
    A = torch.cat([A, _identity_steps(A, B, padding)], dim=1)
    B, C = (torch.nn.functional.pad(tensor, (0, 0, 0, padding)) for tensor in (B, C))

    F = _chunked_factors(A, B, step)  # (K, step, count, N, N): at the start of every step
    G = _chunked_factors(*_reversed(A, C), step)
    count = len(B)
    F = F.reshape(-1, count, size, size)[1:length]  # F_1 .. F_{L-1}
    G = G.reshape(-1, count, size, size)[padding + 1 :].flip(0)  # G_L is empty: G_{L-1} comes after one step
    spectra = [singular_values(g @ f.mT) for g, f in zip(G.split(4096), F.split(4096), strict=True)]
    return torch.cat(spectra).transpose(0, 1)


def _identity_steps(A: Tensor, B: Tensor, steps: int) -> Tensor:
    if _diagonal(A, B):
        return A.new_ones(len(A), steps, A.shape[-1])
    return torch.eye(A.shape[-1], dtype=A.dtype, device=A.device).expand(len(A), steps, -1, -1)


def _chunked_factors(A: Tensor, B: Tensor, step: int) -> Tensor:
    """`F_t^T` before each step t = 0, 1, ..: (K, step, count, N, N)."""
    count, length, size = B.shape
    starts = list(range(step, length, step))
    zero = B.new_zeros(count, 1, size, size)
    first = torch.cat([zero, _controllability(A, B, starts)], dim=1) if starts else zero  # (count, K, N, N)
    A = A.reshape(count, -1, step, *A.shape[2:])
    B = B.reshape(count, -1, step, size)
    factors = [first]
    for t in range(step - 1):
        transition = A[:, :, t]
        factors.append(_append(factors[-1], transition, B[:, :, t, None, :]))
    return torch.stack(factors, dim=2).permute(1, 2, 0, 3, 4)


def _differentiable(A: Tensor, B: Tensor, C: Tensor, positions: Sequence[int]) -> Tensor:
    """Through the dense blocks, where autograd can follow: for small operators, as in a regulariser's test."""
    length, size = B.shape[-2:]
    rows = []
    for i in range(length):
        row, carried = [], C[..., i, :]
        for j in range(i - 1, -1, -1):
            row.append((carried * B[..., j, :]).sum(-1))
            carried = (
                carried * A[..., j, :] if _diagonal(A, B) else (carried[..., None, :] @ A[..., j, :, :]).squeeze(-2)
            )
        zeros = [torch.zeros_like(B[..., 0, 0])] * (length - i)
        rows.append(torch.stack(row[::-1] + zeros, dim=-1))
    T = torch.stack(rows, dim=-2)
    spectra = [singular_values(T[..., i:, :i])[..., :size] for i in positions]
    return torch.stack([torch.nn.functional.pad(s, (0, size - s.shape[-1])) for s in spectra], dim=-2)
