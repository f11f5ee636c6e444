"""The matrix with the same singular vectors and singular values near 1, without a singular value decomposition."""

from __future__ import annotations

from torch import Tensor

from assay._errors import InputError

MUON = (3.4445, -4.7750, 2.0315)
"""Jordan et al. 2024: steep at 0, so that five steps lift small singular values; they never settle at 1."""
CLASSICAL = (1.5, -0.5, 0.0)
"""Converges to 1 exactly, but raises a small singular value by only 1.5 at each step."""


def newton_schulz(
    matrix: Tensor, *, steps: int = 5, coefficients: tuple[float, float, float] = MUON, eps: float = 1e-7
) -> Tensor:
    """U p(..p(S / ||S||)) V^T for `matrix` = U S V^T, with `p(s) = a s + b s^3 + c s^5` taken `steps` times.

    `matrix`: (..., m, n), any floating dtype, in which it is computed; the leading dimensions are done at once, so that
    a stack of experts needs no loop. With the defaults, singular values between 0.003 and 1 of the largest possible end
    between 0.68 and 1.21. The polar factor U V^T is their limit only with coefficients that converge. A matrix of
    zeros gives zeros.

    Source: Jordan et al. 2024, *Muon*, as the paper on Muon with latent attention and mixtures of experts uses it
    (Mehta et al. 2025, arXiv 2509.24406). `torch.optim.Muon` has the same iteration for single matrices in bfloat16.
    Raises `InputError` for fewer than two dimensions and for integers. About 4 steps m n min(m, n) operations.

    >>> import torch
    >>> newton_schulz(torch.diag(torch.tensor([1.0, 2.0])), steps=20, coefficients=CLASSICAL).diagonal()
    tensor([1., 1.])
    """
    if matrix.ndim < 2 or not matrix.is_floating_point():
        raise InputError(
            f"matrix has shape {tuple(matrix.shape)} and dtype {matrix.dtype}; expected (..., m, n), floating point"
        )
    a, b, c = coefficients
    tall = matrix.shape[-2] > matrix.shape[-1]
    X = matrix.mT if tall else matrix
    X = X / (X.norm(dim=(-2, -1), keepdim=True) + eps)
    for _ in range(steps):
        gram = X @ X.mT
        X = a * X + (b * gram + c * gram @ gram) @ X
    return X.mT if tall else X
