"""HGRN: a gated linear recurrence whose forget gate has a learned lower bound (Qin et al. 2023, arXiv 2311.04823)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from assay._errors import InputError
from assay.nn._mixer import Mixer, heads, merge_heads
from assay.nn._scan import at_least_float32, scan
from assay.operators import RecurrentOperator


class HGRNFeatures(NamedTuple):
    """values: (B, d_model, L, 1); forget, gate: (B, L, d_model)."""

    values: Tensor
    forget: Tensor
    gate: Tensor


class HGRN(Mixer):
    """`h_t = f_t h_{t-1} + (1 - f_t) c_t,  f_t = gamma + (1 - gamma) sigmoid(W_f u),  c_t = silu(W_c u)` for each
    channel, then `W_out layer_norm(sigmoid(W_g u) * h)`.

    Args:
        d_model: width.
        num_heads: no effect (each channel has an operator).
        lower_bound: gamma at the start, strictly between 0 and 1; it learns, for each channel, as `sigmoid(.)`. The
            paper lets it rise from layer to layer; a stack does so by giving deeper layers a larger one.

    The real form: the paper's fixed rotation of a complex h is left out, as in later implementations. A state of one
    number for each channel.
    """

    def __init__(self, d_model: int, *, num_heads: int = 4, lower_bound: float = 0.5) -> None:
        super().__init__(d_model)
        del num_heads
        if not 0 < lower_bound < 1:
            raise InputError(f"lower_bound is {lower_bound}; expected a number between 0 and 1, ends excluded")
        self.in_proj = nn.Linear(d_model, 3 * d_model)
        self.gamma_logit = nn.Parameter(torch.full((d_model,), math.log(lower_bound / (1 - lower_bound))))
        self.norm = nn.LayerNorm(d_model)
        self.out_proj = nn.Linear(d_model, d_model)

    def features(self, x: Tensor) -> HGRNFeatures:
        forget, candidate, gate = self.in_proj(x).chunk(3, dim=-1)
        gamma = torch.sigmoid(self.gamma_logit)
        forget = gamma + (1 - gamma) * torch.sigmoid(at_least_float32(forget))
        return HGRNFeatures(heads(nn.functional.silu(candidate), self.d_model), forget, torch.sigmoid(gate))

    def mix(self, features: HGRNFeatures) -> Tensor:
        return heads(scan(features.forget, (1 - features.forget) * merge_heads(features.values)), self.d_model)

    def to_operator(self, features: HGRNFeatures) -> RecurrentOperator:
        A = heads(features.forget, self.d_model)
        return RecurrentOperator(A, 1 - A, torch.ones_like(A))

    def finish(self, y: Tensor, features: HGRNFeatures) -> Tensor:
        return self.out_proj(self.norm(features.gate * merge_heads(y).to(features.gate.dtype)))

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The state: h, (B, d_model)."""
        features = self.features(x[:, None])
        forget, candidate = features.forget[:, 0], features.values[:, :, 0, 0]
        h = (1 - forget) * candidate + (0 if state is None else forget * state)
        return self.finish(h[:, :, None, None], features)[:, 0], h
