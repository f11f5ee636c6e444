"""One layer of linear attention that plays: it reads the losses so far and gives a policy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from assay._errors import InputError
from assay.online.decisions import Ball, Simplex

START = 0.1


class LinearAttentionPolicy(nn.Module):
    """`g_t = sum_{i<t} (V l_i + v) ((K l_i + k)^T q)`, and the policy of round t is its softmax on the simplex, its
    projection on a ball.

    One query attends to all losses so far. It is made from an input that is always the same (Q c + q_c), so here it
    is one vector, `query`. Linear attention has no normalisation, so a sum over the past is one running sum, O(T d).

        policy = LinearAttentionPolicy(3)
        policy(history)            # an agent: (B, t, d) -> (B, d)
        policy.policies(losses)    # of all rounds: (B, T, d) -> (B, T, d), each from the losses before it
        policy.scores(losses)      # the same before softmax or projection, to train on

    With K = 0, v = 0 and weight k^T q = 1 it is FTRL where V = -eta I: Hedge on the simplex, lazy projection of
    `-eta total` on the ball. Source: Park et al. 2025 (arXiv 2403.16843). At first V and v are 0, K is
    normal with deviation 0.1, and k such that the constant weight is 1, which is our choice: where all are small and
    random, and the product of V and the weight has the wrong sign, training brings both to 0, where it stays.

    Raises `InputError` for losses that are not (B, T, d).
    """

    def __init__(self, d: int, decisions: Simplex | Ball | None = None) -> None:
        super().__init__()
        if d < 1:
            raise InputError(f"d is {d}; expected at least 1")
        self.decisions = decisions or Simplex()
        self.values, self.value_bias = nn.Parameter(torch.zeros(d, d)), nn.Parameter(torch.zeros(d))
        query = torch.randn(d)
        self.keys, self.key_bias = nn.Parameter(START * torch.randn(d, d)), nn.Parameter(query / query.square().sum())
        self.query = nn.Parameter(query)

    def forward(self, history: Tensor) -> Tensor:
        """The policy (B, d) for the round after the losses (B, t, d), t >= 0."""
        return self._finish(self._attended(history).sum(-2)).to(history)

    def policies(self, losses: Tensor) -> Tensor:
        """Of all rounds, (B, T, d), each from the losses (B, T, d) before it."""
        return self._finish(self.scores(losses)).to(losses)

    def scores(self, losses: Tensor) -> Tensor:
        """g, (B, T, d)."""
        return nn.functional.pad(self._attended(losses), (0, 0, 1, 0))[..., :-1, :].cumsum(-2)

    @property
    def weight_on_losses(self) -> Tensor:
        """`K^T q`, (d,): how the weight of a loss depends on it; 0 in FTRL."""
        return self.keys.mT @ self.query

    @property
    def weight(self) -> Tensor:
        """`k^T q`, the part of the weight that is the same for all losses."""
        return self.key_bias @ self.query

    @property
    def total_values(self) -> Tensor:
        """`weight * V` (d, d): what a total loss is multiplied with, if `weight_on_losses` and `value_bias` are 0."""
        return self.weight * self.values

    def _attended(self, losses: Tensor) -> Tensor:
        d = len(self.query)
        if losses.ndim != 3 or losses.shape[-1] != d:
            raise InputError(f"losses has shape {tuple(losses.shape)}; expected (B, T, {d})")
        losses = losses.to(self.query)
        return (losses @ self.values.mT + self.value_bias) * (losses @ self.weight_on_losses + self.weight)[..., None]

    def _finish(self, scores: Tensor) -> Tensor:
        return scores.softmax(-1) if isinstance(self.decisions, Simplex) else self.decisions.project(scores)


@torch.no_grad()
def linear_attention(values: Tensor, decisions: Simplex | Ball | None = None) -> LinearAttentionPolicy:
    """The policy with given V (d, d), constant weight 1 and no value bias, in the dtype of V."""
    if values.ndim != 2 or values.shape[0] != values.shape[1]:
        raise InputError(f"values has shape {tuple(values.shape)}; expected (d, d)")
    policy = LinearAttentionPolicy(len(values), decisions).to(values)
    for parameter in (policy.keys, policy.value_bias):
        parameter.zero_()
    policy.values.copy_(values)
    policy.key_bias.fill_(1 / len(values))
    policy.query.fill_(1)
    return policy


@dataclass(frozen=True)
class FTRLEquivalent:
    """eta: the rate of the FTRL that is nearest; distance: `||V + eta I|| / ||V||`, 0 where V is that FTRL, 1 where no
    part of it is (NaN for V = 0)."""

    eta: float
    distance: float


def ftrl_equivalent(values: Tensor, *, simplex: bool = False) -> FTRLEquivalent:
    """The nearest `-eta I` to V (d, d) in Frobenius norm.

    simplex: for policies that are a softmax, which does not change when a constant is added to all scores: both V and
    the identity are compared without the mean of each column.
    """
    identity = torch.eye(len(values), dtype=torch.float64, device=values.device)
    goal = identity - 1 / len(values) if simplex else identity
    seen = goal @ values.detach().double()
    eta = -(seen * goal).sum() / goal.square().sum()
    return FTRLEquivalent(eta.item(), ((seen + eta * goal).norm() / seen.norm()).item())
