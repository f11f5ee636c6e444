"""RWKV-4: one normalised recurrence for each channel (Peng et al. 2023, arXiv 2305.13048, equation 16).

`y_t = (sum_{j<t} exp(-(t-1-j) w + k_j) v_j + exp(u + k_t) v_t) / (the same sum without v)`. The state is read before
the update, and the current token enters with a weight u of its own. The denominator is known once the keys are, so it
scales the rows of T, which then sum to 1. The gate `sigmoid(r)` comes behind T.
"""

from __future__ import annotations

import torch
from torch import Tensor

from assay.models.adapters._calls import MixerCall
from assay.models.adapters._registry import Reading, adapter
from assay.operators import RecurrentOperator


@adapter("RwkvSelfAttention", "RWKV-4: one normalised recurrence for each channel")
def read_rwkv(call: MixerCall) -> Reading:
    """Operators with batch shape (B, D), state 1, one value channel each, float64."""
    decay, first = (p.detach().double()[:, None] for p in (call.module.time_decay.exp(), call.module.time_first))
    operator = wkv(call.outputs["key"].double().mT, decay, first)
    return Reading(
        operator,
        values=_channels(call.outputs["value"]),
        output=_channels(call.inputs["output"]),
        gate=_channels(torch.sigmoid(call.outputs["receptance"])),
    )


def wkv(key: Tensor, decay: Tensor, first: Tensor) -> RecurrentOperator:
    """T for keys k (..., L), decay w >= 0 and bonus u, both (..., 1): batch shape (...), state 1.

    The state is kept divided by `exp(p_t)`, p_t the largest exponent in it, so that nothing overflows.
    """
    drift = decay * torch.arange(key.shape[-1], dtype=key.dtype, device=key.device)
    after = (key + drift).cummax(-1).values - drift  # p_{t+1} = max(p_t - w, k_t)
    before = torch.cat([torch.full_like(after[..., :1], -torch.inf), after[..., :-1]], dim=-1)
    top = torch.maximum(before, first + key)  # the largest exponent in y_t
    A = torch.exp(before - decay - after)[..., None]
    B = torch.exp(key - after)[..., None]
    C, D = torch.exp(before - top)[..., None], torch.exp(first + key - top)
    total = RecurrentOperator.pre_update(A, B, C, D).apply(torch.ones_like(B))  # at least 1
    return RecurrentOperator.pre_update(A, B, C / total, D / total[..., 0])


def _channels(tensor: Tensor) -> Tensor:
    """(B, L, D) -> (B, D, L, 1)."""
    return tensor.mT[..., None]
