"""What is left of a feed-forward layer without its activation: one matrix, and two learned scales."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from assay._errors import InputError


class ScaledFusedFFN(nn.Module):
    """`y = beta x + W x / alpha`: (..., d_model) -> the same, the residual included; alpha and beta start at 1.

    Without an activation the two matrices of a feed-forward layer are one, W: d^2 weights instead of 8 d^2. The scales
    keep deep models without norms from diverging. Source: Jha & Reagen 2025 (arXiv 2501.03489), eq. 8 and Fig. 4.
    W has no bias and is initialised as `nn.Linear`.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.linear = nn.Linear(d_model, d_model, bias=False)
        self.alpha = nn.Parameter(torch.ones(()))
        self.beta = nn.Parameter(torch.ones(()))

    @classmethod
    def fused(cls, up: nn.Linear, down: nn.Linear) -> ScaledFusedFFN:
        """That which computes `x + down(up(x))`, for two layers without bias and without an activation between them.

        Raises `InputError` for a bias, which would need a term that this layer does not have.
        """
        if up.bias is not None or down.bias is not None:
            raise InputError("up or down has a bias; expected linear layers without")
        layer = cls(up.in_features).to(up.weight)
        with torch.no_grad():
            layer.linear.weight.copy_(down.weight @ up.weight)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        return self.beta * x + self.linear(x) / self.alpha
