"""Mamba: a selective state space for each channel (Gu & Dao 2023, arXiv 2312.00752)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from assay.nn._head_size import check_sizes
from assay.nn._mixer import Mixer, heads, merge_heads
from assay.nn._scan import at_least_float32
from assay.nn._selective_scan import selective_scan
from assay.nn._short_convolution import ShortConvolution
from assay.operators import RecurrentOperator


class MambaFeatures(NamedTuple):
    """values: (B, d_inner, L, 1); delta, gate: (B, L, d_inner); B, C: (B, L, N)."""

    values: Tensor
    delta: Tensor
    B: Tensor
    C: Tensor
    gate: Tensor


class Mamba(Mixer):
    """The Mamba block: `W_out (S6(silu(conv(W_x u))) * silu(W_z u))`, with S6, for each of d_inner channels:

    `h_t = exp(Delta_t A) h_{t-1} + Delta_t B_t x_t,  y_t = C_t h_t + D x_t`, Delta = softplus(low-rank(x) + bias),
    B and C linear in x and shared by the channels.

    Args:
        d_model: width.
        num_heads: no effect (each inner channel has an operator).
        state_size: N.
        expand: d_inner / d_model.
        conv_size: kernel of the short convolution.

    Sizes and initialisation of the paper (section 3.6): A = -(1..N), D = 1, rank of Delta ceil(d_model / 16), Delta
    log-uniform in [0.001, 0.1] at u = 0. `mix` holds the states of a chunk at a time.
    """

    def __init__(
        self, d_model: int, *, num_heads: int = 4, state_size: int = 16, expand: int = 2, conv_size: int = 4
    ) -> None:
        super().__init__(d_model)
        del num_heads
        check_sizes(d_model=d_model, state_size=state_size, expand=expand, conv_size=conv_size)
        self.d_inner, self.state_size, self.rank = expand * d_model, state_size, math.ceil(d_model / 16)
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=False)
        self.conv = ShortConvolution(self.d_inner, conv_size, activation=nn.SiLU())
        self.x_proj = nn.Linear(self.d_inner, self.rank + 2 * state_size, bias=False)
        self.dt_proj = nn.Linear(self.rank, self.d_inner)
        self.A_log = nn.Parameter(torch.arange(1.0, state_size + 1).log().repeat(self.d_inner, 1))
        self.D = nn.Parameter(torch.ones(self.d_inner))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)

        nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
        delta = torch.empty(self.d_inner).uniform_(math.log(1e-3), math.log(1e-1)).exp()
        with torch.no_grad():
            self.dt_proj.bias.copy_(delta + torch.log(-torch.expm1(-delta)))  # the inverse of softplus

    def features(self, x: Tensor) -> MambaFeatures:
        u, gate = self.in_proj(x).chunk(2, dim=-1)
        return self._select(self.conv(u), gate)

    def _select(self, u: Tensor, gate: Tensor) -> MambaFeatures:
        low, B, C = at_least_float32(self.x_proj(u)).split([self.rank, self.state_size, self.state_size], dim=-1)
        delta = nn.functional.softplus(at_least_float32(self.dt_proj(low.to(u.dtype))))
        return MambaFeatures(heads(u, self.d_inner), delta, B, C, gate)

    def mix(self, features: MambaFeatures) -> Tensor:
        x = at_least_float32(merge_heads(features.values))
        y = selective_scan(x, features.delta, -at_least_float32(self.A_log).exp(), features.B, features.C)
        return heads(y + self.D * x, self.d_inner)

    def to_operator(self, features: MambaFeatures) -> RecurrentOperator:
        delta = features.delta.mT[..., None]
        skip = self.D[:, None].expand(delta.shape[:-1])
        A = torch.exp(-delta * at_least_float32(self.A_log).exp()[:, None])
        return RecurrentOperator(A, delta * features.B[:, None], features.C[:, None], skip)

    def finish(self, y: Tensor, features: MambaFeatures) -> Tensor:
        y = merge_heads(y).to(features.gate.dtype)
        return self.out_proj(y * nn.functional.silu(features.gate))

    def step(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The state: inputs of the short convolution, (B, conv_size - 1, d_inner), and h, (B, d_inner, N)."""
        past, h = state or (None, None)
        u, gate = self.in_proj(x).chunk(2, dim=-1)
        u, past = self.conv.step(u, past)
        features = self._select(u[:, None], gate[:, None])
        delta, B, C = features.delta[:, 0, :, None], features.B[:, 0, None], features.C[:, 0, None]
        moved = 0 if h is None else torch.exp(-delta * at_least_float32(self.A_log).exp()) * h
        h = moved + delta * B * u[..., None]
        y = (h * C).sum(-1) + self.D * u
        return self.finish(heads(y[:, None], self.d_inner), features)[:, 0], (past, h)
