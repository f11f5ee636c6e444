"""BaseConv: the least gated convolution (Arora et al. 2023, arXiv 2312.04927)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from assay._errors import InputError
from assay.nn._fft_convolution import convolution_step, fft_convolution
from assay.nn._long_filter import ExplicitFilter, ImplicitFilter
from assay.nn._mixer import Mixer, heads, merge_heads
from assay.operators import ConvolutionOperator


class BaseConvFeatures(NamedTuple):
    """values: (B, d_model, L, 1); gate: (B, L, d_model)."""

    values: Tensor
    gate: Tensor


class BaseConv(Mixer):
    """`y = (W u + b1) * (h conv u + b2)`, one kernel h for each channel. T is the convolution; b2 comes after it.

    Args:
        d_model: width.
        num_heads: no effect (each channel has an operator).
        kernel_size: tokens that h sees; None for all, with an implicit filter. The paper alternates 3 and None.
        max_length: the length to which the implicit filter's positions are scaled.

    Source: section 4.2 (equation 2); the residual there is left to the block. A short h is U(-1/sqrt(K), 1/sqrt(K)).
    `step` keeps the past inputs within the kernel's reach.
    """

    def __init__(
        self, d_model: int, *, num_heads: int = 4, kernel_size: int | None = None, max_length: int = 2048
    ) -> None:
        super().__init__(d_model)
        del num_heads
        if kernel_size is not None and kernel_size < 1:
            raise InputError(f"kernel_size is {kernel_size}; expected at least 1, or None for all tokens")
        self.filter: ImplicitFilter | ExplicitFilter
        if kernel_size is None:
            self.filter = ImplicitFilter(d_model, max_length=max_length)
        else:
            self.filter = ExplicitFilter(d_model, max_length=kernel_size)
            nn.init.uniform_(self.filter.kernel, -(kernel_size**-0.5), kernel_size**-0.5)
        self.bias = nn.Parameter(torch.zeros(d_model))
        self.gate_proj = nn.Linear(d_model, d_model)

    def features(self, x: Tensor) -> BaseConvFeatures:
        return BaseConvFeatures(heads(x, self.d_model), self.gate_proj(x))

    def mix(self, features: BaseConvFeatures) -> Tensor:
        v = features.values[..., 0]
        return fft_convolution(self.filter(v.shape[-1]), v)[..., None]

    def to_operator(self, features: BaseConvFeatures) -> ConvolutionOperator:
        batch, _, length, _ = features.values.shape
        return ConvolutionOperator(self.filter(length).expand(batch, -1, -1))

    def finish(self, y: Tensor, features: BaseConvFeatures) -> Tensor:
        return features.gate * (merge_heads(y).to(features.gate.dtype) + self.bias)

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The state: past inputs, (B, d_model, t)."""
        length = 1 if state is None else state.shape[-1] + 1
        y, state = convolution_step(self.filter(length), state, x)
        return self.gate_proj(x) * (y + self.bias), state
