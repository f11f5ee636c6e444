"""Lightning attention (MiniMax): linear attention with a fixed decay for each head (Qin et al. 2024, arXiv 2401.04658).

`S_t = exp(-s_h) S_{t-1} + k_t v_t^T,  y_t = S_t^T q_t`. The slope s_h differs from head to head, as in ALiBi, and
shrinks with the depth of the layer. The activation on q, k and v takes the place of a feature map; padding is set to
zero behind it. T is not normalised by the sum of its weights: a norm over all heads comes after it.
"""

from __future__ import annotations

import torch

from assay.models.adapters._calls import MixerCall, flat_heads
from assay.models.adapters._registry import Reading, adapter
from assay.operators import RecurrentOperator


@adapter("MiniMaxLightningAttention", "lightning attention of MiniMax: one recurrence with a fixed decay for each head")
def read_lightning_attention(call: MixerCall) -> Reading:
    """Operators with batch shape (B, H), state head_dim, head_dim value channels each."""
    mixer = call.module
    heads = mixer.num_attention_heads
    mixed = mixer.act_fn(call.outputs["qkv_proj"])
    if (mask := call.attention_mask) is not None:
        mixed = mixed * mask[:, :, None].to(mixed)
    mixed = flat_heads(mixed.to(torch.promote_types(mixed.dtype, torch.float32)), heads)
    query, key, value = mixed.chunk(3, dim=-1)  # (B, H, L, C) each
    decay = torch.exp(-mixer.slope_rate.to(mixed))  # (H, 1, 1)
    return Reading(RecurrentOperator(decay, key, query), value, flat_heads(call.inputs["norm"], heads))
