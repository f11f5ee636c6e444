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
    inner = any("Attention" in type(child).__name__ for child in module.modules() if child is not module)
    return "Attention" in type(module).__name__ and not inner


@adapter("softmax attention", "any architecture whose eager attention multiplies softmax weights with values",
         matches=_is_attention)  # fmt: skip
def read_softmax(call: MixerCall) -> Reading:
    """T: the softmax weights, (B, H, L, L); the output is read where it enters the next module, behind any gate."""
    name = type(call.module).__name__
    if not call.products:
        raise NotMeasuredError(f"not supported: {name}")
    if len(call.products) > 1:
        raise NotMeasuredError(f"not supported: {name} (combines {len(call.products)} attention maps)")
    batch, length = call.hidden_states.shape[:2]
    weights, values = (_by_head(tensor, batch) for tensor in call.products[0])
    if weights.shape[-1] != length:
        raise NotMeasuredError(f"not supported: {name} (attends to {weights.shape[-1]} positions of {length})")
    if call.attention_mask is not None:  # queries of padding attend to anything; they are cut off later
        weights = weights * call.attention_mask[:, None, :, None].to(weights)
    output = _output(call, batch * length * weights.shape[1] * values.shape[-1])
    values = values.expand(*weights.shape[:2], *values.shape[-2:])
    window = _sliding_window(call.module, length)
    if window is not None and bool(weights.tril(-window).any()):
        window = None  # the config names one that this layer does not keep to
    operator = DenseOperator(weights, window=window)
    output = flat_heads(output.reshape(batch, length, -1), weights.shape[1])
    return Reading(operator, values, output, call.gate, kind="attention")


def _by_head(tensor: Tensor, batch: int) -> Tensor:
    """(B * H, ...) or (B, H, ...) -> (B, H, ...)."""
    return tensor if tensor.ndim == 4 else tensor.unflatten(0, (batch, -1))


def _output(call: MixerCall, size: int) -> Tensor:
    """The heads' outputs side by side: what entered the next module after T, or what the mixer hands out itself."""
    found = call.behind
    if found is None:
        found = call.output[0] if isinstance(call.output, tuple) else call.output
    if not isinstance(found, Tensor) or found.numel() != size:
        raise NotMeasuredError(f"not supported: {type(call.module).__name__} (its output was not found)")
    return found


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
