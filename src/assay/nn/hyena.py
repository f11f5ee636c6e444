"""Hyena of order 2: a long convolution between two gates (Poli et al. 2023, arXiv 2302.10866)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from assay.nn._fft_convolution import convolution_step, fft_convolution
from assay.nn._long_filter import ImplicitFilter
from assay.nn._mixer import Mixer, merge_heads
from assay.nn._short_convolution import ShortConvolution
from assay.operators import ConvolutionOperator


class HyenaFeatures(NamedTuple):
    """values: (B, d_model, L, 1); input_gate, output_gate: (B, d_model, L)."""

    values: Tensor
    input_gate: Tensor
    output_gate: Tensor


class Hyena(Mixer):
    """`T_ij = x1_i h_{i-j} x2_j` for each channel: `W_out (x1 * (h conv (x2 * v)))`, with x1, x2 and v short
    convolutions (3 tokens) of projections, and h an implicit filter plus a learned number at lag 0.

    Args:
        d_model: width.
        num_heads: no effect (each channel has an operator).
        max_length: the length to which the filter's positions and window are scaled; see `ImplicitFilter`.

    Source: definition 3.1 with order 2, and section 3.3. The number at lag 0 is N(0, 1) at first. No finite state:
    `step` keeps every past value, O(t) each.
    """

    def __init__(self, d_model: int, *, num_heads: int = 4, max_length: int = 2048) -> None:
        super().__init__(d_model)
        del num_heads
        self.in_proj = nn.Linear(d_model, 3 * d_model)
        self.conv = ShortConvolution(3 * d_model, 3)
        self.filter = ImplicitFilter(d_model, max_length=max_length)
        self.skip = nn.Parameter(torch.randn(d_model))
        self.out_proj = nn.Linear(d_model, d_model)

    def kernel(self, length: int) -> Tensor:
        """h, (d_model, length)."""
        h = self.filter(length)
        return torch.cat([h[:, :1] + self.skip[:, None], h[:, 1:]], dim=-1)

    def features(self, x: Tensor) -> HyenaFeatures:
        output_gate, input_gate, values = self.conv(self.in_proj(x)).mT.chunk(3, dim=1)
        return HyenaFeatures(values[..., None], input_gate, output_gate)

    def mix(self, features: HyenaFeatures) -> Tensor:
        v = features.input_gate * features.values[..., 0]
        return (features.output_gate * fft_convolution(self.kernel(v.shape[-1]), v))[..., None]

    def to_operator(self, features: HyenaFeatures) -> ConvolutionOperator:
        kernel = self.kernel(features.values.shape[-2])
        return ConvolutionOperator(kernel, input_gate=features.input_gate, output_gate=features.output_gate)

    def finish(self, y: Tensor, features: HyenaFeatures) -> Tensor:
        return self.out_proj(merge_heads(y).to(features.values.dtype))

    def step(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The state: inputs of the short convolution, (B, 2, 3 d_model), and past values, (B, d_model, t)."""
        past, values = state or (None, None)
        projected, past = self.conv.step(self.in_proj(x), past)
        output_gate, input_gate, v = projected.chunk(3, dim=-1)
        length = 1 if values is None else values.shape[-1] + 1
        y, values = convolution_step(self.kernel(length), values, input_gate * v)
        return self.out_proj(output_gate * y), (past, values)
