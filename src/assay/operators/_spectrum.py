"""Singular values that can be trusted: QR before SVD, a retry ladder, many small problems on all cores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

Task = TypeVar("Task")
Result = TypeVar("Result")

# Eigenvalues of a float64 Gram matrix have an error of about eps * sigma_1^2 * size, so singular values below about
# 1e-7 sigma_1 are noise. Entries that came in float32 carry relative errors of 6e-8 themselves and lose nothing by it.
GRAM_RESOLUTION = 1e-6
GRAM_ROUNDING = 4e-16  # error of such an eigenvalue, relative to the largest


def singular_values(blocks: Tensor, *, gram: bool = False) -> Tensor:
    """Singular values of `blocks` (..., m, n): (..., min(m, n)), float64, descending.

    `gram=True` takes them from the float64 Gram matrix of the smaller side: twice as fast, values below
    `GRAM_RESOLUTION` times the largest are noise. A block for which nothing converges is NaN.
    Complexity: O(m n min(m, n)) each.
    """
    blocks = blocks.double()
    blocks = blocks if blocks.shape[-2] >= blocks.shape[-1] else blocks.mT  # tall
    if blocks.requires_grad:
        return torch.linalg.svdvals(blocks)
    try:
        return _from_gram(blocks) if gram else _from_qr(blocks)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        flat = blocks.reshape(-1, *blocks.shape[-2:])
        return torch.stack([_with_retries(block) for block in flat]).reshape(*blocks.shape[:-2], blocks.shape[-1])


def _from_qr(blocks: Tensor) -> Tensor:
    rows, columns = blocks.shape[-2:]
    if rows > 1.2 * columns:
        blocks = torch.linalg.qr(blocks, mode="r").R
    return torch.linalg.svdvals(blocks)


def _from_gram(blocks: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(blocks.mT @ blocks).clamp(min=0).sqrt().flip(-1)


def _with_retries(block: Tensor) -> Tensor:
    """One block by ever more patient routines: divide and conquer, QR iteration, Gram; NaN in the end."""
    scale = block.abs().max()
    if scale == 0:
        return block.new_zeros(block.shape[-1])
    for routine in (_from_qr, _by_qr_iteration, _from_gram):
        try:
            return routine(block / scale) * scale
        except (torch.linalg.LinAlgError, ValueError):  # type: ignore[attr-defined]
            continue
    return torch.full_like(block[0], torch.nan)


def _by_qr_iteration(block: Tensor) -> Tensor:
    """LAPACK's gesvd, which converges where gesdd may not (rank-one-like blocks, as attention sinks make)."""
    import numpy as np
    from scipy.linalg import svd

    try:
        values = svd(block.cpu().numpy(), compute_uv=False, lapack_driver="gesvd")
    except np.linalg.LinAlgError as error:
        raise ValueError(str(error)) from None
    return torch.from_numpy(values).to(block.device)


def in_parallel(work: Callable[[Task], Result], tasks: Sequence[Task], *, device: torch.device) -> list[Result]:
    """`[work(task) for task in tasks]`, on the CPU with one single-threaded worker a core.

    Threads inside small LAPACK calls gain little; whole problems side by side use every core.
    """
    workers = torch.get_num_threads()
    if device.type != "cpu" or workers == 1 or len(tasks) < 2 or torch.is_grad_enabled():
        return [work(task) for task in tasks]
    with _one_thread_each(), ThreadPoolExecutor(workers) as pool:
        return list(pool.map(torch.no_grad()(work), tasks))


@contextmanager
def _one_thread_each() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
