"""The norm of most layers."""

from __future__ import annotations

from torch import Tensor, nn


class RMSNorm(nn.RMSNorm):
    """`x / rms(x) o weight` over the last dimension, computed in the dtype of the weight (float32 under autocast) and
    returned in that of x. Source: Zhang & Sennrich 2019 (arXiv 1910.07467), eq. 4."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)
