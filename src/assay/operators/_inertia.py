"""Singular values above a tolerance, counted at every position without computing one of them."""

from __future__ import annotations

import torch
from torch import Tensor

from assay.operators._halving import Eliminated, Elimination, HankelBlocks

# A pivot's sign is believed where the pivot exceeds this share of the largest number that went into it: rounding leaves
# errors of a few eps (2e-16) times a slowly growing function of the length.
_CERTAIN = 1e-13


def count_above(blocks: HankelBlocks, tolerance: float) -> Tensor:
    """`#{sigma(T[i:, :i]) > tolerance}`: (B, L + 1), i = 0..L; NaN where a sign is too close to call.

    By Sylvester's law of inertia, `H_i^T H_i - tolerance^2` has as many positive eigenvalues as its elimination has
    positive pivots. It becomes singular in float64 where the tolerance is below about 3e-7 of the largest singular
    value; smaller singular values of a block then make its count NaN. O(L^3) for all positions.
    """
    negative = blocks.eliminate(-(tolerance / blocks.scale).square()[:, None], _SIGNS)[:, 0]
    # -P enters K with the opposite sign, so that its negative pivots count, and of the columns the others
    return negative + blocks.columns


def _block(A: Tensor, X: Tensor, Z: Tensor, scale: Tensor) -> Eliminated:
    values, basis = torch.linalg.eigh(A)
    least = _CERTAIN * scale[..., None]
    count = _negative(values, least)
    values = torch.where(values.abs() > least, values, least)[..., None]  # finite, where the count is NaN already
    X, Z = basis.mT @ X, basis.mT @ Z
    X_over = X / values
    return Eliminated(count, X_over.mT @ X, X_over.mT @ Z, Z.mT @ (Z / values))


def _diagonal(values: Tensor) -> Tensor:
    if not values.shape[-1]:
        return values.sum(-1)
    return _negative(values, _CERTAIN * values.abs().amax(-1, keepdim=True))


def _negative(values: Tensor, least: Tensor) -> Tensor:
    doubtful = (values.abs() <= least).any(-1)
    return torch.where(doubtful, torch.nan, (values < 0).sum(-1).to(values.dtype))


_SIGNS = Elimination(_block, _diagonal, sign=-1)
