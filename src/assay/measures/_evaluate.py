"""Both numerical ranks of an operator's blocks at given positions, by the cheapest way that is accurate enough."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from assay.measures._effective_rank import entropy_ess, tolerance_ess
from assay.operators import DenseOperator, RecurrentOperator, SequenceOperator
from assay.operators._everywhere import COARSE, FINE, MEAN_SHARE, everywhere, pays
from assay.operators._spectrum import GRAM_RESOLUTION, GRAM_ROUNDING, in_parallel, singular_values

_EXACT = 1e-6  # relative error of entropy-ESS
_ADAPTIVE = 0.005  # of its mean over all positions
_CHECKED_AT = (0.12, 0.25, 0.38, 0.62, 0.75, 0.88)  # of the length


def evaluated_ranks(
    operator: SequenceOperator, where: Sequence[int], tolerance: float, exact: bool = False, accuracy: float = _EXACT
) -> tuple[Tensor, Tensor]:
    """Entropy-ESS (to a relative 1e-6) and tolerance-ESS at P positions: (..., P) each.

    `accuracy`: a larger one lets recurrences that came in float32 be measured by their Gramians.
    `exact`: by a float64 SVD of every block of a dense operator.
    """
    if not _by_elimination(operator, where, FINE) or exact:
        sigma = _spectra(operator, where, tolerance, exact, accuracy)
        return entropy_ess(sigma), tolerance_ess(sigma, tolerance)
    assert isinstance(operator, DenseOperator)
    found = everywhere(operator.matrix, tolerance, accuracy=_EXACT)
    index = torch.tensor(where, device=operator.matrix.device) - 1
    entropy, counts, error = (t[..., index] for t in (found.effective_rank, found.counts, found.error))
    known = (error <= _EXACT) & ~counts.isnan()
    for head in (~known.all(-1)).nonzero().tolist():
        left = (~known[tuple(head)]).nonzero().flatten().tolist()
        sigma = _spectra(operator[tuple(head)], [where[k] for k in left], tolerance, exact)
        entropy[(*head, left)] = entropy_ess(sigma)
        counts[(*head, left)] = tolerance_ess(sigma, tolerance)
    return entropy, counts


def checked_ranks(operator: DenseOperator, tolerance: float) -> tuple[Tensor, Tensor, float] | None:
    """Both at all positions, (..., L - 1), and the estimated relative error of the mean entropy-ESS, at most 0.5 %.

    The error is a root mean square over the batch: that of the estimates, or what spectra at some positions show,
    whichever is larger. None where it is too large, or where all spectra cost less.
    """
    length = operator.length
    if not _by_elimination(operator, range(1, length), COARSE):
        return None
    found = everywhere(operator.matrix, tolerance, accuracy=_ADAPTIVE)
    rank, counts = found.effective_rank, found.counts.clone()
    if bool(rank.isnan().any()) or not rank.numel():
        return None
    estimated = MEAN_SHARE * (found.error * rank).sum(-1) / rank.sum(-1).clamp(min=1e-12)
    flat, ranks = operator.matrix.reshape(-1, length, length), rank.reshape(-1, length - 1)
    checks = [
        (k % len(flat), min(max(1, round(_CHECKED_AT[k % len(_CHECKED_AT)] * length)), length - 1))
        for k in range(max(len(flat), 4))
    ]
    sigma = in_parallel(lambda c: singular_values(flat[c[0], c[1] :, : c[1]], gram=True), checks, device=flat.device)
    seen = torch.stack([ranks[k, i - 1] - entropy_ess(s) for (k, i), s in zip(checks, sigma, strict=True)])
    means = torch.stack([ranks[k].mean() for k, _ in checks]).clamp(min=1e-12)
    error = max(float(part.square().mean().sqrt()) for part in (estimated, seen / means))
    if not error <= _ADAPTIVE:
        return None
    return rank, _filled(operator, counts, tolerance), error


def _filled(operator: DenseOperator, counts: Tensor, tolerance: float) -> Tensor:
    """Counts that elimination left open: where there are many, every eighth is found, and the rest lies in between.

    Neighbouring positions differ by at most 1, so those are off by at most 4.
    """
    for head in counts.isnan().any(-1).nonzero().tolist():
        curve = counts[tuple(head)]
        left = curve.isnan().nonzero().flatten().tolist()
        some = left if len(left) <= 16 else sorted({*left[::8], left[-1]})
        curve[some] = tolerance_ess(operator[tuple(head)].hankel_singular_values([k + 1 for k in some]), tolerance)
        known = (~curve.isnan()).nonzero().flatten()
        at = torch.arange(len(curve), device=curve.device)
        right = torch.searchsorted(known, at).clamp(max=len(known) - 1)
        before, after = known[(right - 1).clamp(min=0)], known[right]
        share = ((at - before) / (after - before).clamp(min=1)).clamp(0, 1)
        counts[tuple(head)] = curve[before] + (curve[after] - curve[before]) * share
    return counts


def _by_elimination(operator: SequenceOperator, where: Sequence[int], shifts: int) -> bool:
    if not isinstance(operator, DenseOperator) or operator.matrix.requires_grad:
        return False
    return pays(where, operator.length, shifts=shifts)


def _spectra(
    operator: SequenceOperator, where: Sequence[int], tolerance: float, exact: bool, accuracy: float = _EXACT
) -> Tensor:
    """From Gram matrices, as far as they are good enough, where the entries are not float64."""
    if isinstance(operator, RecurrentOperator) and not exact and accuracy > _EXACT and operator.dtype != torch.float64:
        return _from_gramians(operator, where, tolerance, accuracy)
    if not isinstance(operator, DenseOperator) or exact or operator.matrix.dtype == torch.float64:
        return operator.hankel_singular_values(where)
    sigma = operator.approximate_singular_values(where)
    off = _gram_error(sigma, where, operator.length)
    coarse = (sigma[..., 0] * GRAM_RESOLUTION > tolerance) | (off > _EXACT)
    left = coarse.reshape(-1, len(where)).any(0).nonzero().flatten().tolist()
    if left:
        sigma[..., left, :] = operator.hankel_singular_values([where[k] for k in left])
    return sigma


def _from_gramians(operator: RecurrentOperator, where: Sequence[int], tolerance: float, accuracy: float) -> Tensor:
    """Spectra of a recurrence from its Gramians; those of operators for which that is too coarse, exact."""
    if torch.is_grad_enabled() and operator.B.requires_grad:
        return operator.hankel_singular_values(where)
    sigma, resolution = operator.gramian_singular_values(where)
    # each of N singular values is off by at most the resolution, and 16 > |ln p + H| for all p that count
    error = 16 * sigma.shape[-1] * resolution / sigma.sum(-1)
    coarse = ((resolution > tolerance) | (error > accuracy)).any(-1)
    if bool(coarse.any()):
        sigma[coarse] = operator[coarse].hankel_singular_values(where)
    return sigma


def _gram_error(sigma: Tensor, where: Sequence[int], length: int) -> Tensor:
    """How far, relatively, entropy-ESS may be off by the rounding of a float64 Gram matrix: (..., r) -> (...)."""
    total = sigma.sum(-1, keepdim=True)
    p = sigma / total
    resolved = GRAM_ROUNDING**0.5 * sigma[..., :1]
    rounding = torch.where(sigma > resolved, GRAM_ROUNDING * sigma[..., :1].square() / sigma, resolved)
    slope = (p.clamp(min=1e-9).log() + torch.special.entr(p).sum(-1, keepdim=True)).abs() / total
    at = torch.tensor(where, device=sigma.device)
    is_padding = torch.arange(sigma.shape[-1], device=sigma.device) >= torch.minimum(at, length - at)[:, None]
    return (rounding * slope).masked_fill(is_padding, 0).sum(-1).nan_to_num(0)
