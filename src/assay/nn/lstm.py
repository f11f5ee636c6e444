"""LSTM: gates that see the last output, so that the recurrence is linear only once they are known."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from assay.nn._mixer import Mixer, heads, merge_heads
from assay.operators import RecurrentOperator


class LSTMFeatures(NamedTuple):
    """values, the candidates: (B, d_model, L, 1); input, forget, output, and the cells c: (B, L, d_model)."""

    values: Tensor
    input: Tensor
    forget: Tensor
    output: Tensor
    cells: Tensor


class LSTM(Mixer):
    """`c_t = f_t c_{t-1} + i_t g_t,  h_t = o_t tanh(c_t)`, where i, f, o = sigmoid and g = tanh of `W u_t + U h_{t-1}`.

    T is the linear map from the candidates g to the cells c *with the gates held*: a state of one number for each
    channel. What the gates owe to the past through U is not in it; a Jacobian of the module has that too.

    Args:
        d_model: width, also of the cells.
        num_heads: no effect (each channel has an operator).

    Weights U(-1/sqrt(d), 1/sqrt(d)), as `nn.LSTM`; the forget gate's bias is 1 at first (Jozefowicz et al. 2015). No
    projection follows. `features` runs token by token, as it must: O(L d^2).
    Source: Hochreiter & Schmidhuber 1997; Gers et al. 2000.
    """

    def __init__(self, d_model: int, *, num_heads: int = 4) -> None:
        super().__init__(d_model)
        del num_heads
        bound = d_model**-0.5
        self.in_proj = nn.Linear(d_model, 4 * d_model)  # i, f, o, g
        self.recurrent_weight = nn.Parameter(torch.empty(d_model, 4 * d_model).uniform_(-bound, bound))
        with torch.no_grad():
            self.in_proj.bias[d_model : 2 * d_model].fill_(1.0)

    def features(self, x: Tensor) -> LSTMFeatures:
        h = c = x.new_zeros(x.shape[0], self.d_model)
        tokens = []
        for driven in self.in_proj(x).unbind(1):
            *parts, h, c = self._cell(driven, h, c)
            tokens.append((*parts, c))
        i, f, o, g, cells = (torch.stack(part, dim=1) for part in zip(*tokens, strict=True))
        return LSTMFeatures(heads(g, self.d_model), i, f, o, cells)

    def _cell(self, driven: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        """`W u_t + b`, (B, 4 d_model), and the state before -> i, f, o, g, h, c, (B, d_model) each."""
        raw = torch.addmm(driven, h.to(driven.dtype), self.recurrent_weight.to(driven.dtype))
        i, f, o = torch.sigmoid(raw[:, : 3 * self.d_model]).chunk(3, dim=-1)
        g = torch.tanh(raw[:, 3 * self.d_model :])
        c = torch.addcmul(i * g, f, c)
        return i, f, o, g, o * torch.tanh(c), c

    def mix(self, features: LSTMFeatures) -> Tensor:
        """The cells that `features` had to compute."""
        return heads(features.cells, self.d_model)

    def to_operator(self, features: LSTMFeatures) -> RecurrentOperator:
        A, B = heads(features.forget, self.d_model), heads(features.input, self.d_model)
        return RecurrentOperator(A, B, torch.ones_like(A))

    def finish(self, y: Tensor, features: LSTMFeatures) -> Tensor:
        return features.output * torch.tanh(merge_heads(y))

    def step(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The state: h and c, (B, d_model) each."""
        h, c = state or (torch.zeros_like(x), torch.zeros_like(x))
        *_, h, c = self._cell(self.in_proj(x), h, c)
        return h, (h, c)
