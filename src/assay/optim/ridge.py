"""Ridge regression in float64, with the penalty chosen by the leave-one-out error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from assay._errors import InputError

RIDGES = tuple(10.0**power for power in range(-8, 2))
"""Penalties to choose from, in units of the mean squared norm of a row of features."""


class RidgeFit(NamedTuple):
    """The weights (p,), and the ridge that was chosen. float64."""

    weights: Tensor
    ridge: float


def ridge_regression(features: Tensor, targets: Tensor, ridge: Sequence[float] = RIDGES) -> RidgeFit:
    """`argmin ||F w - y||^2 + penalty ||w||^2`, `penalty = ridge tr(F F^T) / n`, no intercept.

    features: (n, p); targets: (n,). Of several values of `ridge`, that one with the least squared leave-one-out error,
    which has a closed form (Allen's PRESS): the residual over one less the leverage. All of them share the one
    eigendecomposition of the smaller Gram matrix, so this costs O(n p min(n, p)), and memory for one copy of F.
    Raises `InputError` for shapes that disagree, numbers that are not finite, and a ridge that is not above 0.
    """
    if features.ndim != 2 or targets.shape != features.shape[:1] or not len(features):
        raise InputError(
            f"features has shape {tuple(features.shape)} and targets {tuple(targets.shape)}; expected (n, p) and (n,)"
        )
    if not ridge or not all(value > 0 for value in ridge):
        raise InputError(f"ridge is {ridge}; expected numbers above 0")
    F, y = features.double(), targets.double()
    if not (F.isfinite().all() and y.isfinite().all()):
        raise InputError("features or targets are not finite; expected finite numbers")
    n, p = F.shape
    penalties = torch.tensor(ridge, dtype=F.dtype, device=F.device) * (F.square().sum() / n).clamp(min=1e-300)
    values, vectors = torch.linalg.eigh(F @ F.mT if n <= p else F.mT @ F)
    inverse = 1 / (values.clamp(min=0)[:, None] + penalties)  # (min(n, p), number of penalties)
    if n <= p:
        dual = vectors @ (inverse * (vectors.mT @ y)[:, None])
        left_out = dual / (vectors.square() @ inverse)
        weights = F.mT @ dual
    else:
        weights = vectors @ (inverse * (vectors.mT @ (F.mT @ y))[:, None])
        leverages = (F @ vectors).square() @ inverse
        left_out = (y[:, None] - F @ weights) / (1 - leverages)
    best = int(left_out.square().sum(0).argmin())
    return RidgeFit(weights[:, best].contiguous(), float(ridge[best]))
