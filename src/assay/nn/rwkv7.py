"""RWKV-7: a generalised delta rule with a decay for each channel and in-context learning rates."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from assay.nn._delta import delta_rule, delta_rule_step
from assay.nn._head_size import head_size
from assay.nn._kernels import fused
from assay.nn._mixer import Mixer, heads, merge_heads
from assay.operators import RecurrentOperator


class RWKV7Features(NamedTuple):
    values: Tensor  # (B, H, L, C)
    r: Tensor  # receptance, (B, H, L, N)
    key: Tensor  # replacement key, (B, H, L, N)
    removal: Tensor  # removal key, (B, H, L, N), of norm 1
    rate: Tensor  # in-context learning rate, (B, H, L, N), in (0, 1)
    log_decay: Tensor  # (B, H, L, N)
    gate: Tensor  # (B, L, d_model)


class RWKV7(Mixer):
    """The time mixing of RWKV-7 "Goose", for each head, with N = C = d_model / num_heads:

        S_t = (diag(w_t) - (a_t o kh_t) kh_t^T) S_{t-1} + kt_t v_t^T,   y_t = r_t^T S_t

    Each of r, k, v, w, a, g is made from its own mixture of the token and the one before, `x + mu o (x_prev - x)`:

        r, k, v = W x                      kh = k o xi, normalised       kt = k o (1 + (a - 1) o alpha)
        w = exp(-e^{-1/2} sigmoid(w0 + tanh(x W1) W2))      a = sigmoid(a0 + x A1 A2)      g = sigmoid(x G1) G2

    The output is `W (g o (GroupNorm(y) + (r . (rho o kt)) v))`; the bonus, the last term, is added behind the norm and
    so is no part of the operator. Left out: the mixing of v with the first layer's, which a mixer alone cannot know
    (the paper's own first layer has none either).
    Initialised as the authors' code does in its first layer, with two differences, so that every weight learns
    from the first step on: the inner factors W1, A1, G1 and the output projection are `nn.Linear`'s, not 0.
    Source: Peng et al. 2025 (arXiv 2503.14456), section 4 and the authors' code.
    Raises `InputError` where d_model is no multiple of num_heads.
    """

    def __init__(self, d_model: int, *, num_heads: int = 4) -> None:
        super().__init__(d_model)
        size = head_size(d_model, num_heads)
        self.num_heads = num_heads
        place = torch.arange(d_model) / d_model
        exponents = torch.tensor([0.2, 0.9, 0.7, 0.7, 0.9, 0.2])  # r, w, k, v, a, g
        self.shift = nn.Parameter(1 - place ** exponents[:, None])
        self.r, self.k, self.v = (_linear(d_model, bound / math.sqrt(d_model)) for bound in (0.5, 0.05, 0.5))
        rank = max(32, 32 * round(1.8 * d_model**0.5 / 32))
        decay = 5 * (torch.arange(d_model) / max(1, d_model - 1)) ** 0.85 - 6.5
        self.w_lora = _low_rank(d_model, rank, nn.Tanh(), bias=decay)
        self.a_lora = _low_rank(d_model, rank, nn.Identity(), bias=torch.zeros(d_model))
        self.g_lora = _low_rank(d_model, max(32, 32 * round(0.6 * d_model**0.8 / 32)), nn.Sigmoid(), bias=None)
        self.removal_scale = nn.Parameter(torch.full((d_model,), 0.85))  # xi
        self.replacement = nn.Parameter(torch.ones(d_model))  # alpha
        self.bonus = nn.Parameter(torch.zeros(num_heads, 1, size))  # rho
        self.norm = nn.GroupNorm(num_heads, d_model, eps=1e-5 * size)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def features(self, x: Tensor) -> RWKV7Features:
        return self._features(x, pad(x[:, :-1], (0, 0, 1, 0)))

    def _features(self, x: Tensor, before: Tensor) -> RWKV7Features:
        """From the tokens and each one's predecessor, (B, L, d_model) each."""
        x_r, x_w, x_k, x_v, x_a, x_g = (x + mu * (before - x) for mu in self.shift)
        k, rate = self.k(x_k), self.a_lora(x_a).sigmoid()
        decay = self.w_lora(x_w)
        log_decay = -math.exp(-0.5) * decay.to(torch.promote_types(decay.dtype, torch.float32)).sigmoid()
        parts = [
            self.v(x_v),
            self.r(x_r),
            k * (1 + (rate - 1) * self.replacement),
            k * self.removal_scale,
            rate,
            log_decay,
        ]
        v, r, key, removal, rate, log_decay = (heads(t, self.num_heads) for t in parts)
        return RWKV7Features(v, r, key, normalize(removal, dim=-1), rate, log_decay, self.g_lora(x_g))

    def mix(self, features: RWKV7Features) -> Tensor:
        v, r, key, removal, rate, log_decay, _ = features
        if kernel := fused("diagonal_plus_rank_one", v):
            return kernel(r, key, v, removal, rate * removal, log_decay)
        return delta_rule(r, key, v, removal, rate * removal, log_decay)

    def to_operator(self, features: RWKV7Features) -> RecurrentOperator:
        _, r, key, removal, rate, log_decay, _ = features
        return RecurrentOperator(log_decay.exp(), key, r, rank_one=(-rate * removal, removal))

    def finish(self, y: Tensor, features: RWKV7Features) -> Tensor:
        bonus = (features.r * self.bonus * features.key).sum(-1, keepdim=True) * features.values
        y = merge_heads(y)
        normed = self.norm(y.flatten(0, 1)).view_as(y)
        return self.out(features.gate * (normed + merge_heads(bonus)))

    def step(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        before, S = state or (torch.zeros_like(x), None)
        features = self._features(x[:, None], before[:, None])
        v, r, key, removal, rate, log_decay, _ = (t[..., 0, :] for t in features)
        y, S = delta_rule_step(r, key, v, removal, rate * removal, log_decay, S)
        return self.finish(y[..., None, :], features)[:, 0], (x, S)


def _linear(width: int, bound: float) -> nn.Linear:
    linear = nn.Linear(width, width, bias=False)
    nn.init.uniform_(linear.weight, -bound, bound)
    return linear


def _low_rank(width: int, rank: int, activation: nn.Module, *, bias: Tensor | None) -> nn.Sequential:
    inner, outer = nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False)
    nn.init.orthogonal_(outer.weight, gain=0.1)
    if bias is not None:
        outer.bias = nn.Parameter(bias)
    return nn.Sequential(inner, activation, outer)
