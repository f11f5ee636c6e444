"""The loss that makes a learner out of a network: its regret on losses that are drawn, without labels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from assay._errors import InputError


class RegretLoss(nn.Module):
    """`E[ sum_j h(R_j) f(R_j) / sum_j f(R_j) ]`, `f(R) = exp(sharpness R)`, over groups of N regrets: a scalar.

        loss = RegretLoss()(regret(losses, policies)[:, -1])     # of assay.online; descend it

    The regrets (B,) are of a policy network on B independent loss sequences, of zero mean and symmetric; neighbours, N
    at a time, are a group. N = 1 gives E[h(R)]; for large N and sharpness, h of the largest regret. For such losses
    E[R] is the same for every policy: with N = 1 and a linear h there is nothing to learn.

    Source: Park et al. 2025 (arXiv 2403.16843), where f and h are of a family; the
    exponential is our choice.

    Args:
        h: of a regret, non-negative and smooth: `torch.square`, `torch.nn.functional.softplus`.
        sharpness: k, at least 0.
        n_sequences: N.

    Raises `InputError` for options out of range, and for regrets that are not (B,), B a multiple of N.
    """

    def __init__(
        self, h: Callable[[Tensor], Tensor] = torch.square, *, sharpness: float = 0.0, n_sequences: int = 1
    ) -> None:
        super().__init__()
        if not sharpness >= 0 or n_sequences < 1:
            raise InputError(f"sharpness is {sharpness} and n_sequences {n_sequences}; expected at least 0 and 1")
        self.h, self.sharpness, self.n_sequences = h, sharpness, n_sequences

    def forward(self, regrets: Tensor) -> Tensor:
        if regrets.ndim != 1 or not len(regrets) or len(regrets) % self.n_sequences:
            raise InputError(
                f"regrets has shape {tuple(regrets.shape)}; expected (B,), B a multiple of n_sequences = "
                f"{self.n_sequences}"
            )
        groups = regrets.view(-1, self.n_sequences)
        return (self.h(groups) * (self.sharpness * groups).softmax(-1)).sum(-1).mean()
