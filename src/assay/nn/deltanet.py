"""DeltaNet and Gated DeltaNet: linear attention that overwrites what its state held under a key."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, silu, softplus

from assay._errors import InputError
from assay.nn._delta import delta_rule, delta_rule_step
from assay.nn._head_size import head_size
from assay.nn._kernels import fused
from assay.nn._mixer import Mixer, heads, merge_heads
from assay.nn._norm import RMSNorm
from assay.nn._short_convolution import ShortConvolution
from assay.operators import RecurrentOperator


class DeltaFeatures(NamedTuple):
    values: Tensor  # (B, H, L, C)
    q: Tensor  # (B, H, L, N)
    key: Tensor  # (B, H, L, N), of norm 1
    beta: Tensor  # (B, H, L, 1)
    log_decay: Tensor | None = None  # (B, H, L, 1); None for no decay
    gate: Tensor | None = None  # (B, L, H * C)


class DeltaNet(Mixer):
    """`S_t = (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T,  y_t = q_t^T S_t`, for each head.

    q, k, v are projections after a short convolution and SiLU; q and k have norm 1 and q is scaled by 1/sqrt(N);
    beta = sigmoid(W x). Each head's y passes an RMSNorm, then the output projection. State: N by C numbers a head with
    N = d_model / num_heads and C = expand_v N.
    Linear layers are initialised as `nn.Linear` does.
    Source: Yang et al. 2024 (arXiv 2406.06484), eq. 2 and section 3.4.

    Args:
        conv_size: tokens that the short convolutions see.

    Raises `InputError` where d_model is no multiple of num_heads, or conv_size is below 1.
    """

    expand_v = 1

    def __init__(self, d_model: int, *, num_heads: int = 4, conv_size: int = 4) -> None:
        super().__init__(d_model)
        size = head_size(d_model, num_heads)
        if conv_size < 1:
            raise InputError(f"conv_size is {conv_size}; expected at least 1")
        self.num_heads = num_heads
        width = self.expand_v * d_model
        self.q = nn.Linear(d_model, d_model, bias=False)
        self.k = nn.Linear(d_model, d_model, bias=False)
        self.v = nn.Linear(d_model, width, bias=False)
        self.beta = nn.Linear(d_model, num_heads, bias=False)
        self.q_conv, self.k_conv, self.v_conv = (
            ShortConvolution(channels, conv_size, bias=False, activation=nn.SiLU())
            for channels in (d_model, d_model, width)
        )
        self.norm = RMSNorm(self.expand_v * size, eps=1e-5)
        self.out = nn.Linear(width, d_model, bias=False)

    def features(self, x: Tensor) -> DeltaFeatures:
        return self._features(x, self.q_conv(self.q(x)), self.k_conv(self.k(x)), self.v_conv(self.v(x)))

    def _features(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> DeltaFeatures:
        """From the input and what the convolutions made of it, (B, L, channels) each."""
        q, key, v = (heads(t, self.num_heads) for t in (q, k, v))
        beta = self.beta(x).sigmoid().mT[..., None]
        return DeltaFeatures(v, normalize(q, dim=-1) / math.sqrt(q.shape[-1]), normalize(key, dim=-1), beta)

    def mix(self, features: DeltaFeatures) -> Tensor:
        v, q, key, beta, log_decay, _ = features
        if kernel := fused("delta_rule", v):
            return kernel(q, key, v, beta, log_decay)
        return delta_rule(q, beta * key, v, _decayed(key, log_decay), log_decay=log_decay)

    def to_operator(self, features: DeltaFeatures) -> RecurrentOperator:
        _, q, key, beta, log_decay, _ = features
        A = torch.ones_like(beta) if log_decay is None else log_decay.exp()
        return RecurrentOperator(A, beta * key, q, rank_one=(-beta * key, _decayed(key, log_decay)))

    def finish(self, y: Tensor, features: DeltaFeatures) -> Tensor:
        y = merge_heads(self.norm(y))
        return self.out(y if features.gate is None else y * silu(features.gate))

    def step(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        q_past, k_past, v_past, S = state or (None,) * 4
        q, q_past = self.q_conv.step(self.q(x), q_past)
        k, k_past = self.k_conv.step(self.k(x), k_past)
        v, v_past = self.v_conv.step(self.v(x), v_past)
        features = self._features(x[:, None], q[:, None], k[:, None], v[:, None])
        v, q, key, beta = (t[..., 0, :] for t in features[:4])
        log_decay = None if features.log_decay is None else features.log_decay[..., 0, :]
        y, S = delta_rule_step(q, beta * key, v, _decayed(key, log_decay), log_decay=log_decay, state=S)
        return self.finish(y[..., None, :], features)[:, 0], (q_past, k_past, v_past, S)


class GatedDeltaNet(DeltaNet):
    """`S_t = alpha_t (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T,  y_t = q_t^T S_t`, for each head.

    As `DeltaNet`, with a decay `alpha = exp(-exp(A_log) softplus(W x + dt_bias))` for each head and, after the norm, an
    output gate `SiLU(W x)`. State: N by C numbers a head with N = d_model / num_heads and C = 2 N.
    Initialised as Mamba-2: exp(A_log) uniform in (0, 16], softplus(dt_bias) log-uniform in (0.001, 0.1).
    Source: Yang, Kautz & Hatamizadeh 2024 (arXiv 2412.06464), eq. 10 and section 3.4.

    Args:
        conv_size: tokens that the short convolutions see.

    Raises `InputError` where d_model is no multiple of num_heads, or conv_size is below 1.
    """

    expand_v = 2

    def __init__(self, d_model: int, *, num_heads: int = 4, conv_size: int = 4) -> None:
        super().__init__(d_model, num_heads=num_heads, conv_size=conv_size)
        self.dt = nn.Linear(d_model, num_heads, bias=False)
        self.gate = nn.Linear(d_model, self.expand_v * d_model, bias=False)
        self.A_log = nn.Parameter((16 * (1 - torch.rand(num_heads))).log())  # 1 - rand is never 0
        dt = torch.exp(math.log(1e-3) + torch.rand(num_heads) * math.log(100))
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus

    def _features(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> DeltaFeatures:
        dt = self.dt(x)
        dt = softplus(dt.to(torch.promote_types(dt.dtype, torch.float32)) + self.dt_bias)
        log_decay = (-self.A_log.exp() * dt).mT[..., None]
        return super()._features(x, q, k, v)._replace(log_decay=log_decay, gate=self.gate(x))


def _decayed(key: Tensor, log_decay: Tensor | None) -> Tensor:
    """What is read of the state: it has decayed before the token comes."""
    return key if log_decay is None else log_decay.exp() * key
