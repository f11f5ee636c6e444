"""mLSTM of xLSTM: a matrix memory with exponential gates for each head (Beck et al. 2024, arXiv 2405.04517, sec. 2.3).

`S_t = f_t S_{t-1} + i_t k_t v_t^T,  n_t = f_t n_{t-1} + i_t k_t,  y_t = S_t^T q_t / max(|n_t^T q_t|, 1)` with
`i_t = exp(.)`, `f_t = sigmoid(.)`. Given the data the denominator is a number for each row of T. S and n are kept
divided by `exp(m_t)`, `m_t = max(log f_t + m_{t-1}, log i_t)`, as in the model, so that nothing overflows. The norm and
the gate behind T are not in it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from assay.models.adapters._calls import MixerCall, flat_heads
from assay.models.adapters._registry import Reading, adapter
from assay.operators import RecurrentOperator


@adapter("xLSTMLayer", "mLSTM (xLSTM): one normalised recurrence for each head",
         matches=lambda module: type(module).__name__ in ("xLSTMLayer", "mLSTMLayer"))  # fmt: skip
def read_mlstm(call: MixerCall) -> Reading:
    """Operators with batch shape (B, H), state qk_dim / H, v_dim / H value channels each, float64."""
    config, found = call.module.config, call.outputs
    if config.weight_mode == "fused":
        sizes = [call.module.qk_dim, call.module.qk_dim, call.module.v_dim, call.module.v_dim]
        q, k, v, _ = found["qkv_opreact"].split(sizes, dim=-1)
        gates = found["ifgate_preact"]
    else:
        q, k, v = found["q"], found["k"], found["v"]
        gates = torch.cat([found["igate_preact"], found["fgate_preact"]], dim=-1)
    if (cap := config.gate_soft_cap) is not None:
        gates = cap * torch.tanh(gates / cap)
    log_i, forget = gates.double().mT.chunk(2, dim=-2)  # (B, H, L) each
    q, k = (flat_heads(tensor.double(), config.num_heads) for tensor in (q, k))
    operator = mlstm(q, k, log_i, nn.functional.logsigmoid(forget), call.module.mlstm_backend.config.eps)
    return Reading(operator, flat_heads(v, config.num_heads), found["mlstm_backend"])


def mlstm(q: Tensor, k: Tensor, log_i: Tensor, log_f: Tensor, eps: float) -> RecurrentOperator:
    """T for queries and keys (..., L, N) and logarithms of the gates (..., L): batch shape (...), state N.

    `eps` is added to the denominator after its division by `exp(m_t)`.
    """
    total = log_f.cumsum(-1)
    m = total + (log_i - total).cummax(-1).values.clamp(min=0)  # m_{-1} = 0
    before = nn.functional.pad(m[..., :-1], (1, 0))
    A = torch.exp(log_f + before - m)[..., None]
    B = torch.exp(log_i - m)[..., None] * k
    C = q * q.shape[-1] ** -0.5
    along = RecurrentOperator(A, B, C).apply(torch.ones_like(A))  # q_t n_t
    return RecurrentOperator(A, B, C / (torch.maximum(along.abs(), torch.exp(-m)[..., None]) + eps))
