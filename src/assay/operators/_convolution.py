"""The convolutional form: T is Toeplitz, or Toeplitz between two gates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from assay._errors import InputError
from assay.operators._dense import DenseOperator
from assay.operators._operator import SequenceOperator, check_finite, check_fits, check_positions
from assay.operators._spectrum import singular_values


class ConvolutionOperator(SequenceOperator):
    """`T_ij = c_i h_{i-j} b_j`: a causal convolution with the kernel h, between gates on its output and input.

    Args:
        kernel: h, (..., L).
        input_gate: b, (..., L), or None for 1.
        output_gate: c, (..., L), or None for 1.

    Raises `InputError` where one of them is not finite, or shapes disagree.

    >>> delay = ConvolutionOperator(torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 0.0]))
    >>> (delay.hankel_singular_values([1, 3, 5]) > 0.5).sum(-1).tolist()  # min(2, i, L - i)
    [1, 2, 1]
    """

    def __init__(self, kernel: Tensor, *, input_gate: Tensor | None = None, output_gate: Tensor | None = None) -> None:
        if kernel.ndim < 1 or kernel.shape[-1] < 1:
            raise InputError(f"kernel has shape {tuple(kernel.shape)}; expected (..., L)")
        given = {"kernel": kernel, "input_gate": input_gate, "output_gate": output_gate}
        tensors = {name: tensor for name, tensor in given.items() if tensor is not None}
        try:
            shape = torch.broadcast_shapes(*(tensor.shape for tensor in tensors.values()))
        except RuntimeError:
            shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
            raise InputError(f"shapes disagree: {shapes}; expected (..., L) each") from None
        check_finite(**tensors)
        self.kernel = kernel.expand(shape)
        self.input_gate = None if input_gate is None else input_gate.expand(shape)
        self.output_gate = None if output_gate is None else output_gate.expand(shape)

    @property
    def batch_shape(self) -> torch.Size:
        return self.kernel.shape[:-1]

    @property
    def length(self) -> int:
        return self.kernel.shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        return self.kernel.dtype

    def apply(self, values: Tensor) -> Tensor:
        """By FFT in float64: O(L log L) a channel."""
        dtype = torch.promote_types(self.kernel.dtype, values.dtype)
        size = 2 * self.length
        v = values.double() if self.input_gate is None else self.input_gate.double()[..., None] * values.double()
        kernel = torch.fft.rfft(self.kernel.double(), size)[..., None]
        y = torch.fft.irfft(kernel * torch.fft.rfft(v, size, dim=-2), size, dim=-2)[..., : self.length, :]
        return (y if self.output_gate is None else self.output_gate.double()[..., None] * y).to(dtype)

    def to_dense(self) -> Tensor:
        """O(L^2). Raises `InputError` where T is larger than the free memory."""
        check_fits("T", *self.batch_shape, self.length, self.length, itemsize=self.dtype.itemsize)
        lag = torch.arange(self.length, device=self.kernel.device)
        lag = lag[:, None] - lag
        T = torch.where(lag >= 0, self.kernel[..., lag.clamp(min=0)], 0)
        if self.input_gate is not None:
            T = T * self.input_gate[..., None, :]
        return T if self.output_gate is None else self.output_gate[..., :, None] * T

    def state_size(self, positions: Sequence[int]) -> Tensor:
        """min(i, K - 1): the past values that a kernel reaching K - 1 steps back still needs."""
        at = torch.tensor(check_positions(positions, self.length))
        return at.clamp(max=self._reach())

    def _reach(self) -> int:
        """The largest lag at which any kernel of the batch is not 0."""
        used = (self.kernel != 0).reshape(-1, self.length).any(0).nonzero()
        return int(used[-1]) if len(used) else 0

    def hankel_singular_values(self, positions: Sequence[int]) -> Tensor:
        """O(K^3) a position for a kernel that reaches K < L / 2 steps back: the rest of a block is 0. Else as T."""
        positions = check_positions(positions, self.length)
        reach = self._reach()
        if 2 * reach >= self.length:
            return DenseOperator(self.to_dense()).hankel_singular_values(positions)
        # row i + r and column i - 1 - s of T are r + s + 1 steps apart
        step = torch.arange(reach, device=self.kernel.device)
        lag = step[:, None] + step + 1
        kernel = torch.where(lag <= reach, self.kernel[..., lag.clamp(max=reach)], 0).double()  # (..., R, R)
        at = torch.tensor(positions, dtype=torch.long, device=self.kernel.device)[:, None]
        ones = torch.ones_like(self.kernel)
        c, b = (ones if gate is None else gate for gate in (self.output_gate, self.input_gate))
        rows = torch.nn.functional.pad(c, (0, reach))[..., at + step].double()  # (..., P, R), 0 outside
        columns = torch.nn.functional.pad(b, (reach, 0))[..., at - 1 - step + reach].double()
        return singular_values(rows[..., :, None] * kernel[..., None, :, :] * columns[..., None, :])

    def window(self, start: int, stop: int) -> ConvolutionOperator:
        gates = (None if g is None else g[..., start:stop] for g in (self.input_gate, self.output_gate))
        return self._like(self.kernel[..., : stop - start], *gates)

    def __getitem__(self, index: int | slice | tuple[int | slice, ...]) -> ConvolutionOperator:
        return self._like(*(None if t is None else t[index] for t in self._tensors()))

    def double(self) -> ConvolutionOperator:
        return self._like(*(None if t is None else t.double() for t in self._tensors()))

    def _tensors(self) -> tuple[Tensor | None, ...]:
        return self.kernel, self.input_gate, self.output_gate

    def _like(
        self, kernel: Tensor | None, input_gate: Tensor | None, output_gate: Tensor | None
    ) -> ConvolutionOperator:
        assert kernel is not None
        return ConvolutionOperator(kernel, input_gate=input_gate, output_gate=output_gate)
