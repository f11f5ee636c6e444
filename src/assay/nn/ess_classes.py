"""The model classes of the study of effective state-size, with its parameters and no others.

Each layer is `W_O T(u) W_V u`, T a causal operator for each head (for S6: for each channel), without norm, gate,
convolution or bias. All are post-update and unscaled; matrices are drawn from U(-1/sqrt(in), 1/sqrt(in)), the
initialisation of `nn.Linear`. With d = d_model / num_heads and n = expand_k d:

    class   A_t                                              B_t             C_t             state a head
    LA      1                                                RoPE(W_B u)     RoPE(W_C u)     n d
    GLA     sigmoid(W_A2 W_A1 u)^{1/beta}                    W_B u           W_C u           n d
    WLA     sigmoid(a)^{1/beta}                              W_B u           W_C u           n d
    GLAS6   exp(-(1..n)/alpha softplus(W_A2 W_A1 u))         W_B u           W_C u           n d
    S6      exp(-(1..n) Delta_c), Delta_c a channel          Delta_c W_B u   W_C u           n, a channel
    SA      T = softmax(C B^T), RoPE on both                                                 all keys and values

Source: Parnichkun et al. 2025 (arXiv 2504.19561), the table of featurised model classes. For layers to train with,
see `assay.nn.linear_attention`, `assay.nn.gla` and their kin.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, scaled_dot_product_attention, softplus

from assay._errors import InputError
from assay.nn._head_size import head_size
from assay.nn._linear_attention import linear_attention, linear_attention_step
from assay.nn._mixer import Mixer, heads, merge_heads
from assay.nn._positions import rotary
from assay.nn._scan import at_least_float32
from assay.nn._selective_scan import selective_scan
from assay.operators import DenseOperator, RecurrentOperator

GATE_RANK = 16


class ESSFeatures(NamedTuple):
    """C, B: (B, H, L, N); values: (B, H, L, C); log_decay: log A, (B or 1, H, L or 1, N), None where there is no A."""

    C: Tensor
    B: Tensor
    values: Tensor
    log_decay: Tensor | None = None


class _HeadwiseClass(Mixer):
    """B, C and values of all classes but S6."""

    def __init__(self, d_model: int, *, num_heads: int = 4, expand_k: int = 1, even: bool = False) -> None:
        super().__init__(d_model)
        self.num_heads = num_heads
        head_size(d_model, num_heads)
        self.key_size = head_size(expand_k * d_model, num_heads, of="expand_k * d_model", even=even)
        self.W_B = nn.Linear(d_model, expand_k * d_model, bias=False)
        self.W_C = nn.Linear(d_model, expand_k * d_model, bias=False)
        self.W_V = nn.Linear(d_model, d_model, bias=False)
        self.W_O = nn.Linear(d_model, d_model, bias=False)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        C, B, v = (heads(W(x), self.num_heads) for W in (self.W_C, self.W_B, self.W_V))
        return C, B, v

    def finish(self, y: Tensor, features: ESSFeatures) -> Tensor:  # noqa: ARG002
        return self.W_O(merge_heads(y))


class _DecayingClass(_HeadwiseClass):
    """The classes with a diagonal A."""

    def features(self, x: Tensor) -> ESSFeatures:
        return ESSFeatures(*self._project(x), self.log_decay(x))

    @abstractmethod
    def log_decay(self, x: Tensor) -> Tensor:
        """(B, L, d_model) -> (B or 1, H, L or 1, N), in float32 at least."""

    def mix(self, features: ESSFeatures) -> Tensor:
        return linear_attention(features.C, features.B, features.values, features.log_decay)

    def to_operator(self, features: ESSFeatures) -> RecurrentOperator:
        assert features.log_decay is not None
        return RecurrentOperator(features.log_decay.exp(), features.B, features.C)

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """State: (B, H, N, C)."""
        features = self.features(x[:, None])
        C, B, v, log_decay = (t[:, :, 0] for t in features if t is not None)
        y, state = linear_attention_step(C, B, v, log_decay, state)
        return self.finish(y[:, :, None], features)[:, 0], state


class _LowRankLogits(nn.Sequential):
    """W_A2 W_A1 u: (B, L, d_model) -> (B, H, L, N), in float32 at least."""

    def __init__(self, d_model: int, num_heads: int, key_size: int) -> None:
        super().__init__(
            nn.Linear(d_model, GATE_RANK, bias=False), nn.Linear(GATE_RANK, num_heads * key_size, bias=False)
        )
        self.num_heads = num_heads

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return heads(at_least_float32(z), self.num_heads)


class LA(_HeadwiseClass):
    """Unnormalised linear attention with rotary embeddings: A = 1.

    Raises `InputError` where expand_k d_model / num_heads is no even whole number.
    """

    def __init__(self, d_model: int, *, num_heads: int = 4, expand_k: int = 1) -> None:
        super().__init__(d_model, num_heads=num_heads, expand_k=expand_k, even=True)

    def features(self, x: Tensor, start: int = 0) -> ESSFeatures:
        """`start`: the position of the first token."""
        C, B, v = self._project(x)
        return ESSFeatures(rotary(C, start), rotary(B, start), v)

    def mix(self, features: ESSFeatures) -> Tensor:
        return linear_attention(features.C, features.B, features.values)

    def to_operator(self, features: ESSFeatures) -> RecurrentOperator:
        return RecurrentOperator(torch.ones_like(features.B[..., :1]), features.B, features.C)

    def step(self, x: Tensor, state: tuple[Tensor, int] | None = None) -> tuple[Tensor, tuple[Tensor, int]]:
        """State: (B, H, N, C), and the number of tokens so far."""
        before, position = state or (None, 0)
        features = self.features(x[:, None], position)
        C, B, v = (t[:, :, 0] for t in features[:3])
        y, after = linear_attention_step(C, B, v, state=before)
        return self.finish(y[:, :, None], features)[:, 0], (after, position + 1)


class GLA(_DecayingClass):
    """Gated linear attention: `A = sigmoid(W_A2 W_A1 u)^{1/beta}`, W_A1 of rank 16."""

    def __init__(self, d_model: int, *, num_heads: int = 4, expand_k: int = 1, beta: float = 16.0) -> None:
        super().__init__(d_model, num_heads=num_heads, expand_k=expand_k)
        self.beta = _positive("beta", beta)
        self.W_A = _LowRankLogits(d_model, num_heads, self.key_size)

    def log_decay(self, x: Tensor) -> Tensor:
        return logsigmoid(self.W_A(x)) / self.beta


class WLA(_DecayingClass):
    """Weighted linear attention: `A = sigmoid(a)^{1/beta}`, a free parameter, 0 at first."""

    def __init__(self, d_model: int, *, num_heads: int = 4, expand_k: int = 1, beta: float = 16.0) -> None:
        super().__init__(d_model, num_heads=num_heads, expand_k=expand_k)
        self.beta = _positive("beta", beta)
        self.a = nn.Parameter(torch.zeros(num_heads, self.key_size))

    def log_decay(self, x: Tensor) -> Tensor:  # noqa: ARG002
        return logsigmoid(at_least_float32(self.a))[None, :, None] / self.beta


class GLAS6(_DecayingClass):
    """Gated linear attention with the decays of S6: `A = exp(-(1..n)/alpha softplus(W_A2 W_A1 u))`."""

    def __init__(self, d_model: int, *, num_heads: int = 4, expand_k: int = 1, alpha: float = 1000.0) -> None:
        super().__init__(d_model, num_heads=num_heads, expand_k=expand_k)
        self.alpha = _positive("alpha", alpha)
        self.W_A = _LowRankLogits(d_model, num_heads, self.key_size)

    def log_decay(self, x: Tensor) -> Tensor:
        rate = softplus(self.W_A(x))
        return -torch.arange(1, self.key_size + 1, device=x.device, dtype=rate.dtype) / self.alpha * rate


class SA(_HeadwiseClass):
    """Causal softmax attention with rotary embeddings: `T = softmax(C B^T)`.

    Raises `InputError` where expand_k d_model / num_heads is no even whole number.
    """

    def __init__(self, d_model: int, *, num_heads: int = 4, expand_k: int = 1) -> None:
        super().__init__(d_model, num_heads=num_heads, expand_k=expand_k, even=True)

    def features(self, x: Tensor, start: int = 0) -> ESSFeatures:
        """`start`: the position of the first token."""
        C, B, v = self._project(x)
        return ESSFeatures(rotary(C, start), rotary(B, start), v)

    def mix(self, features: ESSFeatures) -> Tensor:
        return scaled_dot_product_attention(features.C, features.B, features.values, is_causal=True, scale=1.0)

    def to_operator(self, features: ESSFeatures) -> DenseOperator:
        logits = features.C @ features.B.mT
        future = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).triu(1)
        return DenseOperator(logits.masked_fill(future, -torch.inf).softmax(-1))

    def step(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """State: the keys and values so far, (B, H, t, N) and (B, H, t, C)."""
        C, B, v, _ = features = self.features(x[:, None], 0 if state is None else state[0].shape[-2])
        if state is not None:
            B, v = torch.cat([state[0], B], dim=-2), torch.cat([state[1], v], dim=-2)
        return self.finish(scaled_dot_product_attention(C, B, v, scale=1.0), features)[:, 0], (B, v)


class S6Features(NamedTuple):
    """B, C: (B, L, N), the same for all channels; delta: (B, L, D); values: (B, D, L, 1)."""

    B: Tensor
    C: Tensor
    delta: Tensor
    values: Tensor


class S6(Mixer):
    """Selective state space, a recurrence with n numbers for each channel: `A = exp(-(1..n) Delta_c)`,
    `B = Delta_c W_B u`, `Delta_c = softplus(w_c u + b_c)`.

    num_heads and expand_k only set n, so that the state has the size of the other classes'.
    `delta_range`: b_c is such that softplus(b_c) is log-uniform in it, as in Mamba (Gu & Dao 2023, arXiv 2312.00752,
    section 3.6); None draws b_c as `nn.Linear` does. The paper does not say which it used.
    Raises `InputError` for a range that is not 0 < low <= high.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        expand_k: int = 1,
        delta_range: tuple[float, float] | None = (1e-3, 1e-1),
    ) -> None:
        super().__init__(d_model)
        n = head_size(expand_k * d_model, num_heads, of="expand_k * d_model")
        self.W_B = nn.Linear(d_model, n, bias=False)
        self.W_C = nn.Linear(d_model, n, bias=False)
        self.W_delta = nn.Linear(d_model, d_model)
        if delta_range is not None:
            if not 0 < delta_range[0] <= delta_range[1]:
                raise InputError(f"delta_range is {delta_range}; expected 0 < low <= high, or None")
            low, high = (math.log(bound) for bound in delta_range)
            delta = torch.exp(low + (high - low) * torch.rand(d_model))
            with torch.no_grad():
                self.W_delta.bias.copy_(delta + torch.log(-torch.expm1(-delta)))  # softplus of it is delta
        self.W_V = nn.Linear(d_model, d_model, bias=False)
        self.W_O = nn.Linear(d_model, d_model, bias=False)

    def features(self, x: Tensor) -> S6Features:
        delta = softplus(at_least_float32(self.W_delta(x)))
        return S6Features(self.W_B(x), self.W_C(x), delta, self.W_V(x).mT[..., None])

    def _a(self, delta: Tensor) -> Tensor:
        return -torch.arange(1.0, self.W_B.out_features + 1, device=delta.device, dtype=delta.dtype)

    def mix(self, features: S6Features) -> Tensor:
        B, C, delta, v = features
        y = selective_scan(v[..., 0].mT, delta, self._a(delta).expand(self.d_model, -1), B, C)
        return y.mT[..., None].to(v.dtype)

    def to_operator(self, features: S6Features) -> RecurrentOperator:
        B, C, delta, _ = features
        delta = delta.mT[..., None]  # (B, D, L, 1)
        return RecurrentOperator(torch.exp(delta * self._a(delta)), delta * B[:, None], C[:, None])

    def finish(self, y: Tensor, features: S6Features) -> Tensor:  # noqa: ARG002
        return self.W_O(y[..., 0].mT)

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """State: (B, D, N)."""
        B, C, delta, v = self.features(x[:, None])
        rate = delta.mT  # (B, D, 1)
        after = rate * B * v[..., 0]
        if state is not None:
            after = after + torch.exp(rate * self._a(delta)) * state
        return self.W_O((after @ C.mT)[..., 0]), after


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise InputError(f"{name} is {value}; expected a number above 0")
    return value
