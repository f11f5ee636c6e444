"""The selective state space of Mamba, whose states never exist for the whole sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from assay.nn._kernels import fused
from assay.nn._scan import run, scan

_CHUNK, _DEVICE_CHUNK = 2**18, 2**24  # numbers in a chunk's states: on a CPU a few such tensors fit into a core's cache


def selective_scan(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The state space of S6: `h_t = exp(delta_t A) h_{t-1} + delta_t x_t B_t,  y_t = C_t h_t` for each channel.

    Args:
        x: (..., L, D).
        delta: step sizes, (..., L, D), at least 0.
        A: (D, N), negative.
        B: (..., L, N), the same for all channels.
        C: (..., L, N), likewise.

    Returns y, (..., L, D), in the widest of the dtypes and at least float32. Differentiable once backward, and in
    forward mode. States (..., L, D, N) exist for one chunk of about 2^18 numbers at a time; the gradient computes them
    again from those at the starts of the chunks. On a GPU with `mamba-ssm` its kernel is used, see `assay.nn._kernels`.
    Source: Gu & Dao 2023 (arXiv 2312.00752), algorithm 2.
    """
    dtype = torch.float32
    for tensor in (x, delta, A, B, C):
        dtype = torch.promote_types(dtype, tensor.dtype)
    x, delta, A, B, C = (tensor.to(dtype) for tensor in (x, delta, A, B, C))
    if kernel := fused("selective_scan", x):
        return kernel(x, delta, A, B, C)
    return _SelectiveScan.apply(delta * x, delta, A, B, C)[0]  # type: ignore[no-untyped-call]


def _chunks(delta: Tensor, A: Tensor) -> list[slice]:
    """The sequence in slices."""
    length = delta.shape[-2]
    budget = _CHUNK if delta.device.type == "cpu" else _DEVICE_CHUNK
    step = min(length, max(1, budget // max(1, delta[..., 0, :].numel() * A.shape[-1])))
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def _states(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """exp(delta A) and h over a chunk: (..., L, D, N) each."""
    decay = torch.exp(delta[..., None] * A)
    inputs = u[..., None] * B[..., None, :]
    return decay, run(decay.flatten(-2), inputs.flatten(-2), start.flatten(-2)).unflatten(-1, A.shape)


class _SelectiveScan(torch.autograd.Function):
    """u = delta x, delta, A, B, C -> y and the states at the starts of the chunks, (chunks, ..., D, N)."""

    @staticmethod
    def forward(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
        state = u.new_zeros(*u.shape[:-2], *A.shape)
        y, starts = torch.empty_like(u), []
        for at in _chunks(delta, A):
            starts.append(state)
            _, h = _states(u[..., at, :], delta[..., at, :], A, B[..., at, :], state)
            y[..., at, :] = (h @ C[..., at, :, None]).squeeze(-1)
            state = h[..., -1, :, :].clone()
        return y, torch.stack(starts)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, output[1])
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, ...]:
        return _SelectiveScanGradient.apply(grad, *ctx.saved_tensors)  # type: ignore[no-untyped-call]

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, None]:
        inputs = ctx.saved_tensors
        u, delta, A, B, C = inputs
        du, ddelta, dA, dB, dC = (
            torch.zeros_like(t) if dt is None else dt for t, dt in zip(inputs, tangents, strict=True)
        )
        state = change = u.new_zeros(*u.shape[:-2], *A.shape)
        y = []
        for at in _chunks(delta, A):
            u_, delta_, B_, C_, du_, ddelta_, dB_, dC_ = (t[..., at, :] for t in (u, delta, B, C, du, ddelta, dB, dC))
            # `scan`, not `run`: under vmap the tangents carry a dimension that only it can see
            decay = torch.exp(delta_[..., None] * A)
            inputs_ = u_[..., None] * B_[..., None, :]
            h = scan(decay.flatten(-2), inputs_.flatten(-2), state.flatten(-2)).unflatten(-1, A.shape)
            before = torch.cat([state[..., None, :, :], h[..., :-1, :, :]], dim=-3)
            inputs_ = du_[..., None] * B_[..., None, :] + u_[..., None] * dB_[..., None, :]
            inputs_ = inputs_ + (ddelta_[..., None] * A + delta_[..., None] * dA) * decay * before
            dh = scan(decay.flatten(-2), inputs_.flatten(-2), change.flatten(-2)).unflatten(-1, A.shape)
            y.append((dh @ C_[..., None] + h @ dC_[..., None]).squeeze(-1))
            state, change = h[..., -1, :, :], dh[..., -1, :, :]
        return torch.cat(y, dim=-2), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        return _one_by_one(_SelectiveScan, info, in_dims, inputs), (0, 0)


class _SelectiveScanGradient(torch.autograd.Function):
    """The gradients of u, delta, A, B, C, chunk by chunk from the end."""

    @staticmethod
    def forward(
        grad: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, starts: Tensor
    ) -> tuple[Tensor, ...]:
        du, ddelta, dB, dC = (torch.empty_like(t) for t in (u, delta, B, C))
        dA = torch.zeros_like(A)
        carry = torch.zeros_like(starts[0])
        chunks = _chunks(delta, A)
        for at, start in reversed(list(zip(chunks, starts, strict=True))):
            u_, delta_, B_, C_, grad_ = (t[..., at, :] for t in (u, delta, B, C, grad))
            decay, h = _states(u_, delta_, A, B_, start)
            dC[..., at, :] = (grad_[..., None, :] @ h).squeeze(-2)
            dh = (grad_[..., None] * C_[..., None, :]).flatten(-2)
            dh = run(decay.flatten(-2), dh, carry.flatten(-2), backward=True).unflatten(-1, A.shape)
            carry = decay[..., 0, :, :] * dh[..., 0, :, :]
            du[..., at, :] = (dh @ B_[..., None]).squeeze(-1)
            dB[..., at, :] = (u_[..., None, :] @ dh).squeeze(-2)
            h[..., 1:, :, :] = h[..., :-1, :, :].clone()
            h[..., 0, :, :] = start
            moved = dh.mul_(h).mul_(decay)  # gradient of delta A
            ddelta[..., at, :] = (moved * A).sum(-1)
            dA += torch.einsum("...dn,...d->dn", moved, delta_)
        return du, ddelta, dA, dB, dC

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, ...]:
        raise NotImplementedError("selective_scan has no second derivative in reverse mode")

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Tensor) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        return _one_by_one(_SelectiveScanGradient, info, in_dims, inputs), (0,) * 5


def _one_by_one(function: Any, info: Any, in_dims: Any, inputs: tuple[Tensor, ...]) -> Any:
    """vmap as a loop: each entry is as large as the work can use."""
    results = [
        function.apply(*(t if d is None else t.select(d, k) for t, d in zip(inputs, in_dims, strict=True)))
        for k in range(info.batch_size)
    ]
    return tuple(torch.stack(parts) for parts in zip(*results, strict=True))
