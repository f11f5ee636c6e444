"""Mamba (S6) and its kin: one diagonal recurrence for each inner channel (Gu & Dao 2023, arXiv 2312.00752).

`h_t = exp(Delta_t a) h_{t-1} + Delta_t B_t x_t,  y_t = C_t h_t + D x_t` with x the output of the short convolution;
the gate `silu(z)` comes after it. FalconMamba and Jamba normalise B, C and the features of Delta first. Zamba has
several Mambas side by side, each with the B, C and Delta of its own share of the channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from assay.models.adapters._calls import MixerCall, at_least_float32, flat_heads
from assay.models.adapters._registry import Reading, adapter
from assay.models.adapters.mamba2 import short_convolution
from assay.operators import RecurrentOperator

_CLASSES = ("MambaMixer", "FalconMambaMixer", "JambaMambaMixer")


@adapter("MambaMixer", "Mamba, FalconMamba and Jamba: selective state space, one recurrence for each channel",
         matches=lambda module: type(module).__name__ in _CLASSES)  # fmt: skip
def read_mamba(call: MixerCall) -> Reading:
    """Operators with batch shape (B, d_inner), state N, one value channel each."""
    mixer = call.module
    sizes = [mixer.time_step_rank, mixer.ssm_state_size, mixer.ssm_state_size]
    parts = call.outputs["x_proj"].split(sizes, dim=-1)  # (B, L, R), (B, L, N) twice
    # FalconMamba and Jamba normalise the three first
    delta, B, C = (call.outputs.get(f"{n}_layernorm", part) for n, part in zip(("dt", "b", "c"), parts, strict=True))
    step = nn.functional.softplus(
        at_least_float32(delta) @ at_least_float32(mixer.dt_proj.weight).mT + at_least_float32(mixer.dt_proj.bias)
    )  # (B, L, d_inner)
    gate = call.outputs["in_proj"].chunk(2, dim=-1)[1]
    return Reading(
        _selective(step, mixer.A_log, B[:, None], C[:, None], mixer.D),
        values=_channels(at_least_float32(call.inputs["x_proj"])),
        output=_channels(call.inputs["out_proj"]),
        gate=_channels(nn.functional.silu(at_least_float32(gate))),
    )


@adapter("ZambaMambaMixer", "Zamba: several Mambas side by side, one recurrence for each channel")
def read_zamba(call: MixerCall) -> Reading:
    """Operators with batch shape (B, d_inner), state N, one value channel each."""
    mixer = call.module
    heads, state = mixer.n_mamba_heads, mixer.ssm_state_size
    x, gate = call.outputs["in_proj"].unflatten(-1, (-1, 2)).unbind(-1)  # (B, L, d_inner) each
    x = short_convolution(x, mixer.conv1d, mixer.act)
    if (mask := call.attention_mask) is not None:
        x = x * mask[:, :, None].to(x.dtype)
    x = flat_heads(x, heads)  # (B, H, L, P), P = d_inner / H
    delta, B, C = (x @ mixer.x_proj_weight.mT).split([mixer.time_step_rank, state, state], dim=-1)
    step = nn.functional.softplus(
        at_least_float32(delta @ mixer.dt_proj_weight.mT) + mixer.dt_proj_bias.float()[:, None]
    )
    # every channel of a head has the head's B and C
    B, C = (tensor.repeat_interleave(mixer.mamba_head_dim, dim=1) for tensor in (B, C))  # (B, d_inner, L, N)
    return Reading(
        _selective(_flat(step), mixer.A_log.flatten(0, 1), B, C, mixer.D.flatten()),
        values=_channels(at_least_float32(_flat(x))),
        output=_channels(call.inputs["out_proj"]),
        gate=_channels(nn.functional.silu(at_least_float32(gate))),
    )


def _selective(step: Tensor, A_log: Tensor, B: Tensor, C: Tensor, skip: Tensor) -> RecurrentOperator:
    """From Delta (B, L, D), log(-a) (D, N), B and C (B, D or 1, L, N), and the skip connection (D,)."""
    step = _channels(step)
    transition = torch.exp(step * -torch.exp(A_log.float())[:, None])
    B, C, skip = (at_least_float32(tensor) for tensor in (B, C, skip.detach()))
    return RecurrentOperator(transition, step * B, C, skip[:, None])


def _flat(tensor: Tensor) -> Tensor:
    """(B, H, L, P) -> (B, L, H * P)."""
    return tensor.transpose(1, 2).flatten(2)


def _channels(tensor: Tensor) -> Tensor:
    """(B, L, d_inner) -> (B, d_inner, L, 1)."""
    return tensor.mT[..., None]
