"""Delta-rule mixers: Gated DeltaNet and Kimi Delta Attention, one recurrence for each value head.

`S_t = (I - beta_t k_t k_t^T) diag(alpha_t) S_{t-1} + beta_t k_t v_t^T,  y_t = S_t^T q_t`: the state decays, what it
predicts for this key is taken out, the new value is put in, and then the state is read. Gated DeltaNet has one decay
for a head (Yang et al. 2024, arXiv 2412.06464, section 3.1), Kimi Delta Attention one for each key channel (Kimi Team
2025, arXiv 2510.26692, section 3). q, k and v come out of a short convolution, and q and k are then scaled to unit
length; neither is part of T. A key head serves consecutive value heads. Padding enters the mixer as zeros.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from assay.models.adapters._calls import MixerCall, at_least_float32, flat_heads
from assay.models.adapters._registry import Reading, adapter
from assay.models.adapters.mamba2 import short_convolution
from assay.operators import RecurrentOperator

_GATED_DELTA_NETS = ("Qwen3NextGatedDeltaNet", "Qwen3_5GatedDeltaNet", "Qwen3_5MoeGatedDeltaNet",
                     "Qwen4ExpTextGatedDeltaNet", "OlmoHybridGatedDeltaNet")  # fmt: skip
_KIMI_DELTA_ATTENTIONS = ("KimiLinearDeltaAttention", "BailingHybridDeltaAttention", "Glm5NextTextLinearAttention")


@adapter("GatedDeltaNet", "Gated DeltaNet of Qwen3-Next, Qwen3.5, Qwen4 and OLMo hybrid: one recurrence for each head",
         matches=lambda module: type(module).__name__ in _GATED_DELTA_NETS)  # fmt: skip
def read_gated_delta_net(call: MixerCall) -> Reading:
    """Operators with batch shape (B, value heads), state head_k_dim, head_v_dim value channels each."""
    mixer, outputs = call.module, call.outputs
    if "in_proj_qkvz" in outputs:  # Qwen3-Next: key heads side by side, each with its part of everything
        query, key, value, _, b, a = mixer.fix_query_key_value_ordering(outputs["in_proj_qkvz"], outputs["in_proj_ba"])
        mixed = torch.cat([part.flatten(2) for part in (query, key, value)], dim=-1)
    elif "in_proj_qkv" in outputs:  # Qwen3.5, Qwen4
        mixed, b, a = (outputs[f"in_proj_{name}"] for name in ("qkv", "b", "a"))
    else:  # OLMo hybrid
        mixed, b, a = _side_by_side(outputs), outputs["b_proj"], outputs["a_proj"]
    beta = b.sigmoid() * (2 if getattr(mixer, "allow_neg_eigval", False) else 1)
    log_decay = -at_least_float32(mixer.A_log).exp() * nn.functional.softplus(
        at_least_float32(a) + mixer.dt_bias
    )  # (B, L, H)
    output = call.inputs["norm" if "norm" in call.inputs else "o_norm"]
    return _read(mixer, mixed, (mixer.num_k_heads, mixer.head_k_dim), beta, log_decay[..., None], output)


@adapter("KimiDeltaAttention", "Kimi Delta Attention of Kimi Linear, Ling (bailing_hybrid), GLM: a decay per channel",
         matches=lambda module: type(module).__name__ in _KIMI_DELTA_ATTENTIONS)  # fmt: skip
def read_kimi_delta_attention(call: MixerCall) -> Reading:
    """Operators with batch shape (B, H), state head_dim, head_dim value channels each."""
    mixer, outputs = call.module, call.outputs
    mixed, beta, log_decay = _side_by_side(outputs), outputs["b_proj"].sigmoid(), outputs["forget_gate"]
    return _read(mixer, mixed, (mixer.num_heads, mixer.head_dim), beta, log_decay, call.inputs["o_norm"])


def _read(mixer: Any, mixed: Tensor, keys: tuple[int, int], beta: Tensor, log_decay: Tensor, output: Tensor) -> Reading:
    """The operator from what the mixer projected.

    mixed: q, k and v before the convolution, (B, L, C). keys: key heads, and N, the channels of one. beta: (B, L, H).
    log_decay: (B, L, H, N or 1). output: what entered the gated norm, (B, L, H, V) in any shape.
    """
    from transformers.activations import ACT2FN

    batch, length, heads = beta.shape
    key_heads, key_size = keys
    width = key_heads * key_size
    mixed = short_convolution(mixed, mixer.conv1d, ACT2FN[mixer.activation])
    query, key, value = mixed.split([width, width, mixed.shape[-1] - 2 * width], dim=-1)
    query, key = (
        _unit(at_least_float32(flat_heads(part, key_heads))).repeat_interleave(heads // key_heads, dim=1)
        for part in (query, key)
    )  # (B, H, L, N)
    alpha = at_least_float32(log_decay).exp().transpose(1, 2)
    written = at_least_float32(beta).mT[..., None] * key
    operator = RecurrentOperator(alpha, written, query * key_size**-0.5, rank_one=(-written, alpha * key))
    return Reading(
        operator, at_least_float32(flat_heads(value, heads)), flat_heads(output.reshape(batch, length, -1), heads)
    )


def _side_by_side(outputs: dict[str, Tensor]) -> Tensor:
    """q, k and v from projections of their own, (B, L, C)."""
    return torch.cat([outputs[f"{name}_proj"] for name in "qkv"], dim=-1)


def _unit(x: Tensor) -> Tensor:
    """Vectors along the last dimension, scaled to length 1; the 1e-6 is the models' own, and keeps zeros zero."""
    return x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt()
