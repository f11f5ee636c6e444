"""Luce's choice model: of the things at hand, each is chosen with a probability proportional to its own weight."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDS = 200
"""Of Newton's method; about ten are taken."""


def choice_log_probabilities(theta: Tensor, counts: Tensor) -> Tensor:
    """Logs of `counts_j exp(theta_j) / sum`, (..., K) for theta and counts that broadcast; -inf where there is none."""
    return (theta + counts.log()).log_softmax(-1)


def choice_mle(counts: Tensor, labels: Tensor, ridge: float = 0.0) -> Tensor:
    """The theta (K,), float64, that maximises `sum_i log p_i(labels_i) - ridge ||theta||^2 / 2`.

    counts: (n, K), what was at hand, with multiplicities; labels: (n,), int64, what was chosen. Only differences are
    determined, and only between things that were at hand together, perhaps in several steps; the theta returned has the
    smallest norm. The maximum exists for `ridge` > 0; without, where the graph with an edge from what was chosen to
    everything that was at hand is strongly connected, on each part of it that is connected at all (Ford 1957): the
    caller sees to that.

    Newton's method with halved steps; the problem is convex. O(n K^2 + K^3) for each of about ten rounds. Raises
    `ArithmeticError` where the gradient cannot be brought below 1e-9 of a choice for each n.
    """
    counts = counts.double()
    patterns, group = torch.unique(torch.cat([counts, labels[:, None].double()], 1), dim=0, return_inverse=True)
    times = torch.bincount(group).double()
    counts, labels = patterns[:, :-1], patterns[:, -1].long()
    chosen = torch.zeros_like(counts).scatter_(1, labels[:, None], 1)
    n = float(times.sum())

    def loss(theta: Tensor) -> Tensor:
        log_p = choice_log_probabilities(theta, counts).gather(1, labels[:, None]).squeeze(1)
        return ridge / 2 * theta.square().sum() - times @ log_p

    theta = counts.new_zeros(counts.shape[1])
    eye = torch.eye(len(theta), dtype=theta.dtype, device=theta.device)
    for _ in range(ROUNDS):
        p = choice_log_probabilities(theta, counts).exp()
        gradient = times @ (p - chosen) + ridge * theta
        if float(gradient.abs().max()) <= 1e-12 * n:
            return theta
        weighted = times[:, None] * p
        hessian = weighted.sum(0).diag() - weighted.mT @ p + ridge * eye
        step = torch.linalg.pinv(hessian, hermitian=True) @ gradient
        now = loss(theta)
        while bool(loss(theta - step) > now * (1 + 1e-12)) and bool(step.abs().max() > 1e-12):
            step = step / 2
        theta = theta - step
    if float(gradient.abs().max()) > 1e-9 * n:
        raise ArithmeticError(f"the gradient is still {float(gradient.abs().max()):.1e} after {n:.0f} choices")
    return theta
