"""RG-LRU: Griffin's real-gated linear recurrent unit, in its block (De et al. 2024, arXiv 2402.19427)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from assay.nn._head_size import head_size
from assay.nn._mixer import Mixer, heads, merge_heads
from assay.nn._scan import at_least_float32, scan
from assay.nn._short_convolution import ShortConvolution
from assay.operators import RecurrentOperator

_C = 8.0  # the exponent of section 2.4


class RGLRUFeatures(NamedTuple):
    """values: (B, d_model, L, 1); decay, scale, gate: (B, L, d_model)."""

    values: Tensor
    decay: Tensor
    scale: Tensor
    gate: Tensor


class RGLRU(Mixer):
    """Griffin's recurrent block: `W_out (RG-LRU(conv(W_x u)) * gelu(W_y u))`, with, for each channel,

    `h_t = a_t h_{t-1} + sqrt(1 - a_t^2) i_t x_t,  a_t = exp(-8 softplus(Lambda) r_t)`, gates r and i sigmoids of
    block-diagonal linear maps of x (equations 1 to 4).

    Args:
        d_model: width, also of the recurrence (as in RecurrentGemma).
        num_heads: blocks of the gates; divides d_model.

    Lambda is initialised so that `a^8` at r = 1 is uniform in [0.9, 0.999]; the gates' blocks are
    N(0, 1 / block size). Short convolution of 4 tokens, no activation. A state of one number for each channel.
    """

    def __init__(self, d_model: int, *, num_heads: int = 4) -> None:
        super().__init__(d_model)
        self.num_heads, block = num_heads, head_size(d_model, num_heads)
        self.in_proj = nn.Linear(d_model, 2 * d_model)
        self.conv = ShortConvolution(d_model, 4)
        self.gate_weight = nn.Parameter(torch.randn(num_heads, block, 2 * block) / block**0.5)
        self.gate_bias = nn.Parameter(torch.zeros(num_heads, 2 * block))
        a8 = torch.empty(d_model).uniform_(0.9, 0.999)
        self.Lambda = nn.Parameter(torch.log(torch.expm1(-a8.log() / _C)))  # exp(-8 softplus(Lambda)) = a8
        self.out_proj = nn.Linear(d_model, d_model)

    def features(self, x: Tensor) -> RGLRUFeatures:
        u, gate = self.in_proj(x).chunk(2, dim=-1)
        return self._gates(self.conv(u), gate)

    def _gates(self, u: Tensor, gate: Tensor) -> RGLRUFeatures:
        blocks = u.unflatten(-1, (self.num_heads, -1))
        raw = torch.einsum("...hc,hcd->...hd", blocks, self.gate_weight.to(u.dtype))
        r, i = torch.sigmoid(at_least_float32(raw) + self.gate_bias).chunk(2, dim=-1)
        log_decay = -_C * nn.functional.softplus(at_least_float32(self.Lambda)) * r.flatten(-2)
        # the slope of the root has no bound at 0, where a gate of 0 would take it
        scale = (-torch.expm1(2 * log_decay)).clamp(min=1e-12).sqrt() * i.flatten(-2)
        return RGLRUFeatures(heads(u, self.d_model), log_decay.exp(), scale, gate)

    def mix(self, features: RGLRUFeatures) -> Tensor:
        h = scan(features.decay, features.scale * merge_heads(features.values))
        return heads(h, self.d_model)

    def to_operator(self, features: RGLRUFeatures) -> RecurrentOperator:
        A, B = heads(features.decay, self.d_model), heads(features.scale, self.d_model)
        return RecurrentOperator(A, B, torch.ones_like(A))

    def finish(self, y: Tensor, features: RGLRUFeatures) -> Tensor:
        y = merge_heads(y).to(features.gate.dtype)
        return self.out_proj(y * nn.functional.gelu(features.gate))

    def step(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The state: inputs of the short convolution, (B, 3, d_model), and h, (B, d_model)."""
        past, h = state or (None, None)
        u, gate = self.in_proj(x).chunk(2, dim=-1)
        u, past = self.conv.step(u, past)
        features = self._gates(u[:, None], gate[:, None])
        added = features.scale[:, 0] * u
        h = added if h is None else features.decay[:, 0] * h + added
        return self.finish(h[:, :, None, None], features)[:, 0], (past, h)
