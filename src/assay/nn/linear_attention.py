"""Linear attention, and linear attention with a constant learned decay."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import elu

from assay.nn._head_size import head_size
from assay.nn._linear_attention import linear_attention, linear_attention_step
from assay.nn._mixer import Mixer, heads, merge_heads
from assay.nn.gla import GatedLinearAttention
from assay.operators import RecurrentOperator


class LinearAttentionFeatures(NamedTuple):
    """q, k: (B, H, L, N), positive; values: (B, H, L, C); normaliser: `q_t . sum_{j <= t} k_j`, (B, H, L, 1)."""

    q: Tensor
    k: Tensor
    values: Tensor
    normaliser: Tensor


class LinearAttention(Mixer):
    """`y_t = phi(q_t)^T sum_{j<=t} phi(k_j) v_j^T / phi(q_t)^T sum_{j<=t} phi(k_j)`, `phi(x) = elu(x) + 1`, a head.

    Source: Katharopoulos et al. 2020 (arXiv 2006.16236), sections 3.2 and 3.3. Sizes: q, k, v of d_model / num_heads
    a head; the state of a head is (d_model / num_heads)^2 + d_model / num_heads numbers. T is post-update with A = 1.
    Initialised as `nn.Linear`, as in the paper's code, without biases.
    Raises `InputError` where d_model is no multiple of num_heads.
    """

    def __init__(self, d_model: int, *, num_heads: int = 4) -> None:
        super().__init__(d_model)
        head_size(d_model, num_heads)
        self.num_heads = num_heads
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def features(self, x: Tensor) -> LinearAttentionFeatures:
        q, k, v = self._project(x)
        return LinearAttentionFeatures(q, k, v, (q * k.cumsum(-2)).sum(-1, keepdim=True))

    def mix(self, features: LinearAttentionFeatures) -> Tensor:
        return linear_attention(features.q, features.k, features.values) / features.normaliser

    def to_operator(self, features: LinearAttentionFeatures) -> RecurrentOperator:
        ones = torch.ones_like(features.normaliser)
        return RecurrentOperator(ones, features.k, features.q / features.normaliser)

    def finish(self, y: Tensor, features: LinearAttentionFeatures) -> Tensor:  # noqa: ARG002
        return self.out(merge_heads(y))

    def step(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """State: (S, sum of phi(k)), (B, H, N, C) and (B, H, N)."""
        q, k, v = (t[:, :, 0] for t in self._project(x[:, None]))
        before, keys = (None, k) if state is None else (state[0], state[1] + k)
        y, after = linear_attention_step(q, k, v, state=before)
        return self.out((y / (q * keys).sum(-1, keepdim=True)).flatten(1)), (after, keys)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (heads(t, self.num_heads) for t in self.qkv(x).chunk(3, dim=-1))
        return elu(q) + 1, elu(k) + 1, v


class WeightedLinearAttention(GatedLinearAttention):
    """Gated linear attention whose decays are learned but do not depend on the input:
    `S_t = diag(sigmoid(a)^{1 / gate_temperature}) S_{t-1} + k_t v_t^T,  y_t = q_t^T S_t / sqrt(N)` in each head, a of
    N numbers a head, 0 at first.

    Source: the class WLA of Parnichkun et al. 2025 (arXiv 2504.19561), where gate_temperature is beta, in the layer of
    `GatedLinearAttention`: its norm, gate, sizes and errors. The class alone is `assay.nn.ess_classes.WLA`.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        expand_k: float = 0.5,
        expand_v: float = 1.0,
        gate_temperature: float = 16.0,
    ) -> None:
        super().__init__(
            d_model, num_heads=num_heads, expand_k=expand_k, expand_v=expand_v, gate_temperature=gate_temperature
        )
        self.decay = ConstantLogits(num_heads * self.key_size)


class ConstantLogits(nn.Module):
    """(..., L, d_model) -> (1, 1, width): a parameter in the place of a projection, 0 at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:  # noqa: ARG002
        return self.a[None, None]
