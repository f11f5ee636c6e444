"""Singular values of a matrix that is known only by what it does to vectors, with an estimate of their error."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from assay.operators._spectrum import singular_values

PROBES = 16  # random directions drawn at a time
PROBE_FACTOR = 2.0  # alpha sqrt(2 / pi), alpha = 2.5: PROBES probes miss the bound with probability alpha^-16 < 1e-6


def randomised_singular_values(
    push: Callable[[Tensor], Tensor],
    pull: Callable[[Tensor], Tensor],
    columns: int,
    *,
    rank: int,
    tolerance: float,
    generator: torch.Generator,
) -> tuple[Tensor, float]:
    """Singular values of H (m, n), up to `rank` of them, float64, and an estimate of the error.

    Args:
        push: rows v, (k, n) float64 on the CPU -> rows `H v`, (k, m) float64.
        pull: rows w, (k, m) -> rows `H^T w`, (k, n) float64.
        columns: n.
        rank, tolerance: the search ends when the error is at most `tolerance` times the largest singular value, or
            `rank` of them were found.

    With an orthonormal basis Q (m, k) and `R = (I - Q Q^T) H`, the values s of `Q^T H` satisfy
    `s <= sigma <= sqrt(s^2 + |R|^2) <= s + |R|`, where sigma beyond the k-th stand against s = 0. The error bounds |R|
    by Gaussian omega that had no part in Q: it is the smaller one of 2 max `|R omega|` and the cube root of 2 max
    `|R R^T R omega|`, 16 omega each, and below |R| with probability 1e-6. The cube brings it near |R| also where R has
    many directions of the same size, and makes those vectors good ones to widen Q by.
    Complexity: about 2 k + 32 products and as many transposed ones for k values, O((m + n) k^2) besides.
    Source: Halko, Martinsson & Tropp 2011, lemma 4.1 for `R R^T R` and, in blocks with one step of subspace iteration,
    algorithms 4.2 and 4.4.
    """
    basis = rows = None
    largest = 0.0
    while True:
        seen = push(torch.randn(PROBES, columns, generator=generator, dtype=torch.float64))
        rank = min(rank, columns, seen.shape[-1])
        once = _off(seen, basis)
        thrice = _off(push(pull(once)), basis)
        error = min(PROBE_FACTOR * _longest(once), (PROBE_FACTOR * _longest(thrice)) ** (1 / 3))
        known = 0 if basis is None else len(basis)
        if error <= tolerance * largest or known >= rank:
            return seen.new_zeros(1) if rows is None else singular_values(rows), error
        new = thrice[: rank - known]
        for _ in range(2):  # after one pass, rounding leaves directions that are not quite orthogonal
            new = torch.linalg.qr(_off(new, basis).mT).Q.mT
        image = pull(new)
        largest = max(largest, float(singular_values(image)[0]))
        basis = new if basis is None else torch.cat([basis, new])
        rows = image if rows is None else torch.cat([rows, image])


def _longest(rows: Tensor) -> float:
    return float(rows.norm(dim=-1).max())


def _off(rows: Tensor, basis: Tensor | None) -> Tensor:
    """What of the rows is orthogonal to those of the basis."""
    return rows if basis is None else rows - (rows @ basis.mT) @ basis
