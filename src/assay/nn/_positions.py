"""Where a token stands: rotary embeddings and linear biases."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary(x: Tensor, start: int = 0, *, base: float = 10_000.0) -> Tensor:
    """Rotary position embedding: (..., L, C) -> the same, for positions start, start + 1, ...; C even.

    Channel c of the first half and c of the second are turned by `position * base^(-2 c / C)`, so that products of two
    rotated vectors depend on their distance alone. Source: Su et al. 2021 (arXiv 2104.09864), eq. 34.
    """
    half = x.shape[-1] // 2
    frequency = base ** (-torch.arange(half, device=x.device, dtype=torch.float64) / half)
    angle = torch.arange(start, start + x.shape[-2], device=x.device)[:, None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def alibi_slopes(num_heads: int, device: torch.device | None = None) -> Tensor:
    """(H,): `2^(-8 h / H)` for h = 1..H, the slopes of attention with linear biases.

    Source: Press et al. 2021 (arXiv 2108.12409), section 3; for H that is no power of 2 the same formula is used.
    """
    return 2.0 ** (-8.0 * torch.arange(1, num_heads + 1, device=device) / num_heads)
