"""RWKV-6, time mixing."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from assay.nn._head_size import head_size
from assay.nn._linear_attention import linear_attention_before_update
from assay.nn._mixer import Mixer, heads, merge_heads
from assay.nn._scan import at_least_float32
from assay.operators import RecurrentOperator


class RWKV6Features(NamedTuple):
    """r, k: (B, H, L, N); log_decay: log w, (B, H, L, N); values: (B, H, L, N); gate: (B, L, d_model)."""

    r: Tensor
    k: Tensor
    log_decay: Tensor
    values: Tensor
    gate: Tensor


class RWKV6(Mixer):
    """`S_t = diag(w_t) S_{t-1} + k_t v_t^T,  y_t = r_t^T (S_{t-1} + diag(u) k_t v_t^T)` in each head, u the *bonus*;
    then `W_O (silu(g) o GroupNorm(y))`, a group a head.

    r, k, v, g and `w = exp(-exp(d))` are made of `x_t + (x_{t-1} - x_t) o m` (token shift), where each of the five has
    an m of its own that depends on the input by a map of low rank.
    Source: Peng et al. 2024 (arXiv 2404.05892), section 4 (Finch). Sizes: N = d_model / num_heads; ranks mix_rank
    and decay_rank; the state of a head is N^2 numbers, and the last token. T is pre-update.
    Initialised as the first layer of the paper's code (mixing, decay and bonus by channel; low-rank maps near 0, where
    the code has their first factor at 0), the large matrices as `nn.Linear`.
    Raises `InputError` where d_model is no multiple of num_heads.
    """

    def __init__(self, d_model: int, *, num_heads: int = 4, mix_rank: int = 32, decay_rank: int = 64) -> None:
        super().__init__(d_model)
        size = head_size(d_model, num_heads)
        self.num_heads = num_heads
        channel = torch.arange(d_model) / d_model
        even = torch.arange(d_model) / max(1, d_model - 1)
        zigzag = 0.1 * ((torch.arange(d_model) + 1) % 3 - 1)
        self.mix_x = nn.Parameter(1 - channel)
        self.mix_base = nn.Parameter(torch.stack([1 - channel] * 3 + [1 - channel.sqrt()] * 2))  # of w, k, v, r, g
        self.mix_in = nn.Parameter(torch.empty(d_model, 5 * mix_rank).uniform_(-1e-2, 1e-2))
        self.mix_out = nn.Parameter(torch.empty(5, mix_rank, d_model).uniform_(-1e-2, 1e-2))
        self.decay_base = nn.Parameter(-6 + 5 * even**0.7)
        self.decay_in = nn.Parameter(torch.empty(d_model, decay_rank).uniform_(-1e-2, 1e-2))
        self.decay_out = nn.Parameter(torch.empty(decay_rank, d_model).uniform_(-1e-2, 1e-2))
        self.bonus = nn.Parameter(zigzag.unflatten(0, (num_heads, size)).clone())
        self.r, self.k, self.v, self.g, self.out = (nn.Linear(d_model, d_model, bias=False) for _ in range(5))
        self.norm = nn.GroupNorm(num_heads, d_model, eps=64e-5)  # as in the paper's code

    def features(self, x: Tensor) -> RWKV6Features:
        return self._features(x, pad(x[:, :-1], (0, 0, 1, 0)))

    def _features(self, x: Tensor, before: Tensor) -> RWKV6Features:
        """x and the token before each, (B, L, d_model)."""
        shift = before - x
        low = torch.tanh((x + shift * self.mix_x) @ self.mix_in).unflatten(-1, (5, -1))
        amount = self.mix_base + torch.einsum("blfr,frd->blfd", low, self.mix_out)
        w, k, v, r, g = (x[..., None, :] + shift[..., None, :] * amount).unbind(-2)
        d = self.decay_base + torch.tanh(w @ self.decay_in) @ self.decay_out
        log_decay = -torch.exp(at_least_float32(d))
        r, k, log_decay, v = (heads(t, self.num_heads) for t in (self.r(r), self.k(k), log_decay, self.v(v)))
        return RWKV6Features(r, k, log_decay, v, silu(self.g(g)))

    def mix(self, features: RWKV6Features) -> Tensor:
        r, k, log_decay, v, _ = features
        return linear_attention_before_update(r, k, v, log_decay, self.bonus[:, None])

    def to_operator(self, features: RWKV6Features) -> RecurrentOperator:
        r, k, log_decay, _, _ = features
        return RecurrentOperator.pre_update(log_decay.exp(), k, r, (r * self.bonus[:, None] * k).sum(-1))

    def finish(self, y: Tensor, features: RWKV6Features) -> Tensor:
        y = merge_heads(y)
        return self.out(self.norm(y.flatten(0, 1)).view_as(y) * features.gate)

    def step(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """State: S, (B, H, N, N), and the last token, (B, d_model)."""
        before, last = (None, torch.zeros_like(x)) if state is None else state
        features = self._features(x[:, None], last[:, None])
        r, k, log_decay, v = (t[:, :, 0] for t in features[:4])
        update = k[..., :, None] * v[..., None, :]
        seen = self.bonus[..., None] * update
        after = update
        if before is not None:
            seen, after = seen + before, update + log_decay.exp()[..., None] * before
        y = (r[..., None, :] @ seen).squeeze(-2)
        return self.finish(y[:, :, None], features)[:, 0], (after, x)
