"""Gradient descent on attention of one query, far into saturation; and its least loss at a given norm."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

from assay._errors import InputError
from assay.theory.saturation import centred_logit_gradient, normalised_step_
from assay.theory.single_query_attention import PooledAttention

Gradient = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def logistic(margin: Tensor) -> Tensor:
    """`log(1 + exp(-u))`."""
    return softplus(-margin)


class Objective:
    """The mean over inputs of `loss(y_i f(X_i))`, and its gradient where attention is saturated.

    model: its parameters have as many leading axes of independent runs as y (none or one). inputs: X (runs, n, T, d),
    and queries (runs, n, d) if the model takes them; y: (runs, n), -1 or 1. float64 is advised.
    """

    def __init__(
        self,
        model: PooledAttention,
        inputs: tuple[Tensor, ...],
        y: Tensor,
        loss: Callable[[Tensor], Tensor] = logistic,
        logit_gradient: Gradient = centred_logit_gradient,
    ) -> None:
        if y.ndim not in (1, 2) or inputs[0].shape[:-2] != y.shape:
            raise InputError(
                f"X has shape {tuple(inputs[0].shape)} and y {tuple(y.shape)}; expected (n, T, d) and (n,), or both "
                "with an axis of runs before"
            )
        self.model, self.inputs, self.y, self.loss = model, inputs, y, loss
        self.logit_gradient = logit_gradient
        head = {id(p) for p in model.head.parameters()} if isinstance(model.head, torch.nn.Module) else set()
        trained = [p for p in model.parameters() if p.requires_grad]
        self.of_head: list[Tensor] = [p for p in trained if id(p) in head]
        self.of_attention: list[Tensor] = [p for p in trained if id(p) not in head]

    def gradients(self) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """By the parameters of attention, by those of the head, and `log_scale` for the first: the true ones are
        `gradient * exp(log_scale)`, see `centred_logit_gradient`. A run 1e300 times flatter than another has 0."""
        logits = self.model.logits(*self.inputs)
        X = self.inputs[0]
        pooled = torch.einsum("...it,...itd->...id", logits.detach().softmax(-1), X).requires_grad_()
        value = self.loss(self.y * self.model.head(pooled)).mean(-1).sum()
        by_pooled, *by_head = torch.autograd.grad(value, [pooled, *self.of_head])
        values = torch.einsum("...itd,...id->...it", X, by_pooled)
        by_logits, log_scale = self.logit_gradient(logits.detach(), values)
        return list(torch.autograd.grad(logits, self.of_attention, by_logits)), by_head, log_scale

    @property
    def axes(self) -> int:
        """Leading axes of runs."""
        return self.y.ndim - 1


def descend(
    objective: Objective,
    steps: int,
    *,
    lr: float = 0.1,
    decay: float = 0.0,
    normalised: bool = True,
    watch: Callable[[int], None] | None = None,
) -> None:
    """Steps of gradient descent, in place; the gradient of each parameter is divided by its norm if `normalised`.

    decay: adds `decay ||parameter||^2` to the loss, for parameters of attention. The authors train `K Q^T` with
    2.2e-16, which matters: once the loss is flatter than that, it keeps K and Q small and balanced.
    watch: called with the number of steps made, after each. Where a gradient is exactly 0, nothing moves.
    Source: Tarzanagh et al. 2023 (arXiv 2308.16898), experiments, and their code.
    """
    for step in range(1, steps + 1):
        by_attention, by_head, log_scale = objective.gradients()
        if decay or not normalised:
            by_attention = [
                gradient * log_scale.exp() + 2 * decay * parameter.detach()
                for gradient, parameter in zip(by_attention, objective.of_attention, strict=True)
            ]
        parameters = [*objective.of_attention, *objective.of_head]
        for parameter, gradient in zip(parameters, [*by_attention, *by_head], strict=True):
            if normalised:
                normalised_step_(parameter, gradient, lr, dims=gradient.ndim - objective.axes)
            else:
                parameter.data.sub_(lr * gradient)
        if watch is not None:
            watch(step)


def descend_on_sphere(objective: Objective, radius: float, steps: int) -> None:
    """Move the parameters of attention to the least loss at the norm `radius`, of all of them together, in place.

    Where tokens are separable the loss is least at the largest norm, so this is a point of the regularisation path
    `argmin {loss : ||W||_F <= R}`, or with `radius = sqrt(2 R)` of `argmin {loss : ||K||^2 + ||Q||^2 <= 2 R}`. The loss
    is not convex: follow the path from a small radius, where there is one minimum, to large ones.
    Normalised steps along the sphere, whose lengths fall from 0.1 to 0.0001 of the radius.
    """
    parameters = objective.of_attention
    for step in range(steps + 1):
        norm = _norm(parameters, objective.axes)
        with torch.no_grad():
            for parameter in parameters:
                parameter.mul_(_over_runs(radius / norm, parameter))
        if step == steps:
            return
        gradients, _, _ = objective.gradients()
        inner = sum(
            (gradient * parameter.detach()).flatten(objective.axes).sum(-1)
            for gradient, parameter in zip(gradients, parameters, strict=True)
        )
        assert isinstance(inner, Tensor)
        along = [
            gradient - _over_runs(inner / radius**2, parameter) * parameter.detach()
            for gradient, parameter in zip(gradients, parameters, strict=True)
        ]
        length = 0.1 * radius * 0.001 ** (step / steps)
        factor = length / _norm(along, objective.axes).clamp(min=torch.finfo(along[0].dtype).tiny)
        for parameter, gradient in zip(parameters, along, strict=True):
            parameter.data.sub_(_over_runs(factor, gradient) * gradient)


def _norm(tensors: list[Tensor], axes: int) -> Tensor:
    """Of all of them together, for each run."""
    flat = torch.cat([tensor.detach().flatten(axes) for tensor in tensors], -1)
    largest = flat.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)  # squares may underflow
    return ((flat / largest).norm(dim=-1, keepdim=True) * largest).squeeze(-1)


def _over_runs(numbers: Tensor, like: Tensor) -> Tensor:
    """One number for each run (runs), to be broadcast over the axes of `like` (runs, ...)."""
    return numbers.reshape(numbers.shape + (1,) * (like.ndim - numbers.ndim))
