"""Muon whose matrices of one shape are orthogonalised together: for small models, whose steps are mostly overhead."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from assay._errors import InputError
from assay.optim.newton_schulz import newton_schulz


class StackedMuon(Optimizer):
    """The update of `torch.optim.Muon`, with one `newton_schulz` for all matrices of a shape, in their own dtype.

        matrices, rest = split_muon_params(model)
        train(model, draw, steps=300, seed=0, optimizers=[StackedMuon(matrices), AdamW(rest, 3e-3)])

    `torch.optim.Muon` takes them one after the other, in bfloat16. Memory: the gradients of one shape once more.
    Source: Jordan et al. 2024, *Muon*. Raises `InputError` for parameters that are no matrices.

    Args:
        lr: steps are scaled by `sqrt(max(1, m / n))` besides, for a matrix (m, n).
        weight_decay: decoupled: parameters shrink by `lr * weight_decay` in a step.
        momentum: of the moving average of gradients; the step looks one gradient ahead (Nesterov).
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float = 0.02, weight_decay: float = 0.1, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim != 2:
                    raise InputError(f"params has one of shape {tuple(p.shape)}; expected matrices")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; returns what `closure` does, which is called first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: dict[Any, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    alike[p.shape, p.dtype, p.device].append(p)
            for (shape, _, _), params in alike.items():
                self._step(params, group, group["lr"] * math.sqrt(max(1, shape[0] / shape[1])))
        return loss

    def _step(self, params: list[Tensor], group: dict[str, Any], lr: float) -> None:
        grads: list[Tensor] = [p.grad for p in params if p.grad is not None]
        for p in params:
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum_buffer"] for p in params]
        torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
        ahead = torch.stack(grads).lerp_(torch.stack(buffers), group["momentum"])
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(params, list(newton_schulz(ahead).unbind()), alpha=-lr)
