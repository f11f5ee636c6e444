"""Element-wise linear recurrences, `h_t = a_t h_{t-1} + b_t`, with gradients.

Products of decays are formed step by step and never as ratios of cumulative products, so a decay of exactly 0 and
products that underflow are harmless: they end in 0. Both directions of the recurrence are one function,
because each is the gradient of the other.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

# Steps of as many numbers cost more than it costs to start them, so that nothing is gained by taking several at once
_LARGE_CPU, _LARGE_DEVICE = 2**10, 2**20


def at_least_float32(x: Tensor) -> Tensor:
    """x, in float32 where it is narrower: decays near 1 do not survive in 8 bits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def scan(decay: Tensor, inputs: Tensor, initial: Tensor | None = None) -> Tensor:
    """`h_t = decay_t h_{t-1} + inputs_t` along the last dimension but one.

    Args:
        decay: a, (..., L, C) or of a shape that expands to it; any number, 0 included (growth above 1 is not hindered).
        inputs: b, (..., L, C).
        initial: h_{-1}, (..., C); None for 0.

    Returns h, (..., L, C), in the wider of the two dtypes and at least float32. Differentiable any number of times,
    in both modes. Complexity: O(L C) numbers; the Python loop has L steps where one step is large, O(sqrt(L)) where it
    is small. Kept for the gradient: decay and h.
    """
    dtype = torch.promote_types(torch.promote_types(decay.dtype, inputs.dtype), torch.float32)
    decay, inputs = torch.broadcast_tensors(decay.to(dtype), inputs.to(dtype))
    if initial is not None:
        first = inputs[..., :1, :] + decay[..., :1, :] * initial[..., None, :]
        inputs = torch.cat([first, inputs[..., 1:, :]], dim=-2)
    return _Scan.apply(decay, inputs, False)  # type: ignore[no-untyped-call]


class _Scan(torch.autograd.Function):
    """`h_t = b_t + a_t h_{t-1}`, or backward `h_t = b_t + a_{t+1} h_{t+1}`: adjoint to each other in b."""

    @staticmethod
    def forward(decay: Tensor, inputs: Tensor, backward: bool) -> Tensor:
        return run(decay, inputs, None, backward=backward)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        decay, _, ctx.backward_in_time = inputs
        ctx.save_for_backward(decay, output)
        ctx.save_for_forward(decay, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None]:
        decay, h = ctx.saved_tensors
        g = _Scan.apply(decay, grad, not ctx.backward_in_time)  # type: ignore[no-untyped-call]
        if not ctx.needs_input_grad[0]:
            return None, g, None
        return (_later(g) * h if ctx.backward_in_time else g * _later(h)), g, None

    @staticmethod
    def jvp(ctx: Any, decay_tangent: Tensor | None, inputs_tangent: Tensor | None, _: None) -> Tensor:
        decay, h = ctx.saved_tensors
        change = torch.zeros_like(h) if inputs_tangent is None else inputs_tangent
        if decay_tangent is not None:
            moved = _earlier(decay_tangent * h) if ctx.backward_in_time else decay_tangent * _later(h)
            change = change + moved
        return _Scan.apply(decay, change, ctx.backward_in_time)  # type: ignore[no-untyped-call]

    @staticmethod
    def vmap(info: Any, in_dims: Any, decay: Tensor, inputs: Tensor, backward: bool) -> tuple[Tensor, int]:
        front = [
            t.expand(info.batch_size, *t.shape) if d is None else t.movedim(d, 0)
            for t, d in zip((decay, inputs), in_dims, strict=False)
        ]
        return _Scan.apply(*front, backward), 0  # type: ignore[no-untyped-call]


def _later(h: Tensor) -> Tensor:
    """h_{t-1} at t, 0 at the start."""
    return torch.nn.functional.pad(h[..., :-1, :], (0, 0, 1, 0))


def _earlier(h: Tensor) -> Tensor:
    """h_{t+1} at t, 0 at the end."""
    return torch.nn.functional.pad(h[..., 1:, :], (0, 0, 0, 1))


def run(decay: Tensor, inputs: Tensor, initial: Tensor | None, *, backward: bool = False) -> Tensor:
    """The recurrence itself, without gradients: (..., L, C) twice and h_{-1}, (..., C) -> h, (..., L, C).

    Backward: `h_t = b_t + a_{t+1} h_{t+1}` with `h_{L-1} = b_{L-1} + initial`.
    """
    length, channels = inputs.shape[-2:]
    width = inputs.numel() // length
    large = _LARGE_CPU if inputs.device.type == "cpu" else _LARGE_DEVICE
    chunks = 1 if width >= large else min(math.isqrt(length), 16 * large // max(1, width))
    if initial is None:
        initial = inputs.new_zeros(*inputs.shape[:-2], channels)
    order = slice(None, None, -1) if backward else slice(None)
    if chunks <= 1:
        a = decay.unbind(-2)
        h = torch.empty(inputs.shape, dtype=inputs.dtype, device=inputs.device)
        one = torch.ones_like(a[0][..., :1])
        _steps([one, *a[:0:-1]] if backward else a, inputs.unbind(-2)[order], h.unbind(-2)[order], initial)
        return h

    # Chunks side by side from a state of 0, then the states between chunks, then what they add within
    step = -(-length // chunks)
    if backward:
        decay = torch.cat([decay[..., 1:, :], torch.ones_like(decay[..., :1, :])], dim=-2)
    padding = (0, 0, 0, chunks * step - length)  # steps behind the end that change nothing: a = 1, b = 0
    a = torch.nn.functional.pad(decay, padding, value=1.0).unflatten(-2, (chunks, step))
    b = torch.nn.functional.pad(inputs, padding).unflatten(-2, (chunks, step))
    h, product = (torch.empty(b.shape, dtype=b.dtype, device=b.device) for _ in range(2))
    zero = torch.zeros_like(b[..., 0, :])
    _steps(a.unbind(-2)[order], b.unbind(-2)[order], h.unbind(-2)[order], zero)
    _steps(a.unbind(-2)[order], [zero] * step, product.unbind(-2)[order], torch.ones_like(zero))
    entering, last = initial, []
    for k in range(chunks)[order]:
        last.append(entering)
        end = 0 if backward else step - 1
        entering = torch.addcmul(h[..., k, end, :], product[..., k, end, :], entering)
    h.addcmul_(product, torch.stack(last[order], dim=-2)[..., None, :])
    return h.flatten(-3, -2)[..., :length, :]


def _steps(decay: Any, inputs: Any, outputs: Any, state: Tensor) -> None:
    for a, b, h in zip(decay, inputs, outputs, strict=True):
        torch.addcmul(b, a, state, out=h)
        state = h
