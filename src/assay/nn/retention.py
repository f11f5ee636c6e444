"""Retention, the mixer of RetNet."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

from assay.nn._head_size import head_size
from assay.nn._linear_attention import linear_attention, linear_attention_step
from assay.nn._mixer import Mixer, heads, merge_heads
from assay.nn._positions import rotary
from assay.operators import RecurrentOperator


class RetentionFeatures(NamedTuple):
    """q, k: (B, H, L, N), rotated; log_decay: log gamma, (H, 1, 1); values: (B, H, L, C); gate: (B, L, H * C)."""

    q: Tensor
    k: Tensor
    log_decay: Tensor
    values: Tensor
    gate: Tensor


class Retention(Mixer):
    """`y_t = sum_{j<=t} gamma_h^{t-j} (q_t e^{i t theta}) (k_j e^{i j theta})^* v_j`, `gamma_h = 1 - 2^{-5-h}`,
    in head h = 0..H-1; then `W_O (swish(W_G x) o GroupNorm(y))`, a group a head.

    Source: Sun et al. 2023 (arXiv 2307.08621), eq. 5 to 8. As there, the decay of xPos is the scalar gamma_h, and what
    remains of it is the rotation, by `rotary`. Sizes: q, k of d_model / num_heads a head, v and the gate twice as
    wide; the state of a head is 2 (d_model / num_heads)^2 numbers. T is post-update. Initialised as in the paper's
    code: Xavier uniform with gain 2^{-2.5}, W_O with gain 1/2; the norm has no weights.
    Raises `InputError` where d_model / num_heads is no even whole number.
    """

    def __init__(self, d_model: int, *, num_heads: int = 4) -> None:
        super().__init__(d_model)
        self.num_heads, self.key_size = num_heads, head_size(d_model, num_heads, even=True)
        self.qk = nn.Linear(d_model, 2 * d_model, bias=False)
        self.v = nn.Linear(d_model, 2 * d_model, bias=False)
        self.gate = nn.Linear(d_model, 2 * d_model, bias=False)
        self.out = nn.Linear(2 * d_model, d_model, bias=False)
        for weight in (*self.qk.weight.chunk(2), self.v.weight, self.gate.weight):
            nn.init.xavier_uniform_(weight, gain=2**-2.5)
        nn.init.xavier_uniform_(self.out.weight, gain=0.5)

    def features(self, x: Tensor, start: int = 0) -> RetentionFeatures:
        """`start`: the position of the first token."""
        q, k = (rotary(heads(t, self.num_heads), start) for t in self.qk(x).chunk(2, dim=-1))
        h = torch.arange(self.num_heads, device=x.device, dtype=torch.float64)[:, None, None]
        log_decay = torch.log1p(-(2.0 ** (-5 - h))).to(torch.promote_types(x.dtype, torch.float32))
        return RetentionFeatures(
            q * self.key_size**-0.5, k, log_decay, heads(self.v(x), self.num_heads), silu(self.gate(x))
        )

    def mix(self, features: RetentionFeatures) -> Tensor:
        return linear_attention(features.q, features.k, features.values, features.log_decay)

    def to_operator(self, features: RetentionFeatures) -> RecurrentOperator:
        return RecurrentOperator(features.log_decay.exp(), features.k, features.q)

    def finish(self, y: Tensor, features: RetentionFeatures) -> Tensor:
        return self.out(merge_heads(layer_norm(y, y.shape[-1:])) * features.gate)

    def step(self, x: Tensor, state: tuple[Tensor, int] | None = None) -> tuple[Tensor, tuple[Tensor, int]]:
        """State: S, (B, H, N, C), and the number of tokens so far."""
        before, position = state or (None, 0)
        features = self.features(x[:, None], position)
        q, k, v = (t[:, :, 0] for t in (features.q, features.k, features.values))
        y, after = linear_attention_step(q, k, v, features.log_decay[:, 0], before)
        return self.finish(y[:, :, None], features)[:, 0], (after, position + 1)
