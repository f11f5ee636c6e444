"""Softmax attention: multi-head, grouped-query, sliding-window; rotary positions, linear biases or none."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from assay._errors import InputError
from assay.nn._head_size import head_size
from assay.nn._mixer import Mixer, heads, merge_heads
from assay.nn._positions import alibi_slopes, rotary
from assay.operators import DenseOperator

POSITIONS = ("rope", "alibi", "none")
BLOCK = 64  # tokens that a window's products are done for at once, if it is no wider


class AttentionFeatures(NamedTuple):
    """values: (B, H, L, C), repeated in each group; q: (B, H, L, C); k: (B, G, L, C), for G groups of heads."""

    values: Tensor
    q: Tensor
    k: Tensor


class SoftmaxAttention(Mixer):
    """`T = softmax(q k^T / sqrt(C) + bias)` over the tokens up to the present one, in each head.

    C = d_model / num_heads.

    Source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.2; groups: Ainslie et al. 2023 (arXiv 2305.13245);
    window: Beltagy et al. 2020 (arXiv 2004.05150). State: keys and values of the past, 2 G C numbers a token.
    Linear layers have no bias and are initialised as `nn.Linear`.

    Args:
        num_kv_heads: G, keys and values that the heads share in groups of H / G; None for one each.
        window: how many tokens a token sees, itself included; None for all.
        positions: "rope", rotary embedding of q and k; "alibi", a bias of -slope (i - j); "none".

    Raises `InputError` where d_model is no multiple of num_heads, num_heads none of num_kv_heads, C odd with "rope",
    the window below 1, or positions unknown.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        num_kv_heads: int | None = None,
        window: int | None = None,
        positions: str = "rope",
    ) -> None:
        super().__init__(d_model)
        if positions not in POSITIONS:
            raise InputError(f"positions is {positions!r}; expected one of {', '.join(map(repr, POSITIONS))}")
        size = head_size(d_model, num_heads, even=positions == "rope")
        groups = num_heads if num_kv_heads is None else num_kv_heads
        if groups < 1 or num_heads % groups:
            raise InputError(f"num_kv_heads is {num_kv_heads}; expected a divisor of num_heads = {num_heads}")
        if window is not None and window < 1:
            raise InputError(f"window is {window}; expected at least 1, or None for all tokens")
        self.num_heads, self.num_kv_heads, self.window, self.positions = num_heads, groups, window, positions
        self.q = nn.Linear(d_model, d_model, bias=False)
        self.k = nn.Linear(d_model, groups * size, bias=False)
        self.v = nn.Linear(d_model, groups * size, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def features(self, x: Tensor) -> AttentionFeatures:
        q, k, v = self._projected(x, start=0)
        return AttentionFeatures(v.repeat_interleave(self.num_heads // self.num_kv_heads, dim=1), q, k)

    def _projected(self, x: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor]:
        """q (B, H, L, C), k and v (B, G, L, C), for the positions from `start` on."""
        q, k = heads(self.q(x), self.num_heads), heads(self.k(x), self.num_kv_heads)
        if self.positions == "rope":
            q, k = rotary(q, start), rotary(k, start)
        return q, k, heads(self.v(x), self.num_kv_heads)

    def mix(self, features: AttentionFeatures) -> Tensor:
        v, q, k = features
        k = k.repeat_interleave(self.num_heads // self.num_kv_heads, dim=1)
        length, block = q.shape[-2], max(self.window or 0, BLOCK)
        if self.window is not None and length > block:
            return self._banded(q, k, v, block)
        if (self.window is None or length <= self.window) and self.positions != "alibi":
            return scaled_dot_product_attention(q, k, v, is_causal=True)
        return scaled_dot_product_attention(q, k, v, attn_mask=self._bias(length, q))

    def _banded(self, q: Tensor, k: Tensor, v: Tensor, block: int) -> Tensor:
        """Blocks of tokens, each seeing itself and the block before: O(L block) rather than O(L^2)."""
        batch, length = len(q), q.shape[-2]
        q0, k0, v0 = (t[..., :block, :] for t in (q, k, v))
        first = scaled_dot_product_attention(q0, k0, v0, attn_mask=self._bias(block, q))
        q, k, v = (pad(t, (0, 0, 0, -length % block)).unflatten(2, (-1, block)).transpose(1, 2) for t in (q, k, v))
        k, v = (torch.cat([t[:, :-1], t[:, 1:]], dim=-2).flatten(0, 1) for t in (k, v))  # (B * M, H, 2 * block, C)
        bias = self._bias(2 * block, q, queries=block)
        rest = scaled_dot_product_attention(q[:, 1:].flatten(0, 1), k, v, attn_mask=bias)
        rest = rest.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2, 3)
        return torch.cat([first, rest], dim=-2)[..., :length, :]

    def _bias(self, length: int, like: Tensor, *, queries: int | None = None) -> Tensor:
        """What is added to the logits of the last `queries` tokens, all by default: (1 or H, queries, length)."""
        at = torch.arange(length, device=like.device)
        distance = at[length - (queries or length) :, None] - at
        hidden = (distance < 0) if self.window is None else (distance < 0) | (distance >= self.window)
        bias = torch.zeros_like(distance[None], dtype=like.dtype)
        if self.positions == "alibi":
            bias = -alibi_slopes(self.num_heads, like.device).to(like.dtype)[:, None, None] * distance
        return bias.masked_fill(hidden, -torch.inf)

    def to_operator(self, features: AttentionFeatures) -> DenseOperator:
        q, k = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (features.q, features.k))
        k = k.repeat_interleave(self.num_heads // self.num_kv_heads, dim=1)
        logits = q @ k.mT / math.sqrt(q.shape[-1]) + self._bias(q.shape[-2], q)
        return DenseOperator(logits.softmax(-1), window=self.window)

    def finish(self, y: Tensor, features: AttentionFeatures) -> Tensor:  # noqa: ARG002
        return self.out(merge_heads(y))

    def step(
        self, x: Tensor, state: tuple[Tensor, Tensor, int] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor, int]]:
        """State: keys and values, (B, G, past, C) each, of the last window - 1 tokens or all, and the tokens so far."""
        start = 0 if state is None else state[2]
        q, k, v = self._projected(x[:, None], start)
        if state is not None:
            k, v = torch.cat([state[0], k], dim=-2), torch.cat([state[1], v], dim=-2)
        bias = self._bias(k.shape[-2], q, queries=1)  # (1 or H, 1, past + 1)
        y = scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=True)
        keep = 0 if self.window is None else max(0, k.shape[-2] - (self.window - 1))
        return self.out(merge_heads(y))[:, 0], (k[..., keep:, :], v[..., keep:, :], start + 1)
