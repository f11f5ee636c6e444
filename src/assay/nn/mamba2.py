"""Mamba-2: state-space duality."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from assay.nn._head_size import check_sizes, head_size
from assay.nn._kernels import fused
from assay.nn._linear_attention import linear_attention, linear_attention_step
from assay.nn._mixer import Mixer, heads, merge_heads
from assay.nn._norm import RMSNorm
from assay.nn._scan import at_least_float32
from assay.nn._short_convolution import ShortConvolution
from assay.operators import RecurrentOperator


class Mamba2Features(NamedTuple):
    """B, C: (B, 1, L, N), one for all heads; delta: (B, H, L, 1); values: x, (B, H, L, P); z: (B, L, H * P)."""

    B: Tensor
    C: Tensor
    delta: Tensor
    values: Tensor
    z: Tensor


class Mamba2(Mixer):
    """`h_t = exp(Delta_t A) h_{t-1} + Delta_t B_t x_t^T,  y_t = C_t^T h_t + D x_t` in each head, A < 0, D numbers; then
    `W_O RMSNorm(y o silu(z))`, with `Delta = softplus(W_Delta u + b)` and x, B, C = silu(conv(W u)).

    Source: Dao & Gu 2024 (arXiv 2405.21060), sections 6 and 7 and their code. Sizes: x and z of expand d_model, so
    P = expand d_model / num_heads; N = state_size; a convolution over conv_size tokens; N P numbers of state a head.
    T is post-update and includes D. Initialised as there: A uniform in 1..16, Delta log-uniform in 0.001..0.1, D = 1.
    Raises `InputError` where expand d_model is no multiple of num_heads, or state_size or conv_size is below 1.
    """

    def __init__(
        self, d_model: int, *, num_heads: int = 4, state_size: int = 128, conv_size: int = 4, expand: int = 2
    ) -> None:
        super().__init__(d_model)
        inner = expand * d_model
        head_size(inner, num_heads, of="expand * d_model")
        check_sizes(state_size=state_size, conv_size=conv_size)
        self.num_heads = num_heads
        self.sizes = [inner, inner + 2 * state_size, num_heads]
        self.convolved_sizes = [inner, state_size, state_size]
        self.in_proj = nn.Linear(d_model, sum(self.sizes), bias=False)
        self.conv = ShortConvolution(inner + 2 * state_size, conv_size, activation=nn.SiLU())
        low, high = math.log(1e-3), math.log(1e-1)
        delta = torch.exp(low + (high - low) * torch.rand(num_heads))
        self.dt_bias = nn.Parameter(delta + torch.log(-torch.expm1(-delta)))  # softplus of it is delta
        self.A_log = nn.Parameter(torch.empty(num_heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(num_heads))
        self.norm = RMSNorm(inner, eps=1e-5)
        self.out_proj = nn.Linear(inner, d_model, bias=False)

    def features(self, x: Tensor) -> Mamba2Features:
        z, convolved, delta = self.in_proj(x).split(self.sizes, dim=-1)
        return self._features(z, self.conv(convolved), delta)

    def _features(self, z: Tensor, convolved: Tensor, delta: Tensor) -> Mamba2Features:
        x, B, C = convolved.split(self.convolved_sizes, dim=-1)
        delta = softplus(at_least_float32(delta) + self.dt_bias)
        return Mamba2Features(B[:, None], C[:, None], delta.mT[..., None], heads(x, self.num_heads), z)

    def _log_decay(self, delta: Tensor) -> Tensor:
        return -self.A_log.exp()[:, None, None] * delta

    def mix(self, features: Mamba2Features) -> Tensor:
        B, C, delta, x, _ = features
        if kernel := fused("state_space_dual", x):
            y = kernel(C, B, x, delta, -self.A_log.exp())
        else:
            y = linear_attention(C, B, (delta * x).to(x.dtype), self._log_decay(delta))
        return y + (self.D[:, None, None] * x).to(y.dtype)

    def to_operator(self, features: Mamba2Features) -> RecurrentOperator:
        B, C, delta, _, _ = features
        return RecurrentOperator(self._log_decay(delta).exp(), delta * B, C, self.D[:, None])

    def finish(self, y: Tensor, features: Mamba2Features) -> Tensor:
        return self.out_proj(self.norm(merge_heads(y) * silu(features.z)))

    def step(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """State: h, (B, H, N, P), and the last conv_size - 1 inputs of the convolution."""
        before, past = state or (None, None)
        z, convolved, delta = self.in_proj(x).split(self.sizes, dim=-1)
        convolved, past = self.conv.step(convolved, past)
        features = self._features(*(t[:, None] for t in (z, convolved, delta)))
        B, C, delta, v = (t[:, :, 0] for t in features[:4])
        y, after = linear_attention_step(C, B, delta * v, self._log_decay(features.delta)[:, :, 0], before)
        y = y + self.D[:, None] * v
        return self.finish(y[:, :, None], features)[:, 0], (after, past)
