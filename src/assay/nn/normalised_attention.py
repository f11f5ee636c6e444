"""Attention without softmax whose normaliser is chosen freely (Sieber et al. 2024, arXiv 2405.15731)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, softplus

from assay._errors import InputError
from assay.nn._head_size import check_sizes, head_size
from assay.nn._linear_attention import linear_attention, linear_attention_step
from assay.nn._mixer import Mixer, heads, merge_heads
from assay.nn._scan import at_least_float32
from assay.operators import RecurrentOperator

NORMALISERS: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "softplus": softplus,
    "sigmoid": torch.sigmoid,
}


class NormalisedAttentionFeatures(NamedTuple):
    """q, k: (B, H, L, N); values: (B, H, L, C); normaliser: eta, (B, H, L, 1), above 0."""

    q: Tensor
    k: Tensor
    values: Tensor
    normaliser: Tensor


class NormalisedAttention(Mixer):
    """`y_t = sum_{j<=t} phi(q_t)^T phi(k_j) v_j / eta_t` in each head, with phi the identity and `eta_t = f(w^T x_t)`.

    Linear attention divides by the sum of its weights, which depends on all the past; here the normaliser is a function
    of the present token alone, as it is in state-space models. Weights may be negative, and rows need not sum to 1.

    Args:
        d_model: width.
        num_heads: H.
        key_size: N, numbers in q and k of a head, and so the state for each value channel; d_model / num_heads by
            default.
        normaliser: f, "exp", "softplus" or "sigmoid". Or "sum": linear attention, `assay.nn.LinearAttention` with N to
            choose: `phi(x) = elu(x) + 1`, and eta_t is the sum of the weights.

    Source: section 4.1; one number eta a head. T is post-update with A = 1. Initialised as `nn.Linear`, without biases.
    `exp` overflows float32 where w^T x is above 88.
    Raises `InputError` where d_model is no multiple of num_heads, key_size is below 1, or the normaliser is unknown.
    """

    def __init__(
        self, d_model: int, *, num_heads: int = 4, key_size: int | None = None, normaliser: str = "exp"
    ) -> None:
        super().__init__(d_model)
        size = head_size(d_model, num_heads) if key_size is None else key_size
        check_sizes(key_size=size)
        if normaliser not in (known := [*NORMALISERS, "sum"]):
            raise InputError(f"normaliser is {normaliser!r}; expected one of {', '.join(map(repr, known))}")
        head_size(d_model, num_heads)
        self.num_heads, self.key_size, self.normaliser = num_heads, size, normaliser
        self.qkv = nn.Linear(d_model, 2 * num_heads * size + d_model, bias=False)
        self.eta = None if normaliser == "sum" else nn.Linear(d_model, num_heads, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def features(self, x: Tensor) -> NormalisedAttentionFeatures:
        q, k, v = self._project(x)
        eta = (q * k.cumsum(-2)).sum(-1, keepdim=True) if self.eta is None else self._normaliser(x)
        return NormalisedAttentionFeatures(q, k, v, eta)

    def mix(self, features: NormalisedAttentionFeatures) -> Tensor:
        return linear_attention(features.q, features.k, features.values) / features.normaliser

    def to_operator(self, features: NormalisedAttentionFeatures) -> RecurrentOperator:
        ones = torch.ones_like(features.normaliser)
        return RecurrentOperator(ones, features.k, features.q / features.normaliser)

    def finish(self, y: Tensor, features: NormalisedAttentionFeatures) -> Tensor:
        return self.out(merge_heads(y).to(features.values.dtype))

    def step(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """State: (S, sum of phi(k)), (B, H, N, C) and (B, H, N)."""
        q, k, v = (t[:, :, 0] for t in self._project(x[:, None]))
        before, keys = (None, k) if state is None else (state[0], state[1] + k)
        y, after = linear_attention_step(q, k, v, state=before)
        eta = (q * keys).sum(-1, keepdim=True) if self.eta is None else self._normaliser(x[:, None])[:, :, 0]
        return self.out((y / eta).to(v.dtype).flatten(1)), (after, keys)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        width = self.num_heads * self.key_size
        q, k, v = (heads(t, self.num_heads) for t in self.qkv(x).split([width, width, self.d_model], dim=-1))
        return (elu(q) + 1, elu(k) + 1, v) if self.eta is None else (q, k, v)

    def _normaliser(self, x: Tensor) -> Tensor:
        assert self.eta is not None
        return NORMALISERS[self.normaliser](at_least_float32(heads(self.eta(x), self.num_heads)))
