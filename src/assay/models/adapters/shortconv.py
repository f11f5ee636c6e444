"""Short convolutions: a causal depthwise kernel of a few steps for each channel, gated or with a skip connection.

LFM2 (Liquid AI 2025, arXiv 2511.23404): `y = c * conv(b * x)` with b, c and x projected from the layer's input. Inkling
has `y = x + conv(x)` behind its attention and its feed-forward part, Inkling 2 the same divided by `sqrt(K + 1)`.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from assay.models.adapters._calls import MixerCall
from assay.models.adapters._registry import Reading, adapter
from assay.operators import ConvolutionOperator


@adapter("ShortConv", "LFM2 and LFM3: gated short convolution, one for each channel",
         matches=lambda module: type(module).__name__.endswith("ShortConv") and hasattr(module, "in_proj"))  # fmt: skip
def read_gated_convolution(call: MixerCall) -> Reading:
    """Operators with batch shape (B, D), one value channel each. A bias of the kernel, which is no part of T, is taken
    out of the output.
    """
    before, behind, x = call.outputs["in_proj"].mT.chunk(3, dim=1)  # (B, D, L) each
    conv, output = call.module.conv, call.inputs["out_proj"].mT
    if conv.bias is not None:
        output = output - behind * conv.bias[:, None]
    operator = ConvolutionOperator(_kernel(conv, x.shape[-1]), input_gate=before, output_gate=behind)
    return Reading(operator, x[..., None], output[..., None], kind="convolution")


_WITH_SKIP = ("InklingShortConvolution", "Inkling2ShortConvolution")


@adapter("ShortConvolution", "Inkling: short convolution with a skip connection, one for each channel",
         matches=lambda module: type(module).__name__ in _WITH_SKIP)  # fmt: skip
def read_convolution(call: MixerCall) -> Reading:
    """Operators with batch shape (B, D), one value channel each."""
    x = call.hidden_states.mT  # (B, D, L)
    if call.attention_mask is not None:
        x = x * call.attention_mask[:, None].to(x)
    kernel = _kernel(call.module.conv1d, x.shape[-1]).clone()
    kernel[:, 0] += 1
    if type(call.module).__name__ == "Inkling2ShortConvolution":
        kernel = kernel / math.sqrt(call.module.conv_kernel_size + 1)
    operator = ConvolutionOperator(kernel.expand(len(x), -1, -1))
    return Reading(operator, x[..., None], call.output.mT[..., None], kind="convolution")


def _kernel(conv: nn.Conv1d, length: int) -> Tensor:
    """Lag first, as long as the sequence: (D, L)."""
    kernel = conv.weight.detach()[:, 0].flip(-1)[:, :length]
    return nn.functional.pad(kernel, (0, length - kernel.shape[-1]))
