"""Mamba-2 (SSD): one recurrence with a scalar transition for each head (Dao & Gu 2024, arXiv 2405.21060).

`h_t = exp(Delta_t A) h_{t-1} + Delta_t B_t x_t,  y_t = C_t h_t + D x_t`; all channels of a head share it, B and C are
shared by a group of heads. x, B and C come out of a short convolution, which is not part of T.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from assay.models.adapters._calls import MixerCall, at_least_float32, flat_heads
from assay.models.adapters._registry import Reading, adapter
from assay.operators import RecurrentOperator

_CLASSES = ("Mamba2Mixer", "BambaMixer", "FalconH1Mixer", "GraniteMoeHybridMambaLayer", "NemotronHMamba2Mixer",
            "Zamba2MambaMixer")  # fmt: skip


@adapter("Mamba2Mixer", "Mamba-2, Bamba, Falcon-H1, Granite hybrid, Nemotron-H, Zamba2: one recurrence for each head",
         matches=lambda module: type(module).__name__ in _CLASSES)  # fmt: skip
def read_mamba2(call: MixerCall) -> Reading:
    """Operators with batch shape (B, H), state N, head_dim value channels each."""
    mixer = call.module
    heads, groups, state, inner = mixer.num_heads, mixer.n_groups, mixer.ssm_state_size, mixer.intermediate_size
    projected = call.outputs["in_proj"] * getattr(mixer, "mup_vector", 1.0)  # multipliers of Falcon-H1
    gate, convolved, delta = projected.split([inner, mixer.conv_dim, heads], dim=-1)
    convolved = short_convolution(convolved, mixer.conv1d, mixer.act)
    if (mask := call.attention_mask) is not None:
        convolved = convolved * mask[:, :, None].to(convolved.dtype)
    x, B, C = convolved.split([inner, groups * state, groups * state], dim=-1)
    # in float32, as the models do whatever their own precision is
    B, C = (flat_heads(t, groups).repeat_interleave(heads // groups, dim=1).float() for t in (B, C))
    step = (
        nn.functional.softplus(delta.float() + mixer.dt_bias.float()).clamp(*mixer.time_step_limit).mT[..., None]
    )  # (B, H, L, 1)
    transition = torch.exp(-torch.exp(mixer.A_log.float())[:, None, None] * step)
    operator = RecurrentOperator(transition, step * B, C, mixer.D.detach().float()[:, None])
    if "norm" in call.arguments:  # a gated norm: read before it, (B, L, d_inner)
        output, gate = call.arguments["norm"][0], None
    else:
        output, gate = call.inputs["out_proj"], flat_heads(nn.functional.silu(at_least_float32(gate)), heads)
    return Reading(operator, flat_heads(x.float(), heads), flat_heads(output, heads), gate)


def short_convolution(x: Tensor, conv: nn.Conv1d, activation: nn.Module) -> Tensor:
    """Causal and depthwise, (B, L, C) -> (B, L, C)."""
    padding = conv.weight.shape[-1] - 1
    y = nn.functional.conv1d(x.mT, conv.weight, conv.bias, padding=padding, groups=x.shape[-1])
    return activation(y[..., : x.shape[1]].mT)
