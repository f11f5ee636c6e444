"""A penalty on heads of attention that look everywhere alike, or at one token only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from assay._errors import InputError
from assay.measures.attention import attention_entropy, max_attention_entropy

REDUCTIONS = ("mean", "sum")
MAX_ENTROPIES = ("row", "length")


class EntropyRegulariser(nn.Module):
    """`coef * mean over layers and heads of (E - w E_max)^2`, where `|E - w E_max| > margin E_max`, and 0 where not.

        penalty = regulariser(model(input_ids, output_attentions=True).attentions)   # add it to the loss

    E is the entropy of a query's attention in nats. w, a threshold for each layer and head, is learned with the model
    (`threshold`, (layers, heads)): give its parameter to the optimizer, or freeze it by `requires_grad_(False)`. Takes
    the weights of all layers, (B, H, L, L) each and causal; gives a scalar in float32 or float64.

    Source: Jha & Reagen 2025 (arXiv 2501.03489), eq. 9 and algorithm 1. There E is first averaged over the queries,
    and E_max is ln L, which the early queries of causal attention cannot reach. As in the authors' code, each query
    counts by itself here.

    Args:
        num_layers, num_heads: of the model.
        coef: lambda. The paper has 1e-5 with "sum", which depends on the size of the batch.
        margin: gamma.
        threshold: w at the start, 0..1; assay's choice is the middle.
        reduction: over the queries of all sequences: "mean", or "sum" as in the authors' code.
        max_entropy: E_max is ln(i + 1) for query i, what it can reach ("row"), or ln L ("length").

    Raises `InputError` for options out of range, for weights of other numbers of layers or heads, and for queries that
    attend to nothing: transformers hands out weights after dropout, which must be 0 in attention.
    O(layers B H L^2); needs the weights, which fused kernels of attention do not keep.
    """

    def __init__(
        self,
        num_layers: int,
        num_heads: int,
        *,
        coef: float = 1e-2,
        margin: float = 0.2,
        threshold: float = 0.5,
        reduction: str = "mean",
        max_entropy: str = "row",
    ) -> None:
        super().__init__()
        if reduction not in REDUCTIONS or max_entropy not in MAX_ENTROPIES:
            raise InputError(
                f"reduction is {reduction!r} and max_entropy {max_entropy!r}; "
                f"expected one of {', '.join(REDUCTIONS)}, and one of {', '.join(MAX_ENTROPIES)}"
            )
        if not margin >= 0 or not 0 <= threshold <= 1:
            raise InputError(f"margin is {margin} and threshold {threshold}; expected at least 0, and from 0 to 1")
        self.coef, self.margin, self.reduction, self.max_entropy = coef, margin, reduction, max_entropy
        self.threshold = nn.Parameter(torch.full((num_layers, num_heads), threshold))

    def forward(self, attentions: Sequence[Tensor]) -> Tensor:
        layers, heads = self.threshold.shape
        if len(attentions) != layers or any(weights.ndim != 4 or weights.shape[1] != heads for weights in attentions):
            shapes = [tuple(weights.shape) for weights in attentions]
            raise InputError(f"attentions have shapes {shapes}; expected {layers} layers of (B, {heads}, L, L)")
        total: Tensor = sum(map(self._penalty, attentions, self.threshold))  # type: ignore[assignment]
        return self.coef * total / layers

    def _penalty(self, weights: Tensor, threshold: Tensor) -> Tensor:
        """Of one layer: the mean over heads; over queries and sequences the mean or the sum."""
        entropy = attention_entropy(weights)  # (B, H, L)
        if bool(entropy.detach().isnan().any()):
            raise InputError("attentions hold queries that attend to nothing; expected attention without dropout")
        reach = max_attention_entropy(weights.shape[-1]).to(entropy)
        largest = reach if self.max_entropy == "row" else reach[-1].expand_as(reach)
        off = entropy - threshold[:, None].to(entropy) * largest
        penalty = torch.where(off.abs() > self.margin * largest, off.square(), 0.0)
        return penalty.mean() if self.reduction == "mean" else penalty.sum() / weights.shape[1]
