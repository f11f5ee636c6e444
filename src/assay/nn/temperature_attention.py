"""Softmax attention in which every head learns how sharp it is."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from assay._errors import InputError
from assay.nn.attention import SoftmaxAttention


class TemperatureAttention(SoftmaxAttention):
    """`T = softmax(q k^T / (t sqrt(C)) + bias)` with a learnable t > 0 for each head, or each head and query.

    `t = softplus(s)`, s learned: so t stays above 0. Large t flattens a head, small t sharpens it.
    Source: Jha & Reagen 2025 (arXiv 2501.03489), section 4, where t is in R^{H x T}; softplus is assay's choice.

    Args:
        max_length: a temperature for each of so many query positions; None for one that all positions share, and then
            sequences may have any length.
        temperature: t at the start. The paper has 0.01 or 0.1 with its regulariser, in code of its own; 1 is ordinary
            attention.
        num_heads, num_kv_heads, window, positions: of `SoftmaxAttention`.

    Raises `InputError` as that does, for a temperature that is not positive, and for more tokens than `max_length`.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        num_kv_heads: int | None = None,
        window: int | None = None,
        positions: str = "rope",
        max_length: int | None = None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(d_model, num_heads=num_heads, num_kv_heads=num_kv_heads, window=window, positions=positions)
        if not 0 < temperature < math.inf:
            raise InputError(f"temperature is {temperature}; expected above 0")
        if max_length is not None and max_length < 1:
            raise InputError(f"max_length is {max_length}; expected at least 1, or None for any length")
        self.max_length = max_length
        start = temperature + math.log(-math.expm1(-temperature))  # the inverse of softplus
        self.softness = nn.Parameter(torch.full((num_heads, max_length or 1), start))

    @property
    def temperature(self) -> Tensor:
        """t: (H, max_length), or (H, 1)."""
        return nn.functional.softplus(self.softness)

    def _projected(self, x: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super()._projected(x, start)
        t = self.temperature
        if self.max_length is not None:
            end = start + x.shape[1]
            if end > self.max_length:
                raise InputError(f"there are {end} tokens; expected at most max_length = {self.max_length}")
            t = t[:, start:end]
        return (q / t[..., None]).to(q.dtype), k, v
