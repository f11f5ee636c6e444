"""Distinct numbers, many rows at once."""

from __future__ import annotations

import torch
from torch import Tensor


def distinct(num_rows: int, count: int, size: int, generator: torch.Generator) -> Tensor:
    """`count` distinct numbers out of 0..size-1 in each row, every ordered choice equally likely: (num_rows, count).

    O(num_rows count log count) where `count` is small beside `size`, otherwise O(num_rows size log size).
    """
    device = generator.device
    if 4 * count > size:
        # float64: among float32 numbers ties are frequent, and would be broken in favour of small ids
        scores = torch.rand(num_rows, size, dtype=torch.float64, device=device, generator=generator)
        return scores.argsort(dim=-1)[:, :count]
    # Repeats are drawn again. Which places are drawn again depends on which are equal and not on the ids, so renaming
    # the ids changes nothing; and renaming makes every ordered choice of distinct ids into every other.
    ids = torch.randint(size, (num_rows, count), device=device, generator=generator)
    while (again := _repeats(ids)).any():
        ids = torch.where(again, torch.randint(size, ids.shape, device=device, generator=generator), ids)
    return ids


def _repeats(ids: Tensor) -> Tensor:
    """Which entries of each row equal an earlier one."""
    ordered, order = ids.sort(dim=-1, stable=True)
    again = torch.zeros_like(ids, dtype=torch.bool)
    return again.scatter_(1, order[:, 1:], ordered[:, 1:] == ordered[:, :-1])


def shuffled(items: Tensor, generator: torch.Generator) -> Tensor:
    """The entries of the last dimension in an order of its own for each row; same shape."""
    scores = torch.rand(items.shape, dtype=torch.float64, device=generator.device, generator=generator)
    return items.gather(-1, scores.argsort(dim=-1))
