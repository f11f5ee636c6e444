"""Descent on softmax attention that goes on where the softmax is saturated and the plain gradient is rounding."""

from __future__ import annotations

import torch
from torch import Tensor


def centred_logit_gradient(logits: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of `sum_t s_t values_t`, `s = softmax(logits)` over the last axis, by the logits.

    It is `s_t (values_t - mean)`. Near saturation the entry of the selected token is lost in that form: a difference of
    equal numbers once the others weigh less than 1e-16, though it is as large as all other entries together. Here
    values are centred on the selected token's, so that every entry is a sum of small terms, and the largest weight of a
    token that is not selected is factored out, so that nothing underflows.

    logits, values: (..., T), floating point; returns the gradient (..., T) and `log_scale`, one number for the whole
    batch: the true gradient is `gradient * exp(log_scale)`, and its direction is exact where that underflows.
    Source: the equivalent form is a remark on Tarzanagh et al. 2023 (arXiv 2308.16898), not theirs. O(T).
    """
    top = logits.argmax(-1, keepdim=True)
    selected = torch.arange(logits.shape[-1], device=logits.device) == top
    log_weights = logits.log_softmax(-1)
    others = log_weights.masked_fill(selected, -torch.inf)
    log_scale = others.max().clamp(min=torch.finfo(logits.dtype).min)  # of a single token there are no others
    centred = values - values.gather(-1, top)
    scaled = (others - log_scale).exp()  # of the others, the largest of the batch is 1
    mean = (scaled * centred).sum(-1, keepdim=True)  # of the centred values, in units of exp(log_scale)
    gradient = scaled * (centred - mean * log_scale.exp())
    return gradient.masked_fill(selected, 0) - selected * gradient.sum(-1, keepdim=True), log_scale


@torch.no_grad()
def normalised_step_(parameter: Tensor, gradient: Tensor, lr: float, *, dims: int | None = None) -> None:
    """`parameter -= lr gradient / ||gradient||`, in place; nothing where the gradient is 0.

    parameter, gradient: the same shape. The norm is taken over the last `dims` axes (all by default), so that
    independent runs can be stacked on the axes before. Entries may be so small that their squares underflow.
    """
    axes = list(range(gradient.ndim)) if dims is None else list(range(gradient.ndim - dims, gradient.ndim))
    largest = gradient.abs().amax(axes, keepdim=True)
    scaled = torch.where(largest > 0, gradient / largest.clamp(min=torch.finfo(gradient.dtype).tiny), 0)
    norm = scaled.square().sum(axes, keepdim=True).sqrt()
    parameter -= lr * torch.where(norm > 0, scaled / norm.clamp(min=1), 0)
