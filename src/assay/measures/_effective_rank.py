"""Two numerical ranks of a spectrum: what effective state-size (ESS) is read off with."""

from __future__ import annotations

import torch
from torch import Tensor

from assay._errors import InputError


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
