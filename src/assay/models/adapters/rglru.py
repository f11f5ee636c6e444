"""RG-LRU of Griffin and RecurrentGemma: a gated scalar recurrence for each channel (De et al. 2024, arXiv 2402.19427).

`h_t = a_t h_{t-1} + sqrt(1 - a_t^2) i_t x_t` with `a_t = exp(-8 softplus(Lambda) r_t)` (section 2.4, equations 1 to 4).
At the start of a sequence `a_t = 0` and the root is 1. The short convolution before it and the gate behind it are not
in T.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from assay.models.adapters._calls import MixerCall
from assay.models.adapters._registry import Reading, adapter
from assay.operators import RecurrentOperator


@adapter("RecurrentGemmaRecurrentBlock", "RG-LRU (Griffin, RecurrentGemma): one scalar recurrence for each channel")
def read_rglru(call: MixerCall) -> Reading:
    """Operators with batch shape (B, lru_width), state 1, one value channel each."""
    lru = call.module.rg_lru
    x, positions = call.arguments["rg_lru"]
    # in the model's own precision: 1 - a^2 cancels, so its rounding is part of what the model computes
    i, r = (torch.sigmoid(_gate(lru, name, x)) for name in ("input", "recurrent"))
    log_a = -8.0 * r * nn.functional.softplus(lru.recurrent_param)
    start = positions[..., None] == 0
    scale = torch.where(start, 1.0, torch.sqrt(1 - torch.exp(2 * log_a)))
    operator = RecurrentOperator(
        _channels(torch.exp(log_a) * ~start), _channels(i * scale), x.new_ones(1, 1, 1, 1).expand_as(_channels(x))
    )
    return Reading(operator, _channels(x), _channels(call.outputs["rg_lru"]))


def _gate(lru: nn.Module, name: str, x: Tensor) -> Tensor:
    """A linear map that is block-diagonal over heads: (B, L, D) -> (B, L, D)."""
    weight, bias = getattr(lru, f"{name}_gate_weight"), getattr(lru, f"{name}_gate_bias")
    heads = x.flatten(0, 1).unflatten(-1, (weight.shape[0], -1)).transpose(0, 1)  # (H, B * L, D / H)
    return torch.baddbmm(bias[:, None], heads, weight).transpose(0, 1).reshape(x.shape)


def _channels(tensor: Tensor) -> Tensor:
    """(B, L, D) -> (B, D, L, 1)."""
    return tensor.mT[..., None]
