"""The spectrum of a set of hidden states: how many directions they use, and how fast the rest falls off.

Everything is computed in float64 by a singular value decomposition of the states themselves. The covariance is never
formed: squaring loses half of the digits, and a few huge coordinates ("massive activations") leave none to spare.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from assay._errors import InputError

MAX_COMPONENTS = 2048  # the official code of Li et al. keeps no more
_EPSILON = 1e-7  # added to each normalised value, not renormalised, as in both papers' code
_TAIL = 1e-12  # an eigenvalue below this share of the largest is rounding, not signal
_MIN_RANKS = 4


@dataclass(frozen=True)
class PowerLawFit:
    """`ln eigenvalue = intercept - alpha ln rank`, fitted to the ranks `first`..`last` (from 1, both included)."""

    alpha: float
    intercept: float
    r2: float
    first: int
    last: int


def eigenspectrum(features: Tensor) -> Tensor:
    """Eigenvalues of the covariance of `features`, largest first.

    `eig(F_c^T F_c / M)` with `F_c` the features less their mean row, found as `s^2 / M` from the singular values `s` of
    F_c (Li et al. 2025, arXiv 2509.23024, and its official code).

    `features`: (..., M, D), M samples of width D, any floating dtype. Returns (..., min(2048, M, D)), float64, >= 0, on
    the same device (the CPU where the device has no float64). At most M - 1 are above zero, since centring takes one
    away. Rows that differ by no more than rounding give zeros. Not differentiable.

    Raises `InputError` where `features` has fewer than two dimensions, is empty, is not floating point, or holds NaN or
    infinity. O(M D min(M, D)) time, two float64 copies of `features`.

    >>> eigenspectrum(torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
    tensor([2.0000, 0.5000], dtype=torch.float64)
    """
    wide = _checked(features)
    centred = wide - wide.mean(-2, keepdim=True)
    values = _singular_values(centred)
    # what centring leaves of identical rows is rounding of their size
    rounding = torch.linalg.matrix_norm(wide) * torch.finfo(torch.float64).eps * max(wide.shape[-2:])
    values = torch.where(values[..., :1] > rounding[..., None], values, 0.0)
    return values.square()[..., :MAX_COMPONENTS] / wide.shape[-2]


def rankme(features: Tensor, spectrum: Literal["eigenvalues", "singular_values"] = "eigenvalues") -> Tensor:
    """Effective rank of `features`: the exponential of the entropy of their normalised spectrum.

    `exp(-sum_i q_i ln q_i)`, `q_i = v_i / sum_j v_j + 1e-7` (the 1e-7 is not renormalised, as in both papers). The two
    published conventions differ in v and must not be compared with each other:

    - "eigenvalues": covariance eigenvalues of the centred features (Li et al. 2025, arXiv 2509.23024, Fig. 1B and
      code);
    - "singular_values": singular values of the features as they are (Garrido et al. 2023, arXiv 2210.02885, eq. 1; from
      memory). Not centred, so a large mean row counts as a direction; not squared, so the tail counts for more.

    `features`: (..., M, D) as in `eigenspectrum`. Returns (...,), float64, between 1 and r = min(2048, M, D), but for
    the 1e-7: it takes 1e-7 from the lower end and adds a share of about 1e-7 r (ln r - 1) to the upper one (0.14 % at
    r = 2048). A spectrum of zeros (identical rows, with
    "eigenvalues") is 1. Errors and cost as in `eigenspectrum`.

    >>> rankme(torch.eye(4), "singular_values").round(decimals=4)
    tensor(4., dtype=torch.float64)
    """
    if spectrum == "eigenvalues":
        values = eigenspectrum(features)
    elif spectrum == "singular_values":
        values = _singular_values(_checked(features))[..., :MAX_COMPONENTS]
    else:
        raise InputError(f"spectrum is {spectrum!r}; expected 'eigenvalues' or 'singular_values'")
    return effective_rank(values)


def effective_rank(spectrum: Tensor) -> Tensor:
    """RankMe of a spectrum that is already there, (..., r) -> (...); 1 for a spectrum of zeros. See `rankme`."""
    total = spectrum.sum(-1, keepdim=True)
    q = spectrum / torch.where(total > 0, total, 1.0) + _EPSILON
    return torch.where(total[..., 0] > 0, torch.special.entr(q).sum(-1).exp(), 1.0)


def alpha_req(eigenvalues: Tensor | ArrayLike, first: int = 12, last: int = 100) -> PowerLawFit:
    """Exponent of the power law that the eigenvalues follow: `eigenvalue_i ~ i^-alpha`.

    Minimises `sum_i (1/i) (ln eigenvalue_i - intercept + alpha ln i)^2` over the ranks i = first..last, in closed
    form (Agrawal et al. 2022, alpha-ReQ; ranks and weights from the official code of Li et al. 2025, arXiv
    2509.23024). `r2` is the plain, unweighted r squared of ln eigenvalue over the same ranks; 1 where all of them are
    equal.

    Eigenvalues of at most 1e-12 of the largest are rounding and never fitted. Where fewer than `last` are left, the
    fit ends at the last one left and, so that it keeps 8 ranks after its first, starts earlier where it must; the
    result says which ranks were fitted, and exponents of different ranks should not be compared.

    `eigenvalues`: (n,), in any order, such as `eigenspectrum` returns. Computed in float64.

    Raises `InputError` where `eigenvalues` is not one-dimensional or holds NaN or infinity, fewer than 4 of them are
    positive, or `first` < 1 or `last` < first + 3. O(n log n).

    >>> fit = alpha_req([rank**-2.0 for rank in range(1, 201)])
    >>> round(fit.alpha, 9), round(fit.r2, 9), fit.first, fit.last
    (2.0, 1.0, 12, 100)
    """
    if first < 1 or last < first + _MIN_RANKS - 1:
        raise InputError(f"first is {first} and last is {last}; expected 1 <= first and last >= first + 3")
    values = _positive(eigenvalues)
    if len(values) < last:
        last = len(values)
        first = max(1, min(first, last - 8))
    rank = np.arange(first, last + 1, dtype=np.float64)
    x, y, weight = np.log(rank), np.log(values[first - 1 : last]), 1 / rank
    x_mean, y_mean = np.average(x, weights=weight), np.average(y, weights=weight)
    alpha = -np.sum(weight * (x - x_mean) * (y - y_mean)) / np.sum(weight * (x - x_mean) ** 2)
    intercept = y_mean + alpha * x_mean
    residual = np.sum((y - intercept + alpha * x) ** 2)
    spread = np.sum((y - y.mean()) ** 2)
    flat = spread <= 1e-24 * len(y)  # equal up to the rounding of the logarithm
    return PowerLawFit(float(alpha), float(intercept), 1.0 if flat else float(1 - residual / spread), first, last)


def _positive(eigenvalues: Tensor | ArrayLike) -> NDArray[np.float64]:
    plain = eigenvalues.detach().cpu().double().numpy() if isinstance(eigenvalues, Tensor) else eigenvalues
    values: NDArray[np.float64] = np.asarray(plain, dtype=np.float64)
    if values.ndim != 1:
        raise InputError(f"eigenvalues has shape {values.shape}; expected one dimension")
    if not np.isfinite(values).all():
        raise InputError("eigenvalues holds NaN or infinity; expected finite numbers")
    values = np.sort(values)[::-1]
    values = values[values > _TAIL * values.max(initial=0.0)]
    if len(values) < _MIN_RANKS:
        raise InputError(f"eigenvalues has {len(values)} above zero; expected at least {_MIN_RANKS} to fit a power law")
    return values


def _checked(features: Tensor) -> Tensor:
    """The features in float64, on a device that has it."""
    shape = tuple(features.shape)
    if len(shape) < 2 or 0 in shape:
        raise InputError(f"features has shape {shape}; expected (..., M, D) with at least one sample")
    if not features.is_floating_point():
        raise InputError(f"features has dtype {features.dtype}; expected floating point")
    features = features.detach()
    if features.device.type == "mps":
        features = features.cpu()
    if not bool(torch.isfinite(features).all()):
        raise InputError("features holds NaN or infinity; expected finite hidden states (float16 may have overflowed)")
    return features.double()


def _singular_values(matrix: Tensor) -> Tensor:
    values: Tensor
    try:
        values = torch.linalg.svdvals(matrix)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        # LAPACK may not converge on rank-one-like input; the symmetric solver does, at half the digits
        flat = matrix if matrix.shape[-2] < matrix.shape[-1] else matrix.mT
        values = torch.linalg.eigvalsh(flat @ flat.mT).clamp(min=0).sqrt().flip(-1)
    return values
