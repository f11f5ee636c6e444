"""The convolutional form: T is Toeplitz."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from assay._errors import InputError
from assay.operators._dense import DenseOperator
from assay.operators._operator import SequenceOperator, check_finite, check_positions


class ConvolutionOperator(SequenceOperator):
    """`T_ij = h_{i-j}`: a causal convolution with the kernel h, (..., L). Raises `InputError` where it is not finite.

    >>> delay = ConvolutionOperator(torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 0.0]))
    >>> (delay.singular_values([1, 3, 5]) > 0.5).sum(-1).tolist()  # min(2, i, L - i)
    [1, 2, 1]
    """

    def __init__(self, kernel: Tensor) -> None:
        if kernel.ndim < 1 or kernel.shape[-1] < 1:
            raise InputError(f"kernel has shape {tuple(kernel.shape)}; expected (..., L)")
        check_finite(kernel=kernel)
        self.kernel = kernel

    @property
    def batch_shape(self) -> torch.Size:
        return self.kernel.shape[:-1]

    @property
    def length(self) -> int:
        return self.kernel.shape[-1]

    def apply(self, values: Tensor) -> Tensor:
        """By FFT in float64: O(L log L) a channel."""
        size = 2 * self.length
        kernel = torch.fft.rfft(self.kernel.double(), size)[..., None]
        y = torch.fft.irfft(kernel * torch.fft.rfft(values.double(), size, dim=-2), size, dim=-2)
        return y[..., : self.length, :].to(torch.promote_types(self.kernel.dtype, values.dtype))

    def to_dense(self) -> Tensor:
        lag = torch.arange(self.length, device=self.kernel.device)
        lag = lag[:, None] - lag
        return torch.where(lag >= 0, self.kernel[..., lag.clamp(min=0)], 0)

    def state_size(self, positions: Sequence[int]) -> Tensor:
        """i: a kernel of full length has no smaller state that would serve every input-independent kernel."""
        return torch.tensor(check_positions(positions, self.length))

    def singular_values(self, positions: Sequence[int]) -> Tensor:
        """Those of the Hankel blocks, formed densely: O(L min(i, L - i)^2) a position."""
        return DenseOperator(self.to_dense()).singular_values(positions)

    def window(self, start: int, stop: int) -> ConvolutionOperator:
        return ConvolutionOperator(self.kernel[..., : stop - start])

    def __getitem__(self, index: int | slice | tuple[int | slice, ...]) -> ConvolutionOperator:
        return ConvolutionOperator(self.kernel[index])

    def double(self) -> ConvolutionOperator:
        return ConvolutionOperator(self.kernel.double())
