"""All Hankel blocks of a dense operator at once: what every `H_i^T H_i + z` has in common is eliminated only once.

For each position i put the rows from i on and the columns before i into one symmetric matrix

    K_i = [[-I, H_i], [H_i^T, z I]],    H_i = T[i:, :i].

Eliminating its rows leaves `H_i^T H_i + z I`, so the determinant and the inertia of K_i are, up to signs, those of the
shifted Gram matrix. The blocks of neighbouring positions share almost all rows and columns. Tokens s..e-1 are a row of
K_i in some positions of s..e and a column in the others; all rows from e on and all columns before s belong to every
one of them and are eliminated in common. What is left has a row and a column for each of the e - s tokens. Its first
half of positions shares the rows of the second half of tokens, its second half the columns of the first, and so on
down to single tokens. Every level costs half of the one before, so all L positions together take O(L^3) a shift, in
matrix products. (Schur complements, and inertia by Sylvester's law; the nesting is that of nested dissection, George
1973. Used for Hankel blocks here; we know of no other place.)

Shapes: N operators times shifts, M nodes (intervals of tokens), n tokens in each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_GROUPS = 4  # intervals on each side of the middle for which the common columns are eliminated by eigenvectors
_ENTRIES = 2**22  # of the largest temporary of one chunk of shifts


class Eliminated(NamedTuple):
    """What is left of a pivot block A: a number, and the products with its inverse."""

    value: Tensor
    xx: Tensor
    xz: Tensor
    zz: Tensor


_Binary = Callable[..., Tensor]
Eliminate = Callable[[Tensor, Tensor, Tensor, Tensor], Eliminated]
"""(A, X, Z, scale) -> value of A, `X^T A^-1 X`, `X^T A^-1 Z`, `Z^T A^-1 Z`; `scale` is the largest entry before A."""


@dataclass
class _Nodes:
    """`K = [[-P, C], [C^T, Q]]` of M intervals with what they share eliminated: P, Q, C (M, N, n, n).

    `first`: (M,) the first token of each. `value`: (M, N), of what was eliminated. `scale_P`, `scale_Q`: (M, N), the
    largest entries that ever were in P and Q, which say how large rounding errors in them are.
    """

    P: Tensor
    Q: Tensor
    C: Tensor
    first: Tensor
    value: Tensor
    scale_P: Tensor
    scale_Q: Tensor


def shifted_blocks(
    T: Tensor,
    shifts: Tensor,
    eliminate: Eliminate,
    core_value: Callable[[Tensor], Tensor],
    *,
    sign: int,
) -> Tensor:
    """Values of K_i for the left half of the positions: (B, K, ceil(L / 2) + 1), i = 0..ceil(L / 2).

    `T`: (B, L, L) float64. `shifts`: (K,). `eliminate` says what is computed; `core_value` does it for a diagonal block,
    (..., s) -> (...). The value of K_i is the sum over its rows plus `sign` times the sum over its columns.
    """
    batch, length, _ = T.shape
    half = (length + 1) // 2
    size = max(1, -(-half // _GROUPS))
    gram = T[:, half:, :half].mT @ T[:, half:, :half]
    cores = [_Core.of(T, gram, min(k * size, half - size), size) for k in range(-(-half // size))]
    found = T.new_zeros(batch, len(shifts), half + 1)
    chunk = max(1, _ENTRIES // (batch * 2 * size * half))
    for k in range(0, len(shifts), chunk):
        nodes = [core.nodes(shifts[k : k + chunk], core_value, sign) for core in cores]
        leaves = _down_to_one(_joined(nodes), eliminate, sign)
        for position, value in _positions(leaves, eliminate, sign):
            found[:, k : k + chunk, position] = value.unflatten(1, (batch, -1)).permute(1, 2, 0)
    return found


@dataclass
class _Core:
    """An interval of tokens whose rows behind and columns before (the core) are eliminated, for any shift.

    `eigenvalues`: (B, s) of the columns before. `rows`, `columns`: (B, s, n), the coupling to them in their eigenbasis.
    """

    first: int
    eigenvalues: Tensor
    rows: Tensor
    columns: Tensor
    own: Tensor
    coupling: Tensor

    @staticmethod
    def of(T: Tensor, gram: Tensor, first: int, size: int) -> _Core:
        """`gram`: that of the rows behind the half, (B, half, half)."""
        stop, half = first + size, gram.shape[-1]
        between = T[:, stop:half, :stop]
        gram = gram[:, :stop, :stop] + between.mT @ between
        eigenvalues, basis = torch.linalg.eigh(gram[:, :first, :first])
        coupling = T[:, first:stop, :stop]
        return _Core(
            first,
            eigenvalues,
            basis.mT @ coupling[..., :first].mT,
            basis.mT @ gram[:, :first, first:],
            gram[:, first:, first:],
            coupling[..., first:],
        )

    def nodes(self, shifts: Tensor, core_value: Callable[[Tensor], Tensor], sign: int) -> _Nodes:
        one = torch.eye(self.own.shape[-1], dtype=self.own.dtype, device=self.own.device)
        shifted = self.eigenvalues[:, None] + shifts[:, None]  # (B, K, s)

        def product(one: Tensor, other: Tensor) -> Tensor:
            """`one^T diag(1 / shifted) other` for every shift, as one product: (B, s, n), (B, s, m) -> (B, K, n, m)."""
            over = one.mT[:, None] / shifted[..., None, :]
            return (over.flatten(1, 2) @ other).unflatten(1, over.shape[1:3])

        PC = product(self.rows, torch.cat([self.rows, self.columns], -1))
        P = one + PC[..., : len(one)]
        C = self.coupling[:, None] - PC[..., len(one) :]
        Q = self.own[:, None] + shifts[:, None, None] * one - product(self.columns, self.columns)
        P, Q, C, value = (t.flatten(0, 1)[None] for t in (P, Q, C, sign * core_value(shifted)))
        largest = torch.cat([self.eigenvalues, self.own.diagonal(0, -2, -1)], -1).amax(-1)
        scale_Q = largest[:, None].expand(-1, len(shifts)).flatten()[None]
        return _Nodes(P, Q, C, torch.tensor([self.first]), value, _largest(P), scale_Q)


def _joined(parts: Sequence[_Nodes]) -> _Nodes:
    return _Nodes(*(torch.cat([getattr(part, name) for part in parts]) for name in _Nodes.__dataclass_fields__))


def _down_to_one(nodes: _Nodes, eliminate: Eliminate, sign: int) -> _Nodes:
    """Intervals of one token each. An odd interval is halved with its middle token on both sides."""
    while (size := nodes.P.shape[-1]) > 1:
        keep, gone = (size + 1) // 2, size // 2
        P, Q, C = nodes.P, nodes.Q, nodes.C
        # positions in the first half of the tokens have all rows of the second half
        left = eliminate(P[..., keep:, keep:], P[..., keep:, :keep], C[..., keep:, :keep], nodes.scale_P)
        # those in the second half have all columns of the first
        right = eliminate(Q[..., :gone, :gone], Q[..., :gone, gone:], C[..., gone:, :gone].mT, nodes.scale_Q)
        nodes = _Nodes(
            _stacked(torch.sub, (P[..., :keep, :keep], left.xx), torch.add, (P[..., gone:, gone:], right.zz)),
            _stacked(torch.add, (Q[..., :keep, :keep], left.zz), torch.sub, (Q[..., gone:, gone:], right.xx)),
            _stacked(torch.sub, (C[..., :keep, :keep], left.xz), torch.sub, (C[..., gone:, gone:], right.xz.mT)),
            torch.cat([nodes.first, nodes.first + gone]),
            torch.cat([nodes.value + left.value, nodes.value + sign * right.value]),
            torch.maximum(nodes.scale_P, torch.stack([_largest(left.xx), _largest(right.zz)])).flatten(0, 1),
            torch.maximum(nodes.scale_Q, torch.stack([_largest(left.zz), _largest(right.xx)])).flatten(0, 1),
        )
    return nodes


def _stacked(change: _Binary, first: tuple[Tensor, Tensor], other: _Binary, second: tuple[Tensor, Tensor]) -> Tensor:
    """Both results in one new tensor, (2 M, ...), without copying them there."""
    count = len(first[0])
    result = first[0].new_empty(2 * count, *first[0].shape[1:])
    change(*first, out=result[:count])
    other(*second, out=result[count:])
    return result


def _positions(leaves: _Nodes, eliminate: Eliminate, sign: int) -> list[tuple[Tensor, Tensor]]:
    """(positions, values (M, N)): before a token's position it is a row, behind it a column."""
    nothing = leaves.P[..., :0]
    row = eliminate(leaves.P, nothing, nothing, leaves.scale_P).value
    column = eliminate(leaves.Q, nothing, nothing, leaves.scale_Q).value
    return [(leaves.first, leaves.value + row), (leaves.first + 1, leaves.value + sign * column)]


def _largest(products: Tensor) -> Tensor:
    """The largest diagonal entry, in magnitude: (..., n, n) -> (...)."""
    return products.diagonal(0, -2, -1).abs().amax(-1)
