"""Softmax attention at few positions, which the layer selects (Arora et al. 2023, Zoology, arXiv 2312.04927)."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from assay.nn.attention import AttentionFeatures, SoftmaxAttention


class SelectiveAttentionFeatures(NamedTuple):
    """As of `SoftmaxAttention`, and gate: (B, L, 1), 1 where attention is used and 0 elsewhere."""

    values: Tensor
    q: Tensor
    k: Tensor
    gate: Tensor


class SelectiveAttention(SoftmaxAttention):
    """`y_t = g_t W_out (T v)_t` with `g_t = [sigmoid(w^T x_t + b) > 1/2]`: attention only where it is asked for.

    The gradient of g is that of the sigmoid (straight-through). After each forward `share` is the mean of g, with a
    gradient: add `relu(share - budget)` to the loss, so that no more than the budget is selected. All tokens have keys
    and values; queries are needed for a share of them, though the training form computes them all.

    The paper's learned selection multiplies by a scaled softmax over the sequence in training and takes the top sqrt(L)
    in use, which looks ahead; a threshold does not. Its penalty is 1e-3 times the same. Arguments and errors are those
    of `SoftmaxAttention`; b is 1 at first, so that more is selected than not.
    """

    share: Tensor | None = None

    def __init__(self, d_model: int, **options: Any) -> None:
        super().__init__(d_model, **options)
        self.select = nn.Linear(d_model, 1)
        nn.init.ones_(self.select.bias)

    def features(self, x: Tensor) -> SelectiveAttentionFeatures:  # type: ignore[override]  # one field more
        gate = self._gate(x)
        self.share = gate.mean()
        return SelectiveAttentionFeatures(*super().features(x), gate)

    def mix(self, features: SelectiveAttentionFeatures) -> Tensor:  # type: ignore[override]
        return super().mix(AttentionFeatures(features.values, features.q, features.k))

    def finish(self, y: Tensor, features: SelectiveAttentionFeatures) -> Tensor:  # type: ignore[override]
        return features.gate * self.out(y.transpose(1, 2).flatten(2))

    def step(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        y, state = super().step(x, state)
        return self._gate(x) * y, state

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"share": None}  # it belongs to a graph, which cannot be copied

    def _gate(self, x: Tensor) -> Tensor:
        soft = self.select(x).sigmoid()
        return (soft > 0.5).to(soft.dtype) + (soft - soft.detach())
