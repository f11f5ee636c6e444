"""Causal convolutions as long as the sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from assay.nn._scan import at_least_float32


def fft_convolution(kernel: Tensor, x: Tensor) -> Tensor:
    """`y_i = sum_j kernel_{i-j} x_j`: (..., L) and (..., L), which broadcast -> (..., L).

    In the precision given, float32 at least. O(L log L) time and memory a channel. No wrap-around: padded to 2 L.
    """
    length = x.shape[-1]
    size = 1 << (2 * length - 1).bit_length()
    kernel, x = at_least_float32(kernel), at_least_float32(x)
    return torch.fft.irfft(torch.fft.rfft(kernel, size) * torch.fft.rfft(x, size), size)[..., :length]


def convolution_step(kernel: Tensor, past: Tensor | None, x: Tensor) -> tuple[Tensor, Tensor]:
    """The last output alone, for `step`: O(t) time and state.

    Args:
        kernel: (D, K), K >= t + 1 or exactly as far as the kernel reaches.
        past: the inputs before, (B, D, t), None for t = 0.
        x: the input now, (B, D).

    Returns the output now, (B, D), and the inputs that later outputs need, (B, D, at most K - 1 more).
    """
    window = x[..., None] if past is None else torch.cat([past, x[..., None]], dim=-1)
    window = window[..., -kernel.shape[-1] :]
    return (window.flip(-1) * kernel[:, : window.shape[-1]]).sum(-1), window
