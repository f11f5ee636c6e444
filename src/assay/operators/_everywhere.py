"""What can be said of the spectra of a dense operator at all positions in O(L^3): entropies and counts, with errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from assay.operators._determinants import Entropies, coarse, fine, spectral_entropies
from assay.operators._halving import HankelBlocks
from assay.operators._inertia import count_above
from assay.operators._spectrum import in_parallel

_ENTRIES_AT_ONCE = 2**27  # of operators that are taken together on an accelerator


@dataclass(frozen=True)
class Everywhere:
    """At positions 1..L-1, float64, shapes (..., L - 1).

    `effective_rank`: `exp(entropy)` of `sigma / |sigma|_1`, 0 where the block is 0. `error`: an estimate of its
    relative error. `counts`: singular values above the tolerance. NaN where elimination cannot tell.
    """

    effective_rank: Tensor
    error: Tensor
    counts: Tensor


# Errors of neighbouring positions and singular values have both signs. Of a mean over all positions they were at most a
# sixth of what they add up to without signs, for trained and random attention; a third is counted on.
MEAN_SHARE = 1 / 3
FINE, COARSE = len(fine().shifts), len(coarse().shifts)


def pays(positions: Sequence[int], length: int, *, shifts: int) -> bool:
    """Whether elimination at all positions costs less than the spectra at some: a rule of thumb from measured times."""
    spectra = sum(min(i, length - i) ** 2 for i in positions)
    return spectra > (0.8 + 0.15 * shifts) * length**2 + 256 * length


def everywhere(matrix: Tensor, tolerance: float, *, accuracy: float) -> Everywhere:
    """Both numerical ranks of every Hankel block of `matrix` (..., L, L).

    Few shifts where the error of the mean rank is then estimated to be below `accuracy`, else as many as are of use.
    The caller looks at `error` for the positions that miss it.
    """

    def profile(T: Tensor) -> Tensor:
        blocks = HankelBlocks(T)
        found = _entropies(blocks, accuracy)
        return torch.stack([found.entropy.exp(), found.error, count_above(blocks, tolerance)], -1)

    return Everywhere(*_for_each(matrix, profile, 3).unbind(-1))


def counts_everywhere(matrix: Tensor, tolerance: float) -> Tensor:
    """The counts alone: (..., L - 1)."""
    return _for_each(matrix, lambda T: count_above(HankelBlocks(T), tolerance)[..., None], 1)[..., 0]


def _for_each(matrix: Tensor, work: Callable[[Tensor], Tensor], numbers: int) -> Tensor:
    """`work` maps (B, L, L) to (B, L + 1, numbers); the result at 1..L-1, NaN where LAPACK does not converge."""
    length = matrix.shape[-1]
    flat = matrix.detach().reshape(-1, length, length)
    together = 1 if matrix.device.type == "cpu" else max(1, _ENTRIES_AT_ONCE // length**2)

    def part(start: int) -> Tensor:
        T = flat[start : start + together].double()
        try:
            return work(T)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            return T.new_full((len(T), length + 1, numbers), math.nan)

    parts = in_parallel(part, range(0, len(flat), together), device=matrix.device)
    found = torch.cat(parts) if parts else flat.new_zeros(0, length + 1, numbers, dtype=torch.float64)
    return found[:, 1:length].reshape(*matrix.shape[:-2], length - 1, numbers)


def _entropies(blocks: HankelBlocks, accuracy: float) -> Entropies:
    if accuracy >= 1e-4:
        found = spectral_entropies(blocks, coarse())
        rank = found.entropy.exp()
        error = MEAN_SHARE * (found.error * rank).sum(-1)
        if bool((error <= accuracy * rank.sum(-1)).all()):  # not where there are NaN
            return found
    return spectral_entropies(blocks, fine())
