"""Multi-head latent attention: keys and values are unpacked from one small vector a token."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from assay._errors import InputError
from assay.nn._head_size import head_size
from assay.nn._mixer import Mixer, heads, merge_heads
from assay.nn._norm import RMSNorm
from assay.nn._positions import rotary
from assay.operators import DenseOperator


class LatentFeatures(NamedTuple):
    """values: (B, H, L, C); q, k: (B, H, L, C + R), of which the last R channels carry the position."""

    values: Tensor
    q: Tensor
    k: Tensor


class LatentAttention(Mixer):
    """MLA: with `c = RMSNorm(W_DKV x)` of `kv_lora_rank` numbers, for each head and C = d_model / num_heads,

        k^C = W_UK c     v = W_UV c     k^R = RoPE(W_KR x), one for all heads
        q^C = W_UQ c'    q^R = RoPE(W_QR c'),    c' = RMSNorm(W_DQ x), or x where q_lora_rank is None
        T = softmax((q^C . k^C + q^R . k^R) / sqrt(C + R)) over the tokens up to the present one.

    State: c and k^R, kv_lora_rank + R numbers a token instead of 2 d_model. `step` never unpacks them: W_UK is taken to
    the query's side and W_UV to the output's.
    Source: DeepSeek-AI 2024 (arXiv 2405.04434), section 2.1, eq. 9-19. Linear layers have no bias and are initialised
    as `nn.Linear`.

    Args:
        q_lora_rank: numbers that the queries are unpacked from; None for x itself.
        kv_lora_rank: numbers that keys and values are unpacked from; None for 4 C.
        qk_rope_head_dim: R, even; None for C / 2, rounded up to an even number.

    Raises `InputError` where d_model is no multiple of num_heads, a rank is below 1, or R is odd or below 2.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        q_lora_rank: int | None = None,
        kv_lora_rank: int | None = None,
        qk_rope_head_dim: int | None = None,
    ) -> None:
        super().__init__(d_model)
        size = head_size(d_model, num_heads)
        rope = 2 * math.ceil(size / 4) if qk_rope_head_dim is None else qk_rope_head_dim
        rank = 4 * size if kv_lora_rank is None else kv_lora_rank
        for name, given in (("q_lora_rank", q_lora_rank), ("kv_lora_rank", rank)):
            if given is not None and given < 1:
                raise InputError(f"{name} is {given}; expected at least 1, or None")
        if rope < 2 or rope % 2:
            raise InputError(f"qk_rope_head_dim is {rope}; expected an even number, at least 2")
        self.num_heads, self.sizes = num_heads, (size, rope)
        self.q_down: nn.Module = nn.Identity()
        if q_lora_rank is not None:
            self.q_down = nn.Sequential(nn.Linear(d_model, q_lora_rank, bias=False), RMSNorm(q_lora_rank, eps=1e-6))
        self.q_up = nn.Linear(q_lora_rank or d_model, num_heads * (size + rope), bias=False)
        self.kv_down = nn.Linear(d_model, rank, bias=False)
        self.kv_norm = RMSNorm(rank, eps=1e-6)
        self.k_up = nn.Linear(rank, d_model, bias=False)
        self.v_up = nn.Linear(rank, d_model, bias=False)
        self.k_rope = nn.Linear(d_model, rope, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def features(self, x: Tensor) -> LatentFeatures:
        content, place, latent, k_place = self._compressed(x, start=0)
        k, v = heads(self.k_up(latent), self.num_heads), heads(self.v_up(latent), self.num_heads)
        k_place = k_place[:, None].expand(-1, self.num_heads, -1, -1)
        return LatentFeatures(v, torch.cat([content, place], dim=-1), torch.cat([k, k_place], dim=-1))

    def _compressed(self, x: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q^C (B, H, L, C), q^R (B, H, L, R), c (B, L, rank), k^R (B, L, R), for the positions from `start` on."""
        content, place = heads(self.q_up(self.q_down(x)), self.num_heads).split(self.sizes, dim=-1)
        latent = self.kv_norm(self.kv_down(x))
        return content, rotary(place, start), latent, rotary(self.k_rope(x), start)

    def mix(self, features: LatentFeatures) -> Tensor:
        v = pad(features.values, (0, self.sizes[1]))  # the fast kernels want one width
        return scaled_dot_product_attention(features.q, features.k, v, is_causal=True)[..., : self.sizes[0]]

    def to_operator(self, features: LatentFeatures) -> DenseOperator:
        q, k = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (features.q, features.k))
        logits = q @ k.mT / math.sqrt(q.shape[-1])
        future = torch.ones(logits.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        return DenseOperator(logits.masked_fill(future, -torch.inf).softmax(-1))

    def finish(self, y: Tensor, features: LatentFeatures) -> Tensor:  # noqa: ARG002
        return self.out(merge_heads(y))

    def step(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """State: c, (B, past, kv_lora_rank), and k^R, (B, past, R)."""
        content, place, latent, k_place = self._compressed(x[:, None], start=0 if state is None else state[0].shape[1])
        if state is not None:
            latent, k_place = torch.cat([state[0], latent], dim=1), torch.cat([state[1], k_place], dim=1)
        k_up, v_up = (w.weight.unflatten(0, (self.num_heads, -1)) for w in (self.k_up, self.v_up))  # (H, C, rank)
        logits = (content @ k_up) @ latent[:, None].mT + place @ k_place[:, None].mT  # (B, H, 1, past + 1)
        weights = (logits / math.sqrt(sum(self.sizes))).softmax(-1)
        y = (weights @ latent[:, None]) @ v_up.mT
        return self.out(merge_heads(y))[:, 0], (latent, k_place)
