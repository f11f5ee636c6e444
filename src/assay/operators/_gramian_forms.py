"""The two forms in which a Gramian is carried along a recurrence: as a triangular factor, or as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from assay.operators._spectrum import singular_values
from assay.operators._steps import Transition

_EPS, _TINY = torch.finfo(torch.float64).eps, torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class Form:
    """`append(X, transition, rows)`: X (..., N, N) after a step that takes in rows (..., R, N).

    `spectrum(Y, X)`: Hankel singular values from observability and controllability, (..., N), and their absolute
    resolution, (...).
    """

    append: Callable[[Tensor, Transition, Tensor], Tensor]
    spectrum: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def _append_to_factor(factor: Tensor, transition: Transition, rows: Tensor) -> Tensor:
    """Upper-triangular R with `R^T R` the Gramian: that of QR([R A^T; rows])."""
    R: Tensor = torch.linalg.qr(torch.cat([transition.after(factor), rows], dim=-2), mode="r").R
    return R


def _spectrum_of_factors(G: Tensor, F: Tensor) -> tuple[Tensor, Tensor]:
    sigma = singular_values(G @ F.mT)
    return sigma, torch.zeros_like(sigma[..., 0])


def _append_to_gramian(gramian: Tensor, transition: Transition, rows: Tensor) -> Tensor:
    """`A P A^T + rows^T rows`."""
    added = rows.mT * rows if rows.shape[-2] == 1 else rows.mT @ rows
    if transition.u is None and transition.A.ndim < gramian.ndim:
        return torch.addcmul(added, gramian, transition.A[..., :, None] * transition.A[..., None, :])
    return transition.after(transition.after(gramian).mT) + added


def _spectrum_of_gramians(Q: Tensor, P: Tensor) -> tuple[Tensor, Tensor]:
    """`sigma^2 = lambda(P Q) = lambda(L^T Q L)` with `P = L L^T`.

    P may be singular, so a ridge as large as its rounding errors is added to it: that is the resolution. It is a share
    of P's diagonal, as coordinates of the state may differ in scale, which Cholesky's factor follows.
    """
    ridge = 16 * P.shape[-1] * _EPS
    diagonal = P.diagonal(dim1=-2, dim2=-1)
    resolution = (ridge * (Q.diagonal(dim1=-2, dim2=-1) * diagonal).sum(-1)).sqrt()
    raised = P.clone()
    raised.diagonal(dim1=-2, dim2=-1).mul_(1 + ridge).clamp_(min=_TINY)
    L, failed = torch.linalg.cholesky_ex(raised)
    if bool(failed.any()):  # rounding errors above the ridge
        L = torch.where((failed > 0)[..., None, None], _root(P), L)
    squares = torch.linalg.eigvalsh(L.mT @ Q @ L)
    return squares.clamp(min=0).sqrt().flip(-1), resolution


def _root(P: Tensor) -> Tensor:
    """L with `L L^T = P`, but for slightly negative eigenvalues of P with its diagonal made 1, which count as 0."""
    scale = P.diagonal(dim1=-2, dim2=-1).sqrt()
    inverse = torch.where(scale > 0, 1 / scale, 0)
    values, vectors = torch.linalg.eigh(P * inverse[..., :, None] * inverse[..., None, :])
    root: Tensor = scale[..., :, None] * vectors * values.clamp(min=0).sqrt()[..., None, :]
    return root


EXACT = Form(_append_to_factor, _spectrum_of_factors)
GRAM = Form(_append_to_gramian, _spectrum_of_gramians)
