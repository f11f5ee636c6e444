"""What a player lost by not knowing the losses before: regret, static and dynamic."""

from __future__ import annotations

from torch import Tensor

from assay._errors import InputError
from assay.online.decisions import Decisions, Simplex


def regret(losses: Tensor, policies: Tensor, decisions: Decisions | None = None) -> Tensor:
    """`Regret_t = sum_{s<=t} <l_s, pi_s> - min_pi <sum_{s<=t} l_s, pi>` for every t: (B, T), in units of losses.

    losses, policies: (B, T, d); decisions: what the minimum is over, the simplex by default. Differentiable in the
    policies, which need not be in the set. Source: Zinkevich 2003; for agents Park et al. 2025 (arXiv 2403.16843).
    Raises `InputError` where losses and policies differ in shape, or have fewer than two axes.
    """
    suffered = _suffered(losses, policies)
    return suffered.cumsum(-1) - (decisions or Simplex()).least(losses.cumsum(-2))


def dynamic_regret(losses: Tensor, policies: Tensor, decisions: Decisions | None = None) -> Tensor:
    """`sum_{s<=t} <l_s, pi_s> - min_pi <l_s, pi>` for every t: (B, T), against the best policy of each round. Never
    less than the regret, and sublinear only where the losses change little."""
    return (_suffered(losses, policies) - (decisions or Simplex()).least(losses)).cumsum(-1)


def variation(losses: Tensor) -> Tensor:
    """`sum_t ||l_t - l_{t-1}||`, how much losses (B, T, d) change: (B,)."""
    return losses.diff(dim=-2).norm(dim=-1).sum(-1)


def _suffered(losses: Tensor, policies: Tensor) -> Tensor:
    if losses.ndim < 2 or losses.shape != policies.shape:
        raise InputError(f"policies has shape {tuple(policies.shape)}; expected that of losses, {tuple(losses.shape)}")
    return (losses * policies).sum(-1)
