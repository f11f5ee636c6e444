"""How much a model's own cache allocates: measured on the cache object, not derived from the config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_STATES = ("keys", "values", "conv_states", "recurrent_states", "indexer_keys")


@dataclass(frozen=True)
class CacheSize:
    """Floats that one layer's cache allocates: `per_token` for each token seen (at most `window` of them) plus a
    `constant` state. For one sequence."""

    per_token: float
    constant: float
    window: int | None

    def floats(self, length: int) -> NDArray[np.float64]:
        """After 0, 1, .., length - 1 tokens: (L,)."""
        tokens = np.arange(length, dtype=np.float64)
        if self.window is not None:
            tokens = np.minimum(tokens, self.window)
        return np.where(tokens > 0, self.per_token * tokens + self.constant, 0.0)


@torch.no_grad()
def cache_sizes(model: nn.Module, input_ids: Tensor) -> list[CacheSize] | None:
    """The cache of each decoder layer, from two short runs of the model on the first tokens of `input_ids` (1, L).

    None for a model that hands out no cache of the usual form.
    """
    short, long = 2, 4
    training = model.training
    model.eval()
    before, after = (_allocated(model, input_ids[:, :n]) for n in (short, long))
    model.train(training)
    if before is None or after is None or len(before) != len(after):
        return None
    sizes = []
    for (few, _), (many, window) in zip(before, after, strict=True):
        per_token = (many - few) / (long - short)
        sizes.append(CacheSize(per_token, few - short * per_token, window))
    return sizes


def _allocated(model: nn.Module, input_ids: Tensor) -> list[tuple[int, int | None]] | None:
    try:
        output = model(input_ids=input_ids, use_cache=True)
    except (RuntimeError, ValueError, TypeError, AttributeError):  # a model without a usable cache is still measured
        return None
    cache = getattr(output, "past_key_values", None)
    cache = getattr(output, "cache_params", None) if cache is None else cache
    layers = getattr(cache, "layers", None)
    return None if not layers else [(_floats(layer), _window(layer)) for layer in layers]


def _floats(layer: Any) -> int:
    return sum(tensor.numel() for name in _STATES for tensor in _tensors(getattr(layer, name, None)))


def _tensors(value: Any) -> list[Tensor]:
    values = value.values() if isinstance(value, dict) else [value]
    return [tensor for tensor in values if isinstance(tensor, Tensor)]


def _window(layer: Any) -> int | None:
    window = getattr(layer, "sliding_window", None)
    return window - 1 if isinstance(window, int) else None  # transformers keeps what the next token can still see
