"""Two statistical checks of no-regret behaviour, which transients can fool: so both give the average regret too."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from assay._errors import InputError

ROUNDING = 1e-9  # relative; a smaller fall is none


class Trend(NamedTuple):
    """p: chance of at least so many falls, were falls and rises equally likely; falls: how many; average: Regret_T / T.
    (B,) each."""

    p: Tensor
    falls: Tensor
    average: Tensor


class Regression(NamedTuple):
    """slope: of log Regret_t over log t; p: of the one-sided t-test that it is below 1; average: Regret_T / T. (B,)
    each; slope and p are NaN where fewer than three rounds have positive regret."""

    slope: Tensor
    p: Tensor
    average: Tensor


def trend_check(regret: Tensor) -> Trend:
    """Whether `Regret_t / t` falls more often than a fair coin says; regret: (B, T), as `regret` gives it.

    Sign test with T - 1 draws, as if independent, which they are not. On independent losses it says little, since what
    is gained in one round is lost in others. Source: Park et al. 2025 (arXiv 2403.16843), from memory.
    """
    from scipy.stats import binom

    average = _averages(regret)
    steps = average.diff(dim=-1)
    falls = (steps < -ROUNDING * average[:, :-1].abs()).sum(-1)
    p = binom.sf(falls.cpu().numpy() - 1, average.shape[-1] - 1, 0.5)
    return Trend(torch.as_tensor(p, device=regret.device), falls, average[:, -1])


def regression_check(regret: Tensor) -> Regression:
    """Least squares of log Regret_t on log t over the rounds of positive regret, and the t-test of its slope against 1;
    regret: (B, T). Regret grows slower than T where the slope is below 1, if the law is a power of t from the
    beginning: an early excess also makes it small. Look at `average`, and take T >= 200.

    Source: Park et al. 2025 (arXiv 2403.16843), from memory; they give the slope and the p-value of the regression, and
    the test against 1 is ours.
    """
    from scipy.stats import t as student

    average = _averages(regret)
    regret = regret.double()
    counts = (regret > 0).to(regret)
    n = counts.sum(-1)
    x = torch.arange(1, regret.shape[-1] + 1, device=regret.device, dtype=regret.dtype).log().expand_as(regret)
    y = torch.where(regret > 0, regret, 1).log()
    dx, dy = (counts * (v - (counts * v).sum(-1, keepdim=True) / n[:, None]) for v in (x, y))
    spread = dx.square().sum(-1)
    slope = (dx * dy).sum(-1) / spread
    left = (dy - slope[:, None] * dx).square().sum(-1)
    statistic = (slope - 1) / (left / (n - 2) / spread).sqrt()
    p = torch.as_tensor(student.cdf(statistic.cpu().numpy(), (n - 2).clamp(min=1).cpu().numpy()), device=regret.device)
    p = torch.where(slope < 1 - ROUNDING, p, p.clamp(min=0.5))  # an exact line has residuals of rounding only
    known = n >= 3
    slope, p = (torch.where(known, v, torch.nan) for v in (slope, p))
    return Regression(slope, p, average[:, -1])


def _averages(regret: Tensor) -> Tensor:
    if regret.ndim != 2 or regret.shape[-1] < 3:
        raise InputError(f"regret has shape {tuple(regret.shape)}; expected (B, T), the course over at least 3 rounds")
    rounds = torch.arange(1, regret.shape[-1] + 1, device=regret.device, dtype=torch.float64)
    return regret.double() / rounds
