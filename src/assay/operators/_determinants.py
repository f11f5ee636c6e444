"""Entropies of the spectra of all Hankel blocks from determinants alone: no spectrum is computed.

`log(1 + x / z)` for shifts z from large to small are steps at different magnitudes of x, of which smooth functions can
be built. Summed over the eigenvalues x of `H_i^T H_i` they are log-determinants, so

    sum_m f(sigma_m^2) = sum_k w_k log det(1 + H_i^T H_i / z_k) + w |H_i|_F^2,

with weights fitted once for each f. The determinants of all positions together cost O(L^3) a shift. For the square
root, which entropies need, few shifts do: the best rational approximation of degree K with its poles at such shifts is
off by `8 exp(-pi sqrt(2 K))` (Stahl 1993), and these fits behave alike.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from assay.operators._halving import Eliminated, Elimination, HankelBlocks
from assay.operators._spectrum import GRAM_ROUNDING

_LARGEST_SHIFT = 16.0  # in units of the largest eigenvalue


@dataclass(frozen=True)
class Rule:
    """Shifts (K,), ascending, and weights (K + 1,), the last that of the trace, for `root = sqrt(x)` and
    `root_log = sqrt(x) ln sqrt(x)`, 0 <= x <= 1.

    `root_error`, `root_log_error`: (K + 1,), the largest misses, rounding included, for x below the first shift,
    around each of the others, and (the last) at the largest.
    """

    shifts: NDArray[np.float64]
    root: NDArray[np.float64]
    root_log: NDArray[np.float64]
    root_error: NDArray[np.float64]
    root_log_error: NDArray[np.float64]


@lru_cache
def fine() -> Rule:
    """Seven digits."""
    return _rule(36, 1e-15)


@lru_cache
def coarse() -> Rule:
    """Three digits."""
    return _rule(11, 6e-10)


def _rule(count: int, smallest: float) -> Rule:
    shifts = np.geomspace(smallest, _LARGEST_SHIFT, count)
    x = np.geomspace(1e-4 * smallest, 1, 2000)
    basis = np.column_stack([np.log1p(x[:, None] / shifts), x])
    size = np.append(np.sqrt(shifts), 1)  # of the weights; makes the least-squares problem well scaled
    root, step = np.sqrt(x), shifts[1] / shifts[0]
    rounding = np.minimum(np.sqrt(GRAM_ROUNDING), GRAM_ROUNDING / root)
    weights, errors = [], []
    for wanted, slope in ((root, 1.0), (root * np.log(root), 1 + np.abs(np.log(root)))):
        fit = np.linalg.lstsq(basis * size, wanted, rcond=1e-15)[0] * size
        miss = np.abs(basis @ fit - wanted) + rounding * slope
        edges = np.concatenate([[0], shifts[:-1], [np.inf]])
        # an eigenvalue is told apart from its neighbours to about a step of the shifts: take the worst nearby
        bins = [
            miss[(x >= min(low, 1) / step) & (x <= high * step)].max(initial=0)
            for low, high in itertools.pairwise(edges)
        ]
        weights.append(fit)
        errors.append(np.array(bins))
    return Rule(shifts, weights[0], weights[1], errors[0], errors[1])


class Entropies(NamedTuple):
    """Of `p = sigma / |sigma|_1` for each block, in nats: (B, L + 1), i = 0..L, 0 at the ends; NaN where a
    factorisation broke down, -inf where the block is 0. `error`: what it may be off by, (B, L + 1), an estimate that
    adds up the misses of the rule over the spectrum as the determinants show it."""

    entropy: Tensor
    error: Tensor


def spectral_entropies(blocks: HankelBlocks, rule: Rule) -> Entropies:
    """`ln S - (sum_m sigma_m ln sigma_m) / S`, `S = sum_m sigma_m`, at every position. O(K L^3)."""
    norms = blocks.squared_norms
    shifts, root, root_log, root_error, root_log_error = (
        norms.new_tensor(t) for t in (rule.shifts, rule.root, rule.root_log, rule.root_error, rule.root_log_error)
    )
    values = blocks.eliminate(shifts.expand(len(norms), -1), _LOGARITHMS)
    values = values - blocks.columns * shifts.log()[:, None]  # log det(1 + G / z) from log det(G + z)
    total = root[:-1] @ values + root[-1] * norms
    weighted = root_log[:-1] @ values + root_log[-1] * norms
    entropy = total.log() - weighted / total
    # - d log det(1 + G / z) / d ln z counts the eigenvalues above z, in soft steps
    above = -values.diff(dim=1) / shifts.log().diff()[:, None]
    every = blocks.columns.expand_as(above[:, :1])
    bins = -torch.cat([every, above, torch.zeros_like(every)], 1).diff(dim=1)
    bins = bins.clamp(min=0)
    # d entropy = ((1 + ln S - entropy) dS - d sum sigma ln sigma) / S
    missed = (1 + total.log() - entropy).abs() * (root_error @ bins) + root_log_error @ bins
    empty = norms == 0
    return Entropies(torch.where(empty, -torch.inf, entropy), torch.where(empty, 0, missed / total))


def _block(A: Tensor, X: Tensor, Z: Tensor, _: Tensor) -> Eliminated:
    factor, failed = torch.linalg.cholesky_ex(A)
    value = torch.where(failed > 0, torch.nan, 2 * factor.diagonal(0, -2, -1).log().sum(-1))
    X, Z = (torch.linalg.solve_triangular(factor, side, upper=False) for side in (X, Z))
    return Eliminated(value, X.mT @ X, X.mT @ Z, Z.mT @ Z)


_LOGARITHMS = Elimination(_block, lambda values: values.log().sum(-1), sign=1)
