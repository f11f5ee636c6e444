"""Mamba (S6) and FalconMamba: one diagonal recurrence for each inner channel (Gu & Dao 2023, arXiv 2312.00752).

`h_t = exp(Delta_t a) h_{t-1} + Delta_t B_t x_t,  y_t = C_t h_t + D x_t` with x the output of the short convolution;
the gate `silu(z)` comes after it. FalconMamba normalises B, C and the features of Delta first.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from assay.models.adapters._calls import MixerCall
from assay.models.adapters._registry import Reading, adapter
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
        delta.float() @ mixer.dt_proj.weight.float().mT + mixer.dt_proj.bias.float()
    )  # (B, L, d_inner)
    step = step.mT[..., None]  # (B, d_inner, L, 1)
    a = -torch.exp(mixer.A_log.float())[:, None]  # (d_inner, 1, N)
    skip = mixer.D.detach().float()[:, None]
    operator = RecurrentOperator(torch.exp(step * a), step * B.float()[:, None], C.float()[:, None], skip)
    gate = call.outputs["in_proj"].chunk(2, dim=-1)[1].float()
    return Reading(
        operator,
        values=_channels(call.inputs["x_proj"].float()),
        output=_channels(call.inputs["out_proj"]),
        gate=_channels(nn.functional.silu(gate)),
    )


def _channels(tensor: Tensor) -> Tensor:
    """(B, L, d_inner) -> (B, d_inner, L, 1)."""
    return tensor.mT[..., None]
