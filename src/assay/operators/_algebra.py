"""Sums and products of operators, in the form that keeps the most structure."""

from __future__ import annotations

import torch
from torch import Tensor

from assay._errors import InputError
from assay.operators._convolution import ConvolutionOperator
from assay.operators._dense import DenseOperator
from assay.operators._operator import SequenceOperator
from assay.operators._recurrent import RecurrentOperator


def add(one: SequenceOperator, other: SequenceOperator) -> SequenceOperator:
    """`T1 + T2` (in parallel). Two recurrences give one whose state holds both; two kernels add; otherwise dense."""
    _check(one, other)
    if isinstance(one, RecurrentOperator) and isinstance(other, RecurrentOperator):
        one, other = one.read_before_update(), other.read_before_update()
        A = (
            _side_by_side(one.A, other.A)
            if one.is_diagonal and other.is_diagonal
            else _block_triangular(_matrices(one), _matrices(other))
        )
        D = one.D + other.D  # type: ignore[operator]  # never None in this form
        return RecurrentOperator.pre_update(A, _side_by_side(one.B, other.B), _side_by_side(one.C, other.C), D)
    if _is_ungated(one) and _is_ungated(other):
        return ConvolutionOperator(one.kernel + other.kernel)  # type: ignore[attr-defined]
    return DenseOperator(one.to_dense() + other.to_dense())


def compose(outer: SequenceOperator, inner: SequenceOperator) -> SequenceOperator:
    """`T_outer T_inner` (in series, the inner one first), with the states one after the other.

    The inner recurrence's output is the outer one's input, so its state feeds the outer state.
    """
    _check(outer, inner)
    if isinstance(outer, RecurrentOperator) and isinstance(inner, RecurrentOperator):
        outer, inner = outer.read_before_update(), inner.read_before_update()
        D, E = outer.D[..., None], inner.D[..., None]  # type: ignore[index]
        feed = outer.B[..., :, None] * inner.C[..., None, :]
        A = _block_triangular(_matrices(inner), _matrices(outer), feed)
        B = _side_by_side(inner.B, outer.B * E)
        C = _side_by_side(D * inner.C, outer.C)
        return RecurrentOperator.pre_update(A, B, C, (D * E)[..., 0])
    if _is_ungated(outer) and _is_ungated(inner):
        return ConvolutionOperator(outer.apply(inner.kernel[..., None])[..., 0])  # type: ignore[attr-defined]
    return DenseOperator(outer.to_dense() @ inner.to_dense())


def _check(one: SequenceOperator, other: SequenceOperator) -> None:
    if one.length != other.length:
        raise InputError(f"operators have lengths {one.length} and {other.length}; expected the same length")
    for operator in (one, other):
        if operator.channels > 1:
            raise InputError(
                f"{operator!r} mixes {operator.channels} channels; expected one. Linearise the sum or the composed "
                "module instead, as in JacobianOperator(nn.Sequential(f, g), x)"
            )


def _is_ungated(operator: SequenceOperator) -> bool:
    return isinstance(operator, ConvolutionOperator) and operator.input_gate is None and operator.output_gate is None


def _matrices(operator: RecurrentOperator) -> Tensor:
    A = operator.transitions()
    return torch.diag_embed(A) if operator.is_diagonal else A


def _side_by_side(one: Tensor, other: Tensor) -> Tensor:
    """(..., N), (..., M) -> (..., N + M), batch dimensions expanded."""
    shape = torch.broadcast_shapes(one.shape[:-1], other.shape[:-1])
    return torch.cat([one.expand(*shape, -1), other.expand(*shape, -1)], dim=-1)


def _block_triangular(first: Tensor, second: Tensor, feed: Tensor | None = None) -> Tensor:
    """[[first, 0], [feed, second]]."""
    n, m = first.shape[-1], second.shape[-1]
    shape = torch.broadcast_shapes(first.shape[:-2], second.shape[:-2])
    A = first.new_zeros(*shape, n + m, n + m, dtype=torch.promote_types(first.dtype, second.dtype))
    A[..., :n, :n], A[..., n:, n:] = first, second
    if feed is not None:
        A[..., n:, :n] = feed
    return A
