"""Spectra of numerically low-rank Hankel blocks: neighbouring positions share a core, which is compressed once.

For positions i in a..b every block `H_i = T[i:, :i]` consists of the core `T[b:, :a]`, of at most b - a more rows and
b - a more columns. An orthonormal basis of the core's range is found with random vectors (Halko, Martinsson & Tropp
2011), extended by the additional columns, and a residual is computed that proves it complete; orthogonal maps on both
sides then shrink all blocks of the group to about the rank of the core plus the number of rows and columns added.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from assay.operators._spectrum import in_parallel, singular_values

_GROUP = 16  # positions from the first to the last that share a core
_COMPLETE = 1e-14  # norm of what the basis leaves out, relative to the core's: rounding
_OVERSAMPLING = 8


def low_rank_spectra(T: Tensor, positions: Sequence[int]) -> Tensor | None:
    """Singular values of `T[i:, :i]`, (B, L, L) -> (B, P, L // 2), float64, descending, zero-padded.

    To rounding, relative to the largest of each block. None where it would not pay: where positions are few, or where
    the block in the middle of them has a rank above an eighth of its size. O(L^2 r) for each 16 positions.
    """
    length = T.shape[-1]
    ordered = sorted(set(positions))
    if len(ordered) < 2 * _GROUP or T.requires_grad or not len(T):
        return None
    T = T.double()
    middle = min(ordered, key=lambda i: abs(2 * i - length))
    rank = _rank(T[:, middle:, :middle])
    if rank is None:
        return None
    groups = _groups(ordered)
    parts = in_parallel(lambda group: _spectra(T, group, rank), groups, device=T.device)
    spectra = {
        i: sigma for group, part in zip(groups, parts, strict=True) for i, sigma in zip(group, part, strict=True)
    }
    return torch.stack([spectra[i] for i in positions], dim=-2)


def _groups(ordered: list[int]) -> list[list[int]]:
    groups = [[ordered[0]]]
    for _, i in pairwise(ordered):
        if i - groups[-1][0] >= _GROUP:
            groups.append([])
        groups[-1].append(i)
    return groups


def _rank(block: Tensor) -> int | None:
    """Columns of a basis that is complete for every block of the batch; None above an eighth of the block's size."""
    size = 16
    while 8 * size <= min(block.shape[-2:]):
        basis = _basis(block, size)
        if _is_complete(block, basis):
            return size
        size *= 2
    return None


def _basis(block: Tensor, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    test = torch.randn(block.shape[-1], size + _OVERSAMPLING, generator=generator, dtype=block.dtype).to(block.device)
    return torch.linalg.qr(block @ test).Q


def _is_complete(block: Tensor, basis: Tensor) -> bool:
    rest = block - basis @ (basis.mT @ block)
    return bool((rest.square().sum((-2, -1)) <= _COMPLETE**2 * block.square().sum((-2, -1))).all())


def _spectra(T: Tensor, group: list[int], rank: int) -> list[Tensor]:
    """One (B, L // 2) for each position of the group."""
    length = T.shape[-1]
    first, last = group[0], group[-1]
    rows, core = T[:, first:last, :last], T[:, last:, :last]
    if 2 * (rank + _OVERSAMPLING + last - first) < min(length - last, first):
        basis = torch.cat([_basis(core[..., :first], rank), core[..., first:]], -1)
        basis = torch.linalg.qr(basis).Q
        if _is_complete(core, basis):
            core = basis.mT @ core
            common = torch.cat([rows, core], -2)
            triangle = torch.linalg.qr(common[..., :first].mT, mode="r").R.mT  # orthogonal from the right
            rows, core = (torch.cat(pair, -1) for pair in (
                (triangle[:, : last - first], rows[..., first:]), (triangle[:, last - first :], core[..., first:]),
            ))  # fmt: skip
    before = core.shape[-1] - (last - first)
    blocks = (
        torch.cat([rows[:, i - first :, : before + i - first], core[..., : before + i - first]], -2) for i in group
    )
    found = [singular_values(block) for block in blocks]
    return [
        torch.nn.functional.pad(values[..., : length // 2], (0, max(0, length // 2 - values.shape[-1])))
        for values in found
    ]
