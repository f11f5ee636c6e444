"""A long convolution and nothing else (Fu et al. 2023, arXiv 2302.06646)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from assay.nn._fft_convolution import convolution_step, fft_convolution
from assay.nn._long_filter import ExplicitFilter, ImplicitFilter
from assay.nn._mixer import Mixer, heads, merge_heads
from assay.operators import ConvolutionOperator


class LongConvolutionFeatures(NamedTuple):
    """values: (B, d_model, L, 1)."""

    values: Tensor


class LongConvolution(Mixer):
    """`W_out gelu(h conv u)`, one kernel h for each channel: an operator that does not depend on the input.

    Args:
        d_model: width.
        num_heads: no effect (each channel has an operator).
        implicit: h is a small network of the position, as in Hyena; otherwise a table of `max_length` numbers (the
            paper's form; 0 behind its end).
        max_length: length of the table, or to which the network's positions are scaled.

    No finite state: `step` keeps every past input within the kernel's reach.
    """

    def __init__(self, d_model: int, *, num_heads: int = 4, implicit: bool = True, max_length: int = 2048) -> None:
        super().__init__(d_model)
        del num_heads
        self.filter: ImplicitFilter | ExplicitFilter = (
            ImplicitFilter(d_model, max_length=max_length)
            if implicit
            else ExplicitFilter(d_model, max_length=max_length)
        )
        self.out_proj = nn.Linear(d_model, d_model)

    def features(self, x: Tensor) -> LongConvolutionFeatures:
        return LongConvolutionFeatures(heads(x, self.d_model))

    def mix(self, features: LongConvolutionFeatures) -> Tensor:
        v = features.values[..., 0]
        return fft_convolution(self.filter(v.shape[-1]), v)[..., None]

    def to_operator(self, features: LongConvolutionFeatures) -> ConvolutionOperator:
        batch, _, length, _ = features.values.shape
        return ConvolutionOperator(self.filter(length).expand(batch, -1, -1))

    def finish(self, y: Tensor, features: LongConvolutionFeatures) -> Tensor:
        return self.out_proj(nn.functional.gelu(merge_heads(y).to(features.values.dtype)))

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The state: past inputs, (B, d_model, t)."""
        length = 1 if state is None else state.shape[-1] + 1
        y, state = convolution_step(self.filter(length), state, x)
        return self.out_proj(nn.functional.gelu(y)), state
