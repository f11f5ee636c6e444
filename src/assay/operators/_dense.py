"""The dense form: T as a matrix, as attention weights give it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from assay._errors import InputError
from assay.operators._cores import low_rank_spectra
from assay.operators._everywhere import counts_everywhere, pays
from assay.operators._operator import SequenceOperator, check_finite, check_positions
from assay.operators._spectrum import in_parallel, singular_values


class Counts(NamedTuple):
    """Singular values above a tolerance: `counts` (..., P), float64, and the `method` that found them."""

    counts: Tensor
    method: str


class DenseOperator(SequenceOperator):
    """A causal matrix T.

    Args:
        matrix: (..., L, L), lower-triangular.
        window: width of a sliding window, for the state size; None for all positions.

    Raises `InputError` for a matrix that is not square, not finite, or not causal (an entry above the diagonal larger
    than 1e-12 of the largest).

    >>> T = torch.ones(4, 4).tril()  # a cumulative sum needs one number of state
    >>> DenseOperator(T).hankel_singular_values([2])[0, 0].item()  # sqrt(i (L - i))
    2.0
    """

    def __init__(self, matrix: Tensor, *, window: int | None = None) -> None:
        if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2] or matrix.shape[-1] < 1:
            raise InputError(f"matrix has shape {tuple(matrix.shape)}; expected (..., L, L)")
        check_finite(matrix=matrix)
        above = matrix.triu(1)
        if bool(above.any()) and above.abs().max() > 1e-12 * matrix.abs().max():
            raise InputError("matrix is not causal: it has entries above the diagonal")
        self.matrix = matrix
        self.attention_window = window

    @property
    def batch_shape(self) -> torch.Size:
        return self.matrix.shape[:-2]

    @property
    def length(self) -> int:
        return self.matrix.shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        return self.matrix.dtype

    def apply(self, values: Tensor) -> Tensor:
        dtype = torch.promote_types(self.matrix.dtype, values.dtype)
        return self.matrix.to(dtype) @ values.to(dtype)

    def to_dense(self) -> Tensor:
        return self.matrix

    def state_size(self, positions: Sequence[int]) -> Tensor:
        """i for the trivial realisation that keeps every past value; at most window - 1 with a sliding window."""
        size = torch.tensor(check_positions(positions, self.length))
        return size if self.attention_window is None else size.clamp(max=self.attention_window - 1)

    def hankel_singular_values(self, positions: Sequence[int]) -> Tensor:
        """O(L min(i, L - i)^2) a position; where blocks have a low rank r to rounding, O(L^2 r) for each 16 of many."""
        positions = check_positions(positions, self.length)
        flat = self.matrix.reshape(-1, self.length, self.length)
        found = low_rank_spectra(flat, positions)
        if found is not None:
            return found.reshape(*self.batch_shape, *found.shape[1:])
        return self._spectra(positions, gram=False)

    def approximate_singular_values(self, positions: Sequence[int]) -> Tensor:
        """As `hankel_singular_values` but from float64 Gram matrices: below 1e-6 of the largest they are noise."""
        return self._spectra(check_positions(positions, self.length), gram=True)

    def count_singular_values(self, tolerance: float, positions: Sequence[int]) -> Counts:
        """How many singular values of `T[i:, :i]` are above the tolerance (absolute) at each position, exactly.

        By inertia, O(L^3) for all positions together, and by a spectrum where a sign is too close to call, as happens
        where the tolerance is below about 1e-6 of the largest singular value: `method` is "inertia", "spectra", or
        "inertia, spectra at K of P positions". At few positions their spectra are cheaper, and used. NaN where no
        routine converges. Raises `InputError` unless tolerance > 0, and for a position outside 1..L-1.
        """
        positions = check_positions(positions, self.length)
        if not tolerance > 0:
            raise InputError(f"tolerance is {tolerance}; expected a number above 0, such as 1e-3")
        shape = (*self.batch_shape, len(positions))
        counts = self.matrix.new_full(shape, torch.nan, dtype=torch.float64)
        if pays(positions, self.length, shifts=1):
            counts = counts_everywhere(self.matrix, tolerance)[..., [i - 1 for i in positions]]
        left = counts.isnan()
        wanted = left.reshape(-1, len(positions)).any(0).nonzero().flatten().tolist()
        if wanted:
            sigma = self.hankel_singular_values([positions[k] for k in wanted])
            exact = torch.where(sigma.isnan().any(-1), torch.nan, (sigma > tolerance).sum(-1).double())
            counts[..., wanted] = torch.where(left[..., wanted], exact, counts[..., wanted])
        if not wanted:
            return Counts(counts, "inertia")
        some = f"inertia, spectra at {len(wanted)} of {len(positions)} positions"
        return Counts(counts, "spectra" if len(wanted) == len(positions) else some)

    def _spectra(self, positions: list[int], *, gram: bool) -> Tensor:
        def spectrum(i: int) -> Tensor:
            values = singular_values(self.matrix[..., i:, :i], gram=gram)
            return torch.nn.functional.pad(values, (0, self.length // 2 - values.shape[-1]))

        # large problems first, so that no worker is left with one at the end
        order = sorted(range(len(positions)), key=lambda k: -min(positions[k], self.length - positions[k]))
        found = in_parallel(spectrum, [positions[k] for k in order], device=self.matrix.device)
        back = sorted(range(len(order)), key=order.__getitem__)
        if not found:
            return self.matrix.new_zeros(*self.batch_shape, 0, self.length // 2, dtype=torch.float64)
        return torch.stack([found[k] for k in back], dim=-2)

    def window(self, start: int, stop: int) -> DenseOperator:
        return self._like(self.matrix[..., start:stop, start:stop])

    def __getitem__(self, index: int | slice | tuple[int | slice, ...]) -> DenseOperator:
        return self._like(self.matrix[index])

    def double(self) -> DenseOperator:
        return self._like(self.matrix.double())

    def _like(self, matrix: Tensor) -> DenseOperator:
        operator = DenseOperator.__new__(DenseOperator)  # a part of what was checked already
        operator.matrix, operator.attention_window = matrix, self.attention_window
        return operator
