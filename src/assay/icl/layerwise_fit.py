"""A random MLP learned from one prompt whose hidden activations are shown: one least squares for each neuron."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from assay._errors import InputError


class LayerwiseFit(NamedTuple):
    """predictions: (B, Q), float64; weights: of each layer, (B, rows, columns), the last (B, k, 1);
    identified: whether the examples determine each neuron, (B, columns) for each layer."""

    predictions: Tensor
    weights: tuple[Tensor, ...]
    identified: tuple[Tensor, ...]


def layerwise_in_context_fit(xs: Tensor, hidden: Sequence[Tensor], ys: Tensor, queries: Tensor) -> LayerwiseFit:
    """Fit `s_l = relu(s_{l-1} A_l)`, `y = <s_{L-1}, v>` layer by layer, and apply it to the queries.

    Where a neuron is active it is linear in its inputs, so its weights are ordinary least squares over the examples in
    which it is above 0: about two examples for each input, whatever the width. A neuron whose active examples do not
    span its inputs is not identified; it gets the least-norm weights that fit (0 if it is never active).

    Args:
        xs: (B, N, d). ys: (B, N). queries: (B, Q, d).
        hidden: s_1 .. s_{L-1}, (B, N, k) each, as `MLPTasks(activation="relu")` shows them.

    Raises `InputError` for shapes that disagree, and activations below 0, which are no ReLU's.
    Source: the oracle for chain-of-thought prompts of Li et al. 2023 (arXiv 2305.18869): filter one step, learn it,
    compose. Time O(B N d^2 k) for each layer, memory O(B N d k).
    """
    if xs.ndim != 3 or ys.shape != xs.shape[:2] or queries.shape[::2] != xs.shape[::2]:
        raise InputError(
            f"xs, ys, queries have shapes {tuple(xs.shape)}, {tuple(ys.shape)}, {tuple(queries.shape)}; expected "
            "(B, N, d), (B, N), (B, Q, d)"
        )
    for state in hidden:
        if state.shape[:2] != ys.shape or bool((state < 0).any()):
            raise InputError(f"hidden has one of shape {tuple(state.shape)}; expected (B, N, k), all at least 0")
    steps = [xs.double(), *(state.double() for state in hidden), ys.double()[..., None]]
    states, weights, identified = queries.double(), [], []
    for number, (inputs, outputs) in enumerate(pairwise(steps), start=1):
        last = number == len(steps) - 1
        active = torch.ones_like(outputs) if last else (outputs > 0).to(outputs)
        shown = active.mT[..., None] * inputs[:, None]  # for each output the examples that show it: (B, k, N, d)
        weights.append((torch.linalg.pinv(shown) @ (active * outputs).mT[..., None])[..., 0].mT)
        identified.append(torch.linalg.matrix_rank(shown) == inputs.shape[-1])
        states = states @ weights[-1] if last else (states @ weights[-1]).relu()
    return LayerwiseFit(states[..., 0], tuple(weights), tuple(identified))
