"""S4D: a time-invariant diagonal state space for each channel (Gu et al. 2022, arXiv 2206.11893)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from assay.nn._diagonal_ssm import DiagonalStateSpace
from assay.nn._fft_convolution import fft_convolution
from assay.nn._mixer import Mixer, heads, merge_heads
from assay.operators import RecurrentOperator


class S4DFeatures(NamedTuple):
    """values: (B, d_model, L, 1)."""

    values: Tensor


class S4D(Mixer):
    """`h_t = exp(dt A) h_{t-1} + ((exp(dt A) - 1) / A) u_t,  y_t = Re(C h_t) + D u_t` for each channel, then
    `glu(W gelu(y))`.

    Args:
        d_model: width; each channel has an operator.
        num_heads: no effect (each channel is one).
        state_size: N, real numbers of state a channel; even for "lin". Default: the paper's 64.
        init: "lin" for conjugate pairs `-1/2 + i pi n`, "real" for `-(n + 1)`; see `DiagonalStateSpace`.

    The values are the input itself. `mix` is a convolution by FFT, O(L log L); the operator is the recurrence, so its
    state size is N. The block around it follows section 5 of the paper.
    """

    def __init__(self, d_model: int, *, num_heads: int = 4, state_size: int = 64, init: str = "lin") -> None:
        super().__init__(d_model)
        del num_heads
        self.ssm = DiagonalStateSpace(d_model, state_size=state_size, init=init)
        self.out_proj = nn.Linear(d_model, 2 * d_model)

    def features(self, x: Tensor) -> S4DFeatures:
        return S4DFeatures(heads(x, self.d_model))

    def mix(self, features: S4DFeatures) -> Tensor:
        u = features.values[..., 0]
        return fft_convolution(self.ssm.kernel(u.shape[-1]), u)[..., None]

    def to_operator(self, features: S4DFeatures) -> RecurrentOperator:
        A, B, C = self.ssm.realisation()
        shape = features.values.shape[:-1]  # (B, D, L)
        B, C = (t[:, None].expand(*shape, -1) for t in (B, C))
        return RecurrentOperator(A[None, :, None], B, C, self.ssm.D[:, None].expand(shape))

    def finish(self, y: Tensor, features: S4DFeatures) -> Tensor:
        y = merge_heads(y).to(features.values.dtype)
        return nn.functional.glu(self.out_proj(nn.functional.gelu(y)), dim=-1)

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The state: that of the modes, (B, d_model, modes), complex for "lin"."""
        y, state = self.ssm.step(x, state)
        y = y.to(x.dtype)
        return nn.functional.glu(self.out_proj(nn.functional.gelu(y)), dim=-1), state
