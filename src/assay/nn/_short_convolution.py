"""The short causal convolution that many mixers put before their operator."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ShortConvolution(nn.Module):
    """Depthwise and causal, kernel of a few tokens: (B, L, C) -> (B, L, C), then an activation.

    Initialised as `nn.Conv1d`: U(-1/sqrt(K), 1/sqrt(K)).
    """

    def __init__(
        self, channels: int, kernel_size: int = 4, *, bias: bool = True, activation: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, kernel_size, groups=channels, bias=bias)
        self.activation = activation or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        past = self.conv.kernel_size[0] - 1
        return self.activation(self.conv(nn.functional.pad(x.mT, (past, 0))).mT)

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One token, (B, C), and the K - 1 tokens before it, (B, K - 1, C): its output and the new state."""
        if state is None:
            state = x.new_zeros(x.shape[0], self.conv.kernel_size[0] - 1, x.shape[1])
        window = torch.cat([state, x[:, None]], dim=1)
        return self.activation(self.conv(window.mT)[..., 0]), window[:, 1:]
