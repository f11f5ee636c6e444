"""Gated linear attention."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.functional import logsigmoid, silu

from assay._errors import InputError
from assay.nn._head_size import head_size
from assay.nn._linear_attention import linear_attention, linear_attention_step
from assay.nn._mixer import Mixer, heads, merge_heads
from assay.nn._norm import RMSNorm
from assay.nn._scan import at_least_float32
from assay.operators import RecurrentOperator


class GLAFeatures(NamedTuple):
    """q, k: (B, H, L, N); log_decay: log alpha, (B or 1, H, L or 1, N); values: (B, H, L, C); gate: (B, L, H * C)."""

    q: Tensor
    k: Tensor
    log_decay: Tensor
    values: Tensor
    gate: Tensor


class GatedLinearAttention(Mixer):
    """`S_t = diag(alpha_t) S_{t-1} + k_t v_t^T,  y_t = q_t^T S_t / sqrt(N)` in each head, with
    `alpha_t = sigmoid(W_2 W_1 x_t + b)^{1 / gate_temperature}`; then `W_O (swish(W_R x + b_R) o RMSNorm(y))`, the norm
    over each head.

    Source: Yang et al. 2023 (arXiv 2312.06635), section 4.4. Sizes: N = expand_k d_model / num_heads,
    C = expand_v d_model / num_heads, W_1 to `gate_rank` numbers; the state of a head is N C numbers.
    T is post-update. Initialised as `nn.Linear`, with which alpha starts near 0.96.
    Raises `InputError` where expand_k d_model or expand_v d_model is no multiple of num_heads, or the temperature is
    not above 0.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        expand_k: float = 0.5,
        expand_v: float = 1.0,
        gate_rank: int = 16,
        gate_temperature: float = 16.0,
    ) -> None:
        super().__init__(d_model)
        if not gate_temperature > 0:
            raise InputError(f"gate_temperature is {gate_temperature}; expected a number above 0")
        keys, values = int(expand_k * d_model), int(expand_v * d_model)
        self.num_heads, self.gate_temperature = num_heads, gate_temperature
        self.key_size = head_size(keys, num_heads, of="expand_k * d_model")
        value_size = head_size(values, num_heads, of="expand_v * d_model")
        self.q = nn.Linear(d_model, keys, bias=False)
        self.k = nn.Linear(d_model, keys, bias=False)
        self.v = nn.Linear(d_model, values, bias=False)
        self.decay: nn.Module = nn.Sequential(nn.Linear(d_model, gate_rank, bias=False), nn.Linear(gate_rank, keys))
        self.gate = nn.Linear(d_model, values)
        self.norm = RMSNorm(value_size, eps=1e-5)
        self.out = nn.Linear(values, d_model, bias=False)

    def _log_decay(self, x: Tensor) -> Tensor:
        z = at_least_float32(self.decay(x))
        return heads(logsigmoid(z), self.num_heads) / self.gate_temperature

    def features(self, x: Tensor) -> GLAFeatures:
        q, k, v = (heads(project(x), self.num_heads) for project in (self.q, self.k, self.v))
        return GLAFeatures(q * self.key_size**-0.5, k, self._log_decay(x), v, silu(self.gate(x)))

    def mix(self, features: GLAFeatures) -> Tensor:
        return linear_attention(features.q, features.k, features.values, features.log_decay)

    def to_operator(self, features: GLAFeatures) -> RecurrentOperator:
        return RecurrentOperator(features.log_decay.exp(), features.k, features.q)

    def finish(self, y: Tensor, features: GLAFeatures) -> Tensor:
        return self.out(merge_heads(self.norm(y)) * features.gate)

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """State: S, (B, H, N, C)."""
        features = self.features(x[:, None])
        q, k, log_decay, v = (t[:, :, 0] for t in features[:4])
        y, state = linear_attention_step(q, k, v, log_decay, state)
        return self.finish(y[:, :, None], features)[:, 0], state
