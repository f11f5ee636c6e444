"""Effective state-size (ESS): how much state an operator really carries across each position.

`H_i = T[i:, :i]` maps the inputs before position i to the outputs from i on, so its rank is the smallest state that any
recurrence computing T can have there (Parnichkun et al. 2025, arXiv 2504.19561). Two numerical ranks of it are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from assay._errors import InputError
from assay.operators import DenseOperator, SequenceOperator
from assay.operators._spectrum import GRAM_RESOLUTION


def entropy_ess(singular_values: Tensor) -> Tensor:
    """Entropy-ESS, the effective rank `exp(H(sigma / |sigma|_1))`: (..., r) -> (...).

    Between 1 and the number of singular values; 0 where all of them are 0. It does not change when T is scaled, so it
    cannot see a state that has shrunk to nothing; tolerance-ESS can. Differentiable where not 0. NaN stays NaN.
    Source: Roy & Vetterli 2007; Parnichkun et al. 2025.

    >>> entropy_ess(torch.tensor([3.0, 3.0, 0.0]))
    tensor(2.)
    """
    total = singular_values.sum(-1, keepdim=True)
    empty = total == 0
    share = singular_values / torch.where(empty, 1, total)
    # p ln p with a zero gradient at p = 0, where that of entr is infinite
    entropy = -torch.where(share > 0, share * torch.where(share > 0, share, 1).log(), 0).sum(-1)
    rank = torch.where(empty[..., 0], 0, entropy.exp())
    return torch.where(singular_values.isnan().any(-1), torch.nan, rank)


def tolerance_ess(singular_values: Tensor, tolerance: float = 1e-3) -> Tensor:
    """Tolerance-ESS, the number of singular values above an absolute tolerance: (..., r) -> (...), as floats.

    From one position to the next it changes by at most 1. Raises `InputError` unless tolerance > 0. NaN stays NaN.
    Source: Parnichkun et al. 2025 (the text's `>`; their code has `>=`).

    >>> tolerance_ess(torch.tensor([2.0, 0.5, 1e-4]), 1e-3)
    tensor(2.)
    """
    check_tolerance(tolerance)
    count = (singular_values > tolerance).sum(-1).to(singular_values.dtype)
    return torch.where(singular_values.isnan().any(-1), torch.nan, count)


def check_tolerance(tolerance: float) -> None:
    """Raise `InputError` unless the tolerance is a positive number."""
    if not tolerance > 0:
        raise InputError(f"tolerance is {tolerance}; expected a number above 0, such as 1e-3")


@dataclass(frozen=True)
class StateSizeProfile:
    """ESS of one operator (with its batch shape `...`) at P positions.

    `positions`: (P,), ascending. `entropy_ess`, `tolerance_ess`: (..., P), float64. `tss`: (P,).
    `attainable`: (P,), `min(TSS, i, L - i)`, which caps ESS. `error`: estimated relative error of the mean entropy-ESS
    over all positions when those between the evaluated ones are interpolated (0 when all were evaluated).
    """

    positions: Tensor
    entropy_ess: Tensor
    tolerance_ess: Tensor
    tss: Tensor
    attainable: Tensor
    error: float

    def interpolate(self, values: Tensor, length: int) -> Tensor:
        """Values at the evaluated positions, (..., P), made linear in between: (..., L), 0 at position 0."""
        return _interpolate(torch.cat([self.positions.new_zeros(1), self.positions]), _with_zero(values), length)


def state_size_profile(
    operator: SequenceOperator,
    *,
    positions: str | int | Sequence[int] = "all",
    tolerance: float = 1e-3,
    required: Sequence[int] = (),
    exact: bool | None = None,
) -> StateSizeProfile:
    """Entropy-ESS and tolerance-ESS along an operator.

    Args:
        positions: "all" (1..L-1), k (every k-th), a sequence, or "adaptive": as many as it takes until
            the mean of the linearly interpolated profile is estimated to be within 0.75 % (root mean square over the
            profiles of the batch).
        tolerance: absolute, for tolerance-ESS.
        required: positions that are evaluated in any case.
        exact: whether a dense operator's singular values come from an SVD (True) or from float64 Gram matrices
            (False: half the time, values below 1e-6 of the largest are noise). None: SVD for float64 entries; Gram for
            entries that came in lower precision, whose own rounding is as large, unless the tolerance asks for more.
    """
    check_tolerance(tolerance)
    length = operator.length

    def evaluate(where: Sequence[int]) -> tuple[Tensor, Tensor]:
        sigma = _spectra(operator, where, tolerance, exact)
        return entropy_ess(sigma), tolerance_ess(sigma, tolerance)

    if positions == "adaptive":
        where, entropy, counts, error = _adaptive(evaluate, length, required)
    else:
        where = sorted({*_chosen(positions, length), *required})
        (entropy, counts), error = evaluate(where), 0.0 if len(where) == length - 1 else float("nan")
    at = torch.tensor(where)
    tss = operator.state_size(where)
    attainable = torch.minimum(tss, torch.minimum(at, length - at))
    return StateSizeProfile(at, entropy.cpu(), counts.cpu(), tss, attainable, error)


def _spectra(operator: SequenceOperator, where: Sequence[int], tolerance: float, exact: bool | None) -> Tensor:
    if not isinstance(operator, DenseOperator) or exact or (exact is None and operator.matrix.dtype == torch.float64):
        return operator.hankel_singular_values(where)
    sigma = operator.approximate_singular_values(where)
    if exact is None and bool((sigma[..., :1] * GRAM_RESOLUTION > tolerance).any()):
        return operator.hankel_singular_values(where)
    return sigma


def _chosen(positions: str | int | Sequence[int], length: int) -> Sequence[int]:
    if positions == "all":
        return range(1, length)
    if isinstance(positions, int) and positions > 0:
        return range(1, length, positions)
    if isinstance(positions, str | int):
        raise InputError(f"positions is {positions!r}; expected 'all', 'adaptive', a number k > 0, or a sequence")
    return positions


_TARGET = 0.0075


def _first_grid(length: int) -> list[int]:
    """Dense towards both ends, where blocks are small and cheap and the profile is steep."""
    near = [2**k for k in range(length.bit_length()) if 2**k <= length // 4]
    middle = torch.linspace(1, length - 1, min(8, length - 1)).round().long().tolist()
    return [*near, *(length - i for i in near), *middle]


def _adaptive(evaluate, length: int, required: Sequence[int]):  # type: ignore[no-untyped-def]
    """Split the intervals that may contribute most to the error of the mean, until it is small enough."""
    where = sorted({*_first_grid(length), *required})
    entropy, counts = evaluate(where)
    while True:
        missed = _missed(where, entropy, length)
        error = float(missed.sum().sqrt())
        worst = [k for k in missed.argsort(descending=True).tolist() if missed[k] > 0]
        if error <= _TARGET or not worst:
            return where, entropy, counts, error
        middles = sorted((where[k] + where[k + 1]) // 2 for k in worst[: max(2, len(worst) // 4)])
        new_entropy, new_counts = evaluate(middles)
        order = torch.tensor(where + middles).argsort()
        where = sorted(where + middles)
        entropy = torch.cat([entropy, new_entropy], -1)[..., order]
        counts = torch.cat([counts, new_counts], -1)[..., order]


def _missed(where: list[int], entropy: Tensor, length: int) -> Tensor:
    """Squared share of the mean that a straight line through each interval may miss, (P - 1,); mean over profiles.

    How far a position lies from the line through its neighbours tells how far the curve may lie from the lines on
    both sides of it. Misses of different intervals have no common sign, so their squares add up.
    """
    at = torch.tensor(where, dtype=torch.float64)
    gaps = at.diff()
    if len(where) < 3:
        return (gaps > 1).double()
    share = (gaps[:-1] / (at[2:] - at[:-2])).to(entropy.device)
    line = entropy[..., :-2] * (1 - share) + entropy[..., 2:] * share
    mean = _interpolate(torch.tensor(where), entropy, length).mean(-1, keepdim=True).clamp(min=1e-12)
    deviation = ((entropy[..., 1:-1] - line) / mean).square().nan_to_num(0).reshape(-1, len(where) - 2).mean(0).cpu()
    deviation = torch.cat([deviation[:1], deviation, deviation[-1:]])
    height = torch.maximum(deviation[:-1], deviation[1:])
    return torch.where(gaps > 1, height * (gaps / length).square(), 0)


def _at(where: Tensor, values: Tensor, points: Tensor) -> Tensor:
    right = torch.searchsorted(where, points).clamp(1, len(where) - 1)
    left = right - 1
    share = (points - where[left]) / (where[right] - where[left])
    share, left, right = (t.to(values.device) for t in (share, left, right))
    return values[..., left] * (1 - share) + values[..., right] * share


def _interpolate(where: Tensor, values: Tensor, length: int) -> Tensor:
    return _at(where, values, torch.arange(length)) if len(where) > 1 else values.expand(*values.shape[:-1], length)


def _with_zero(values: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(values[..., :1]), values], -1)
