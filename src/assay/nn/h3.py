"""H3: a shift, a product, a diagonal state space, a product (Fu et al. 2023, arXiv 2212.14052)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from assay.nn._diagonal_ssm import DiagonalStateSpace
from assay.nn._fft_convolution import fft_convolution
from assay.nn._head_size import check_sizes
from assay.nn._mixer import Mixer, merge_heads
from assay.nn._short_convolution import ShortConvolution
from assay.operators import RecurrentOperator


class H3Features(NamedTuple):
    """values: (B, d_model, L, 1); query, key (after the shift): (B, d_model, L)."""

    values: Tensor
    query: Tensor
    key: Tensor


class H3(Mixer):
    """`T_ij = q_i h_{i-j} kbar_j` for each channel: `W_out (q * SSM_diag(SSM_shift(k) * v))`, q, k, v linear in u.

    Args:
        d_model: width.
        num_heads: no effect (each channel is a head of size 1, the paper's default).
        state_size: N of the diagonal state space, even; initialised as S4D-Lin (see `DiagonalStateSpace`).
        shift_size: state of the shift: kbar sees the last `shift_size` tokens.

    Source: section 3 and algorithm 1. A shift state space is a convolution of `shift_size` free numbers, and is written
    as one. The operator is the recurrence, so its state size is N; `mix` is a convolution by FFT.
    """

    def __init__(self, d_model: int, *, num_heads: int = 4, state_size: int = 64, shift_size: int = 64) -> None:
        super().__init__(d_model)
        del num_heads
        check_sizes(d_model=d_model, shift_size=shift_size)
        self.in_proj = nn.Linear(d_model, 3 * d_model)
        self.shift = ShortConvolution(d_model, shift_size, bias=False)
        self.ssm = DiagonalStateSpace(d_model, state_size=state_size, init="lin")
        self.out_proj = nn.Linear(d_model, d_model)

    def features(self, x: Tensor) -> H3Features:
        query, key, values = self.in_proj(x).chunk(3, dim=-1)
        return H3Features(values.mT[..., None], query.mT, self.shift(key).mT)

    def mix(self, features: H3Features) -> Tensor:
        v = features.key * features.values[..., 0]
        return (features.query * fft_convolution(self.ssm.kernel(v.shape[-1]), v))[..., None]

    def to_operator(self, features: H3Features) -> RecurrentOperator:
        A, B, C = self.ssm.realisation()
        query, key = features.query[..., None], features.key[..., None]
        through = features.query * features.key * self.ssm.D[:, None]
        return RecurrentOperator(A[None, :, None], key * B[:, None], query * C[:, None], through)

    def finish(self, y: Tensor, features: H3Features) -> Tensor:
        return self.out_proj(merge_heads(y).to(features.values.dtype))

    def step(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The state: keys the shift still needs, (B, shift_size - 1, d_model), and modes, (B, d_model, N / 2)."""
        keys, modes = state or (None, None)
        query, key, v = self.in_proj(x).chunk(3, dim=-1)
        key, keys = self.shift.step(key, keys)
        y, modes = self.ssm.step(key * v, modes)
        return self.out_proj((query * y).to(x.dtype)), (keys, modes)
