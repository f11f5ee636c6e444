"""How alike two matrices, two learners' errors, or two subspaces are."""

from __future__ import annotations

import torch
from torch import Tensor

from assay._errors import InputError


def alignment(a: Tensor, b: Tensor) -> Tensor:
    """`<A, B> / (||A||_F ||B||_F)`, in [-1, 1]; NaN where one of them is 0.

    a, b: (..., m, n) of the same last two axes, or vectors (n,); returns (...). Source: the correlation of Tarzanagh et
    al. 2023 (arXiv 2308.16898).
    """
    axes = (-1,) if a.ndim == b.ndim == 1 else (-2, -1)
    if a.ndim < len(axes) or b.ndim < len(axes) or [a.shape[i] for i in axes] != [b.shape[i] for i in axes]:
        raise InputError(f"a has shape {tuple(a.shape)} and b {tuple(b.shape)}; expected the same matrices or vectors")
    return (a * b).sum(axes) / (a.square().sum(axes).sqrt() * b.square().sum(axes).sqrt())


def similarity_of_errors(errors_a: Tensor, errors_b: Tensor) -> float:
    """The mean over prompts of the cosine of two learners' errors, in [-1, 1].

    errors_a, errors_b: (B, N), prediction less truth at the N positions of B prompts. Leave out the first position,
    where nothing is known and all learners err alike. Prompts on which one of them makes no error at all say nothing,
    and are left out; NaN where there are no others. Source: Fu et al. 2023 (arXiv 2310.17086), definition of SimE.
    """
    if errors_a.shape != errors_b.shape or errors_a.ndim != 2:
        raise InputError(
            f"errors_a has shape {tuple(errors_a.shape)} and errors_b {tuple(errors_b.shape)}; expected (B, N) for both"
        )
    norms = errors_a.norm(dim=-1) * errors_b.norm(dim=-1)
    said = norms > 0
    return ((errors_a * errors_b).sum(-1)[said] / norms[said]).mean().item()


def subspace_overlap(a: Tensor, basis: Tensor, rank: int | None = None) -> float:
    """`||V^T P||_F^2 / r`: the part of a subspace that the leading right singular vectors of a matrix lie in.

    a: (m, d); V: its first r right singular vectors, r = `rank` or the dimension of the subspace; basis: (d, r0), P its
    orthogonal projector. In [0, 1]; a random matrix has r0 / d on average.
    Raises `InputError` for shapes that disagree and a rank out of range.
    """
    rank = basis.shape[-1] if rank is None else rank
    if a.ndim != 2 or basis.ndim != 2 or a.shape[1] != basis.shape[0]:
        raise InputError(f"a has shape {tuple(a.shape)} and basis {tuple(basis.shape)}; expected (m, d) and (d, r)")
    if not 1 <= rank <= min(a.shape):
        raise InputError(f"rank is {rank}; expected 1 to {min(a.shape)}")
    v = torch.linalg.svd(a, full_matrices=False).Vh[:rank]
    q = torch.linalg.qr(basis).Q
    return ((v @ q).square().sum() / rank).item()
