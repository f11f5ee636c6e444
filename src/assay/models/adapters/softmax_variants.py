"""Softmax attention with something between its weights and what can be read: a difference, experts, a rotation."""

from __future__ import annotations

from dataclasses import replace

import torch

from assay.models.adapters._calls import MixerCall
from assay.models.adapters._registry import NotMeasuredError, Reading, adapter
from assay.models.adapters.softmax import read_softmax, weights_and_values
from assay.operators import DenseOperator


@adapter("DiffLlamaAttention", "differential attention: the difference of two softmax maps")
def read_differential(call: MixerCall) -> Reading:
    """T = A_1 - lambda A_2 on values of twice the width, (B, H / 2); the output is read before the group norm.

    lambda = exp(lambda_q1 lambda_k1) - exp(lambda_q2 lambda_k2) + lambda_init (Ye et al. 2024, arXiv 2410.05258,
    equations 1 and 2). Rows of T sum to 1 - lambda, and entries may be negative: they are no attention weights.
    """
    mixer = call.module
    (weights, left), (_, right) = weights_and_values(call), weights_and_values(call, 1)  # two halves of the values
    one, two = (torch.exp(torch.sum(q * k, dtype=torch.float32)).to(weights.dtype)
                for q, k in ((mixer.lambda_q1, mixer.lambda_k1), (mixer.lambda_q2, mixer.lambda_k2)))  # fmt: skip
    first, second = weights.chunk(2, dim=1)
    operator = DenseOperator(first - (one - two + mixer.lambda_init) * second)
    values = torch.cat([left, right], dim=-1)[:, : first.shape[1]]
    return Reading(operator, values, call.inputs["groupnorm"].transpose(1, 2), kind="attention difference")


@adapter("JetMoeAttention", "JetMoE: attention with queries and outputs by expert, keys and values shared")
def read_mixture(call: MixerCall) -> Reading:
    """The output enters the experts sorted by expert: `order[n]` is the (token, rank) that stands at n."""
    order = call.outputs["experts.router"]
    behind = call.inputs["experts.output_linear"]
    call.behind = torch.empty_like(behind).index_copy(0, order, behind)
    return read_softmax(call)


@adapter("DeepseekV4Attention", "DeepSeek-V4: attention to keys that are the values too, turned by position")
def read_rotated(call: MixerCall) -> Reading:
    """Values are turned by their position, and the output is turned back by its own before it can be read.

    Both turns are orthogonal, so T between them has the singular values of the whole. A layer that has compressed some
    tokens attends to more keys than there are tokens, and is not measured.
    """
    length = call.hidden_states.shape[1]
    if call.products and (compressed := call.products[0][0].shape[-1] - length) > 0:
        keys = f"{compressed} compressed keys besides {length} tokens"
        raise NotMeasuredError(f"not supported: DeepseekV4Attention (attends to {keys})")
    reading = read_softmax(call)
    angles = call.kwargs["position_embeddings"][call.module.rope_layer_type]
    cos, sin = (part.repeat_interleave(2, dim=-1)[:, None] for part in angles)  # (B, 1, L, R)
    fixed, turned = reading.output.split([reading.output.shape[-1] - cos.shape[-1], cos.shape[-1]], dim=-1)
    across = torch.stack([-turned[..., 1::2], turned[..., 0::2]], dim=-1).flatten(-2)
    return replace(reading, output=torch.cat([fixed, turned * cos + across * sin], dim=-1), gate=None)
