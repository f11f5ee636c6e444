"""Softmax attention of any transformers model, through the weights that its eager implementation computes.

The weights are read and not recomputed, so grouped-query heads, sliding windows, rotary and linear position biases,
soft-capping and attention sinks are all in them. T of a query head is its matrix of weights; with a sink that
takes no value, rows sum to less than 1.
"""

from __future__ import annotations

from torch import Tensor, nn

from assay.models.adapters._calls import MixerCall, flat_heads
from assay.models.adapters._registry import NotMeasuredError, Reading, adapter
from assay.operators import DenseOperator


def _is_attention(module: nn.Module) -> bool:
    """The innermost module named attention: wrappers around it are passed over."""
    return _is_named_attention(module) and not any(
        _is_named_attention(child) for child in module.modules() if child is not module
    )


def _is_named_attention(module: nn.Module) -> bool:
    name = type(module).__name__
    if name.endswith("Residual"):  # Inkling 2: attends to the outputs of earlier layers at the same position
        return False
    return "Attention" in name or name.endswith("MLA")  # LongCat: multi-head latent attention


@adapter("softmax attention", "any architecture whose eager attention multiplies softmax weights with values",
         matches=_is_attention)  # fmt: skip
def read_softmax(call: MixerCall) -> Reading:
    """T: the softmax weights, (B, H, L, L); the output is read where it enters the next module, behind any gate."""
    name = type(call.module).__name__
    if len(call.products) > 1:
        raise NotMeasuredError(f"not supported: {name} (combines {len(call.products)} attention maps)")
    weights, values = weights_and_values(call)
    window = _sliding_window(call.module, weights.shape[-1])
    if window is not None and bool(weights.tril(-window).any()):
        window = None  # the config names one that this layer does not keep to
    output = _output(call, weights.shape[1], values.shape[-1])
    return Reading(DenseOperator(weights, window=window), values, output, call.gate, kind="attention")


def weights_and_values(call: MixerCall, which: int = 0) -> tuple[Tensor, Tensor]:
    """One product of the call by head: (B, H, L, L) and (B, H, L, C). Raises `NotMeasuredError` where there is none."""
    name = type(call.module).__name__
    if not call.products:
        why = f" ({_WITHOUT_A_PRODUCT[name]})" if name in _WITHOUT_A_PRODUCT else ""
        raise NotMeasuredError(f"not supported: {name}{why}")
    batch, length = call.hidden_states.shape[:2]
    weights, values = (_by_head(tensor, batch) for tensor in call.products[which])
    if weights.shape[-1] != length:
        raise NotMeasuredError(f"not supported: {name} (attends to {weights.shape[-1]} positions of {length})")
    if call.attention_mask is not None:  # queries of padding attend to anything; they are cut off later
        weights = weights * call.attention_mask[:, None, :, None].to(weights)
    return weights, values.expand(*weights.shape[:2], *values.shape[-2:])


def _output(call: MixerCall, heads: int, channels: int) -> Tensor:
    """What entered the next module after T, or what the mixer hands out itself: (B, H, L, C)."""
    batch, length = call.hidden_states.shape[:2]
    found = call.behind
    if found is None:
        found = call.output[0] if isinstance(call.output, tuple) else call.output
    if not isinstance(found, Tensor) or found.numel() != batch * heads * length * channels:
        raise NotMeasuredError(f"not supported: {type(call.module).__name__} (its output was not found)")
    return flat_heads(found.reshape(batch, length, -1), heads)


_WITHOUT_A_PRODUCT = {  # of softmax weights with values, over the tokens as they come
    "LSHSelfAttention": "Reformer sorts the tokens into buckets first",
    "LocalSelfAttention": "Reformer multiplies chunk by chunk",
    "ProphetNetNgramSelfAttention": "copies of the sequence that predict n-grams run beside it",
    "XLNetRelativeAttention": "it attends to later tokens",
}


def _by_head(tensor: Tensor, batch: int) -> Tensor:
    """(B * H, ...) or (B, H, ...) -> (B, H, ...)."""
    return tensor if tensor.ndim == 4 else tensor.unflatten(0, (batch, -1))


def _sliding_window(module: nn.Module, length: int) -> int | None:
    """The window of this layer, as transformers' attention modules state it."""
    config = getattr(module, "config", None)
    window = getattr(module, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    index = getattr(module, "layer_idx", None)
    if kinds is not None and isinstance(index, int) and index < len(kinds):
        window = getattr(config, "sliding_window", None) if kinds[index] == "sliding_attention" else None
    elif window is None:
        window = getattr(config, "sliding_window", None)
    return window if isinstance(window, int) and 1 < window <= length else None
