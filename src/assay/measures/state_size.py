"""Effective state-size (ESS): how much state an operator really carries across each position.

`H_i = T[i:, :i]` maps the inputs before position i to the outputs from i on, so its rank is the smallest state that any
recurrence computing T can have there (Parnichkun et al. 2025, arXiv 2504.19561). Two numerical ranks of it are used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from assay._errors import InputError
from assay.measures._effective_rank import check_tolerance as check_tolerance
from assay.measures._effective_rank import entropy_ess as entropy_ess
from assay.measures._effective_rank import tolerance_ess as tolerance_ess
from assay.measures._evaluate import checked_ranks, evaluated_ranks
from assay.operators import DenseOperator, RecurrentOperator, SequenceOperator
from assay.operators._gramians import cut


@dataclass(frozen=True)
class StateSizeProfile:
    """ESS of one operator (with its batch shape `...`) at P positions.

    `positions`: (P,), ascending. `entropy_ess`, `tolerance_ess`: (..., P), float64. `tss`: (P,).
    `attainable`: (P,), `min(TSS, i, L - i)`, which caps ESS. `error`: estimated relative error of the mean entropy-ESS
    over all positions, those between the evaluated ones interpolated (0 when all were evaluated exactly; NaN where
    nothing is known of it).
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
    groups: Sequence[slice] | None = None,
    exact: bool = False,
) -> StateSizeProfile:
    """Entropy-ESS and tolerance-ESS along an operator.

    A dense operator is measured at many positions at once, in O(L^3), by determinants (entropy-ESS) and inertia
    (tolerance-ESS, exact); where their estimated errors are too large, and at few positions, by spectra.

    Args:
        positions: "all" (1..L-1), k (every k-th), or a sequence: entropy-ESS to a relative 1e-6. "adaptive": as much as
            it takes until the mean of entropy-ESS over all positions is estimated to be within 0.5 % (dense operators;
            all positions are evaluated, to that accuracy, and some of them checked against their spectra) or 0.75 %
            (others; few positions are evaluated, and linearly interpolated), as a root mean square over the batch.
        tolerance: absolute, for tolerance-ESS.
        required: positions that are evaluated in any case.
        groups: of the profiles along the last batch dimension, whose means are what "adaptive" aims at; None: each one.
        exact: a float64 SVD of every block of a dense operator, O(L^4) for all positions.
    """
    check_tolerance(tolerance)
    length = operator.length
    if positions == "adaptive":
        where, entropy, counts, error = _adaptive(operator, tolerance, required, exact, groups)
    else:
        where = sorted({*_chosen(positions, length), *required})
        entropy, counts = evaluated_ranks(operator, where, tolerance, exact)
        error = 0.0 if len(where) == length - 1 else float("nan")
    at = torch.tensor(where)
    tss = operator.state_size(where)
    attainable = torch.minimum(tss, operator.channels * torch.minimum(at, length - at))
    return StateSizeProfile(at, entropy.cpu(), counts.cpu(), tss, attainable, error)


def _chosen(positions: str | int | Sequence[int], length: int) -> Sequence[int]:
    if positions == "all":
        return range(1, length)
    if isinstance(positions, int) and positions > 0:
        return range(1, length, positions)
    if isinstance(positions, str | int):
        raise InputError(f"positions is {positions!r}; expected 'all', 'adaptive', a number k > 0, or a sequence")
    return positions


def _first_grid(operator: SequenceOperator, required: Sequence[int]) -> list[int]:
    """Dense towards both ends, where blocks are small and cheap and the profile is steep; the required ones among them.

    Each evaluation of a recurrence goes through the whole sequence, which takes as long as some L / 2N positions: it
    begins with as many as are enough as a rule.
    """
    length = operator.length
    near = [2**k for k in range(length.bit_length()) if 2**k <= length // 4]
    ends = {1, *near, *(length - i for i in near), length - 1}
    if isinstance(operator, RecurrentOperator):
        return cut(sorted({*ends, *required}), max(16, operator.B.shape[-1], length // 64))
    middle = torch.linspace(1, length - 1, min(8, length - 1)).round().long().tolist()
    return sorted({*ends, *middle, *required})


def _adaptive(
    operator: SequenceOperator, tolerance: float, required: Sequence[int], exact: bool, groups: Sequence[slice] | None
) -> tuple[list[int], Tensor, Tensor, float]:
    """Positions, entropy-ESS, tolerance-ESS and the estimated error of the mean."""
    if isinstance(operator, DenseOperator) and not exact:
        found = checked_ranks(operator, tolerance)
        if found is not None:
            return list(range(1, operator.length)), *found
    return _refined(
        lambda where: evaluated_ranks(operator, where, tolerance, exact, _TARGET / 10),
        _first_grid(operator, required),
        operator.length,
        groups,
    )


_TARGET = 0.0075  # of the mean, where positions are interpolated


def _refined(
    evaluate: Callable[[Sequence[int]], tuple[Tensor, Tensor]],
    where: list[int],
    length: int,
    groups: Sequence[slice] | None,
) -> tuple[list[int], Tensor, Tensor, float]:
    """Split the intervals that may contribute most to the error of the mean, until it is small enough."""
    entropy, counts = evaluate(where)
    while True:
        missed = _missed(where, _means(entropy, groups), length)
        error = float(missed.sum().sqrt())
        worst = [k for k in missed.argsort(descending=True).tolist() if missed[k] > 0]
        if error <= _TARGET or not worst:
            return where, entropy, counts, error
        middles = sorted((where[k] + where[k + 1]) // 2 for k in worst[: _enough(missed[worst])])
        new_entropy, new_counts = evaluate(middles)
        order = torch.tensor(where + middles).argsort()
        where = sorted(where + middles)
        entropy = torch.cat([entropy, new_entropy], -1)[..., order]
        counts = torch.cat([counts, new_counts], -1)[..., order]


def _enough(missed: Tensor) -> int:
    """How many intervals, the worst first, are halved at once.

    Halving takes away half of the error where the curve is jagged, and nearly all where it is smooth. Twice as many as
    should be enough: a round for more positions costs less than one more round, which goes through the sequence anew.
    """
    after = missed.sum() - 0.7 * missed.cumsum(0)
    return min(len(missed), 2 * (int((after > 0.75 * _TARGET**2).sum()) + 1))


def _means(profiles: Tensor, groups: Sequence[slice] | None) -> Tensor:
    """Of each group of profiles: (..., H, P) -> (..., G, P)."""
    return profiles if groups is None else torch.stack([profiles[..., group, :].mean(-2) for group in groups], dim=-2)


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
