"""All Hankel blocks of a dense operator at once: what they have in common is eliminated only once.

For each position i put the rows from i on and the columns before i into one symmetric matrix

    K_i = [[-I, H_i], [H_i^T, z I]],    H_i = T[i:, :i].

Eliminating its rows leaves `H_i^T H_i + z I`, so the determinant and the inertia of K_i are, up to signs, those of the
shifted Gram matrix. The blocks of neighbouring positions share almost all rows and columns. Tokens s..e-1 are a row of
K_i at some of the positions s..e and a column at the others, but all rows from e on and all columns before s belong to
each of them and are eliminated in common. What is left has a row and a column for each of the e - s tokens. The first
half of its positions shares the rows of the second half of its tokens, the second half the columns of the first, and so
on down to single tokens. Every level costs less than half of the one before, so that all L positions together take
O(L^3) a shift, in matrix products. (Schur complements with nested intervals; compare nested dissection, George 1973.)

Shapes: B operators, K shifts, M nodes (intervals of tokens), N = B K, n tokens in each interval.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_GROUPS = 6  # intervals on each side of the middle that begin with the eigenvectors of their common columns
_ENTRIES = 2**22  # of the largest temporary for one chunk of shifts


class Eliminated(NamedTuple):
    """What is left of a pivot block A: a number, and the products with its inverse."""

    value: Tensor
    xx: Tensor
    xz: Tensor
    zz: Tensor


class Elimination(NamedTuple):
    """What is to be computed of K_i: the sum of the values of its rows, plus `sign` times that of its columns.

    `block`: (A, X, Z, scale) -> value of A, `X^T A^-1 X`, `X^T A^-1 Z`, `Z^T A^-1 Z`; A (..., p, p), X (..., p, n),
    Z (..., p, m), scale (...,), the largest entry that any step before A has seen.
    `diagonal`: the values of diagonal blocks, (..., p) -> (...).
    """

    block: Callable[[Tensor, Tensor, Tensor, Tensor], Eliminated]
    diagonal: Callable[[Tensor], Tensor]
    sign: int


class HankelBlocks:
    """The Hankel blocks of `T` (B, L, L), float64, ready to be eliminated at any shifts. O(L^3) time, O(L^2) memory.

    `scale`: (B,), at least the largest singular value of any block; everything else is of T / scale.
    `squared_norms`: (B, L + 1), `|H_i|_F^2` for i = 0..L. `columns`: (L + 1,), min(i, L - i), the
    columns of K_i: behind the middle, where H_i has fewer rows than columns, it is transposed.
    """

    def __init__(self, T: Tensor) -> None:
        T = T.tril(-1)
        norms = _squared_norms(T)
        largest = torch.minimum(norms.amax(-1), _largest_eigenvalue(T.abs()))
        largest = torch.where(largest > 0, largest, 1)
        T = T / largest.sqrt()[:, None, None]
        self.scale = largest.sqrt()
        self.squared_norms = norms / largest[:, None]
        at = torch.arange(T.shape[-1] + 1, dtype=T.dtype, device=T.device)
        self.columns = torch.minimum(at, at.flip(0))
        # J T^T J has the Hankel blocks of T (transposed and reversed) in the opposite order
        self._sides = _cores(T), _cores(T.flip(-1, -2).mT)

    def eliminate(self, shifts: Tensor, elimination: Elimination) -> Tensor:
        """Values of K_i at each of the shifts (B, K): (B, K, L + 1), i = 0..L."""
        first, last = (_eliminate(cores, shifts, elimination) for cores in self._sides)
        length = len(self.columns) - 1
        return torch.cat([first[..., : length // 2 + 1], last[..., : (length + 1) // 2].flip(-1)], -1)


def _squared_norms(T: Tensor) -> Tensor:
    """A sum of squares for each position, and no differences: exact to rounding however small."""
    length = T.shape[-1]
    norms = T.new_zeros(len(T), length + 1)
    norms[:, 1:length] = T.square().cumsum(-1).tril(-1).sum(-2)[:, : length - 1]
    return norms


def _largest_eigenvalue(A: Tensor) -> Tensor:
    """An upper bound of that of `A^T A`, A >= 0, and so of those of its submatrices: (B, L, L) -> (B,).

    `max (A^T A x)_j / x_j` is one for every x > 0 (Collatz 1942, Wielandt 1950), and a close one after power iteration.
    """
    x = torch.ones_like(A[:, 0, :, None])
    for _ in range(10):
        following = A.mT @ (A @ x)
        bound = torch.where(x > 0, following / x, 0).amax((-2, -1))
        x = following / following.amax((-2, -1), keepdim=True).clamp(min=torch.finfo(A.dtype).tiny)
    return bound


@dataclass
class _Core:
    """An interval of n tokens, the rows behind it eliminated, the s columns before it in their eigenbasis.

    `eigenvalues`: (B, s). `rows`, `columns`: (B, s, n), the coupling of the tokens, as rows and as columns, to them.
    `own`: (B, n, n), the Gram matrix of the tokens as columns. `coupling`: (B, n, n), T between the tokens.
    """

    first: int
    eigenvalues: Tensor
    rows: Tensor
    columns: Tensor
    own: Tensor
    coupling: Tensor


def _cores(T: Tensor) -> list[_Core]:
    """Intervals that cover the tokens of the first half, all of one length."""
    half = (T.shape[-1] + 1) // 2
    size = -(-half // _GROUPS)
    cores: list[_Core] = []
    gram, behind = T.new_zeros(1, half, half), T.shape[-1]
    for start in reversed(range(0, half, size)):
        first = min(start, half - size)
        stop = first + size
        rows = T[:, stop:behind, :stop]  # that come in as the intervals move forward
        gram, behind = gram[:, :stop, :stop] + rows.mT @ rows, stop
        eigenvalues, basis = torch.linalg.eigh(gram[:, :first, :first])
        rows, columns = basis.mT @ T[:, first:stop, :first].mT, basis.mT @ gram[:, :first, first:]
        cores.append(_Core(first, eigenvalues, rows, columns, gram[:, first:, first:], T[:, first:stop, first:stop]))
    return cores


@dataclass
class _Nodes:
    """`[[-P, C], [C^T, Q]]` of M intervals, all that they share eliminated. P, Q, C: (M, N, n, n).

    `first`: (M,), the first token of each. `value`: (M, N), of what was eliminated. `p_scale`, `q_scale`: (M, N), the
    largest entries that were ever added to P and Q, which say how large rounding errors in them are.
    """

    P: Tensor
    Q: Tensor
    C: Tensor
    first: Tensor
    value: Tensor
    p_scale: Tensor
    q_scale: Tensor


def _eliminate(cores: list[_Core], shifts: Tensor, elimination: Elimination) -> Tensor:
    """Values at the positions 0..ceil(L / 2): (B, K, ceil(L / 2) + 1)."""
    batch, count = shifts.shape
    size = cores[0].own.shape[-1]
    half = cores[0].first + size
    found = shifts.new_zeros(batch, count, half + 1)
    chunk = max(1, _ENTRIES // (batch * 2 * size * half))
    for k in range(0, count, chunk):
        nodes = _nodes(cores, shifts[:, k : k + chunk], elimination)
        while nodes.P.shape[-1] > 1:
            nodes = _halved(nodes, elimination)
        nothing = nodes.P[..., :0]
        row = elimination.block(nodes.P, nothing, nothing, nodes.p_scale).value
        column = elimination.block(nodes.Q, nothing, nothing, nodes.q_scale).value
        # before a token's position it is a column, from there on a row
        for at, last in ((nodes.first, row), (nodes.first + 1, elimination.sign * column)):
            found[:, k : k + chunk, at] = (nodes.value + last).unflatten(1, (batch, -1)).permute(1, 2, 0)
    return found


def _nodes(cores: list[_Core], shifts: Tensor, elimination: Elimination) -> _Nodes:
    (batch, count), size = shifts.shape, cores[0].own.shape[-1]
    P, Q, C = (shifts.new_empty(len(cores), batch * count, size, size) for _ in range(3))
    values, scales = [], []
    for m, core in enumerate(cores):
        shifted = core.eigenvalues[:, None] + shifts[..., None]  # (B, K, s)

        def product(one: Tensor, other: Tensor, shifted: Tensor = shifted) -> Tensor:
            """`one^T diag(1 / shifted) other` for all shifts in one product: (B, s, n), (B, s, m) -> (B, K, n, m)."""
            over = one.mT.contiguous()[:, None] / shifted[..., None, :]
            return (over.flatten(1, 2) @ other).unflatten(1, over.shape[1:3])

        by_rows = product(core.rows, torch.cat([core.rows, core.columns], -1))
        p, q, c = (matrix[m].unflatten(0, (batch, count)) for matrix in (P, Q, C))
        p.copy_(by_rows[..., :size]).diagonal(0, -2, -1).add_(1)
        torch.sub(core.coupling[:, None], by_rows[..., size:], out=c)
        torch.sub(core.own[:, None], product(core.columns, core.columns), out=q)
        q.diagonal(0, -2, -1).add_(shifts[..., None])
        values.append(elimination.sign * elimination.diagonal(shifted))
        largest = torch.cat([core.eigenvalues, core.own.diagonal(0, -2, -1)], -1).amax(-1)
        scales.append(largest[:, None].expand(batch, count))
    first = torch.tensor([core.first for core in cores])
    value, q_scale = (torch.stack(parts).flatten(1) for parts in (values, scales))
    return _Nodes(P, Q, C, first, value, _largest(P), q_scale)


def _halved(nodes: _Nodes, elimination: Elimination) -> _Nodes:
    """Both halves of every interval; an odd one has its middle token in both."""
    P, Q, C = nodes.P, nodes.Q, nodes.C
    keep, gone = (P.shape[-1] + 1) // 2, P.shape[-1] // 2
    # positions in the first half have all rows of the second half of the tokens, the others all columns of the first
    left = elimination.block(P[..., keep:, keep:], P[..., keep:, :keep], C[..., keep:, :keep], nodes.p_scale)
    right = elimination.block(Q[..., :gone, :gone], Q[..., :gone, gone:], C[..., gone:, :gone].mT, nodes.q_scale)
    first, second = slice(None, keep), slice(gone, None)
    return _Nodes(
        _both(P[..., first, first], left.xx, -1, P[..., second, second], right.zz, 1),
        _both(Q[..., first, first], left.zz, 1, Q[..., second, second], right.xx, -1),
        _both(C[..., first, first], left.xz, -1, C[..., second, second], right.xz.mT, -1),
        torch.cat([nodes.first, nodes.first + gone]),
        torch.cat([nodes.value + left.value, nodes.value + elimination.sign * right.value]),
        torch.cat([torch.maximum(nodes.p_scale, _largest(grown)) for grown in (left.xx, right.zz)]),
        torch.cat([torch.maximum(nodes.q_scale, _largest(grown)) for grown in (left.zz, right.xx)]),
    )


def _both(one: Tensor, change: Tensor, sign: int, other: Tensor, other_change: Tensor, other_sign: int) -> Tensor:
    """`one + sign * change` and the same of the others, one after the other in (2 M, ...), written there at once."""
    count = len(one)
    result = one.new_empty(2 * count, *one.shape[1:])
    torch.add(one, change, alpha=sign, out=result[:count])
    torch.add(other, other_change, alpha=other_sign, out=result[count:])
    return result


def _largest(products: Tensor) -> Tensor:
    """The largest diagonal entry in magnitude: (..., n, n) -> (...)."""
    return products.diagonal(0, -2, -1).abs().amax(-1)
