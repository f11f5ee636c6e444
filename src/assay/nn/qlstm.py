"""qLSTM: an LSTM whose gates see the input alone (Sieber et al. 2024, arXiv 2405.15731)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from assay.nn._head_size import check_sizes
from assay.nn._mixer import Mixer, heads, merge_heads
from assay.nn._scan import at_least_float32, scan
from assay.nn._short_convolution import ShortConvolution
from assay.operators import RecurrentOperator


class QLSTMFeatures(NamedTuple):
    """values: (B, d_inner, L, 1); forget, input, output, gate: (B, L, d_inner)."""

    values: Tensor
    forget: Tensor
    input: Tensor
    output: Tensor
    gate: Tensor


class QLSTM(Mixer):
    """`h_t = f_t h_{t-1} + i_t W_u x_t,  y_t = o_t h_t`, gates `sigmoid(W x_t)`, x the short convolution of `W_x u`;
    then `W_out (y * gelu(W_z u))`.

    Args:
        d_model: width.
        num_heads: no effect (each inner channel has an operator).
        reversed_gate: the forget gate is `sigmoid(-W_f x)^relu(alpha)`, alpha a learned scalar, 1 at first: S6's gate,
            `exp(-alpha softplus(.))`, which raises recall (section 4.3).
        expand: d_inner / d_model.
        conv_size: kernel of the short convolution.

    Weights N(0, 1 / fan-in), as in the authors' code. A state of one number for each inner channel.
    """

    def __init__(
        self, d_model: int, *, num_heads: int = 4, reversed_gate: bool = False, expand: int = 2, conv_size: int = 4
    ) -> None:
        super().__init__(d_model)
        del num_heads
        check_sizes(d_model=d_model, expand=expand, conv_size=conv_size)
        self.d_inner = expand * d_model
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=False)
        self.conv = ShortConvolution(self.d_inner, conv_size)
        self.gate_proj = nn.Linear(self.d_inner, 4 * self.d_inner, bias=False)
        self.alpha = nn.Parameter(torch.ones(())) if reversed_gate else None
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)
        for linear in (self.in_proj, self.gate_proj, self.out_proj):
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)

    def features(self, x: Tensor) -> QLSTMFeatures:
        u, gate = self.in_proj(x).chunk(2, dim=-1)
        return self._gates(self.conv(u), gate)

    def _gates(self, u: Tensor, gate: Tensor) -> QLSTMFeatures:
        values, *raw = self.gate_proj(u).chunk(4, dim=-1)
        forget, i, o = (at_least_float32(z) for z in raw)
        if self.alpha is None:
            forget = torch.sigmoid(forget)
        else:
            forget = torch.exp(torch.relu(self.alpha) * nn.functional.logsigmoid(-forget))
        return QLSTMFeatures(heads(values, self.d_inner), forget, torch.sigmoid(i), torch.sigmoid(o), gate)

    def mix(self, features: QLSTMFeatures) -> Tensor:
        h = scan(features.forget, features.input * merge_heads(features.values))
        return heads(features.output * h, self.d_inner)

    def to_operator(self, features: QLSTMFeatures) -> RecurrentOperator:
        gates = (features.forget, features.input, features.output)
        return RecurrentOperator(*(heads(gate, self.d_inner) for gate in gates))

    def finish(self, y: Tensor, features: QLSTMFeatures) -> Tensor:
        y = merge_heads(y).to(features.gate.dtype)
        return self.out_proj(y * nn.functional.gelu(features.gate))

    def step(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The state: inputs of the short convolution, (B, conv_size - 1, d_inner), and h, (B, d_inner)."""
        past, h = state or (None, None)
        u, gate = self.in_proj(x).chunk(2, dim=-1)
        u, past = self.conv.step(u, past)
        features = self._gates(u[:, None], gate[:, None])
        added = features.input[:, 0] * features.values[:, :, 0, 0]
        h = added if h is None else features.forget[:, 0] * h + added
        y = features.output[:, 0] * h
        return self.finish(y[:, :, None, None], features)[:, 0], (past, h)
