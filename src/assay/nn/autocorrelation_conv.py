"""A gated convolution whose filter depends on the input (after Arora et al. 2023, Zoology, arXiv 2312.04927)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from assay.nn._mixer import Mixer
from assay.operators import DenseOperator


class AutocorrelationConvFeatures(NamedTuple):
    """values: (B, 1, L, d_model); lag: (B, L), that of the filter's only tap, -1 for no tap; gate: (B, L, d_model)."""

    values: Tensor
    lag: Tensor
    gate: Tensor


class AutocorrelationConv(Mixer):
    """`y_t = (W u_t + b1) * (u_{t - s_t} + b2)`: `BaseConv` with one tap, at a lag s_t that the input chooses.

    The autocorrelation of the input at t, `<u_t, u_{t-r}> / (|u_t| |u_{t-r}|)` for r >= 1, has its peak where the token
    most like u_t stood; the filter reads the token that followed, `s_t = r - 1`, the latest where several are alike.
    A filter that is the same for all inputs must hold every lag at once, and its width has to keep them apart.

    The paper's filters are made of the whole sequence, and so look ahead; this one is made of the past, for each
    token. What is remembered of the paper's form is not exact. All channels share T; the choice of s has no gradient.
    O(L^2 d_model). `num_heads` has no effect. `step` keeps all past inputs.
    """

    def __init__(self, d_model: int, *, num_heads: int = 4) -> None:
        super().__init__(d_model)
        del num_heads
        self.bias = nn.Parameter(torch.zeros(d_model))
        self.gate_proj = nn.Linear(d_model, d_model)

    def features(self, x: Tensor) -> AutocorrelationConvFeatures:
        return AutocorrelationConvFeatures(x[:, None], _lag(x, x), self.gate_proj(x))

    def mix(self, features: AutocorrelationConvFeatures) -> Tensor:
        v, lag = features.values[:, 0], features.lag
        source = (torch.arange(v.shape[1], device=v.device) - lag.clamp(min=0))[..., None].expand_as(v)
        return (v.gather(1, source) * (lag >= 0)[..., None])[:, None]

    def to_operator(self, features: AutocorrelationConvFeatures) -> DenseOperator:
        at = torch.arange(features.lag.shape[-1], device=features.lag.device)
        T = (at[:, None] - at == features.lag[..., None]) & (features.lag[..., None] >= 0)
        return DenseOperator(T[:, None].to(features.values.dtype))

    def finish(self, y: Tensor, features: AutocorrelationConvFeatures) -> Tensor:
        return features.gate * (y[:, 0] + self.bias)

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The state: the inputs so far, (B, t, d_model)."""
        past = x[:, None] if state is None else torch.cat([state, x[:, None]], dim=1)
        lag = _lag(x[:, None], past)[:, 0]
        read = past[torch.arange(len(x), device=x.device), past.shape[1] - 1 - lag.clamp(min=0)]
        return self.gate_proj(x) * (read * (lag >= 0)[:, None] + self.bias), past


@torch.no_grad()
def _lag(x: Tensor, past: Tensor) -> Tensor:
    """(B, Q, d), the last Q of `past`, (B, L, d) -> the lag for each, (B, Q), -1 for the very first token."""
    queries, length = x.shape[1], past.shape[1]
    alike = normalize(x, dim=-1) @ normalize(past, dim=-1).mT
    later = torch.arange(length, device=x.device) >= torch.arange(length - queries, length, device=x.device)[:, None]
    # equal tokens differ by rounding; of those within it the latest counts
    alike = alike.masked_fill(later, -torch.inf)
    peak = alike >= alike.amax(-1, keepdim=True) - 1e-5
    latest = length - 1 - peak.flip(-1).int().argmax(-1)
    return torch.where(later.all(-1), -1, torch.arange(length - queries, length, device=x.device) - latest - 1)
