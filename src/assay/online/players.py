"""Players that see all losses: each is `history (B, t, d) -> policy (B, d)` for round t + 1, and has
`policies(losses)`, (B, T, d), of all rounds at once, where that of a round is made from the losses before it only."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from assay.online.decisions import Decisions, Simplex

Agent = Callable[[Tensor], Tensor]
"""Anything that gives a policy (B, d) for the next round when it is told the losses (B, t, d) so far, t >= 0."""


def totals_before(losses: Tensor) -> Tensor:
    """The sum of the losses before each round, (B, T, d): zero in the first."""
    return torch.nn.functional.pad(losses, (0, 0, 1, 0))[..., :-1, :].cumsum(-2)


class TotalPlayer(ABC):
    """A player to whom only the sum of the losses matters, and how many there were."""

    @abstractmethod
    def policy(self, total: Tensor, rounds: Tensor) -> Tensor:
        """total: (..., d), the sum of the losses before a round; rounds: (...), its number from 1."""

    def __call__(self, history: Tensor) -> Tensor:
        return self.policy(history.sum(-2), history.new_tensor(history.shape[-2] + 1.0))

    def policies(self, losses: Tensor) -> Tensor:
        """Of all rounds, (B, T, d), each from the losses (B, T, d) before it."""
        rounds = torch.arange(1, losses.shape[-2] + 1, device=losses.device, dtype=losses.dtype)
        return self.policy(totals_before(losses), rounds)


@dataclass(frozen=True)
class FTL(TotalPlayer):
    """Follow the leader: the policy that would have been best so far, of several actions the first. Regret may be
    linear in T."""

    decisions: Decisions = field(default_factory=Simplex)

    def policy(self, total: Tensor, rounds: Tensor) -> Tensor:  # noqa: ARG002
        return self.decisions.best(total)


@dataclass(frozen=True)
class FTRL(TotalPlayer):
    """Follow the leader with the regulariser `||pi||^2 / (2 eta)`: the projection of `-eta total`.

    anytime: the rate of round t is `eta / sqrt(t)`, so that T need not be known. Source: Shalev-Shwartz 2012.
    """

    eta: float
    decisions: Decisions = field(default_factory=Simplex)
    anytime: bool = False

    def policy(self, total: Tensor, rounds: Tensor) -> Tensor:
        return self.decisions.project(-_rate(self.eta, rounds, self.anytime) * total)


@dataclass(frozen=True)
class Hedge(TotalPlayer):
    """Exponential weights, `softmax(-eta total)`: FTRL on the simplex with negative entropy over eta.

    anytime: the rate of round t is `eta / sqrt(t)`. Source: Freund & Schapire 1997; `best_rate` gives the eta with the
    least bound.
    """

    eta: float
    anytime: bool = False

    @staticmethod
    def best_rate(d: int, width: float) -> float:
        """`sqrt(8 ln d) / width` for losses in an interval of that width: for `anytime`, or to be divided by sqrt(T).
        With the former the regret is at most `width (sqrt(2 T ln d) + sqrt(ln d / 8))`, with the latter
        `width sqrt(T ln(d) / 2)`: Cesa-Bianchi & Lugosi 2006, theorems 2.2 and 2.3."""
        return math.sqrt(8 * math.log(d)) / width

    def policy(self, total: Tensor, rounds: Tensor) -> Tensor:
        return (-_rate(self.eta, rounds, self.anytime) * total).softmax(-1)


@dataclass(frozen=True)
class FTPL(TotalPlayer):
    """Follow the perturbed leader: the chance of each action to have the least `total + noise / eta`, standard normal
    noise: `E prod_{b != a} Phi(eta (total_b - total_a) - x)` over a standard normal x.

    The expectation is taken by Gauss-Hermite quadrature, not drawn: 32 points are exact to rounding for two actions, to
    1e-7 for ten. anytime: the rate of round t is `eta / sqrt(t)`. Source: Kalai & Vempala 2005. O(32 d^2).
    """

    eta: float
    anytime: bool = False

    def policy(self, total: Tensor, rounds: Tensor) -> Tensor:
        x, weights = (torch.as_tensor(one).to(total) for one in _quadrature())
        lead = _rate(self.eta, rounds, self.anytime) * total
        gap = lead[..., None, :] - lead[..., :, None]  # of b over a
        chance = torch.special.ndtr(gap[..., None] - x)  # (..., a, b, nodes)
        own = torch.eye(total.shape[-1], dtype=torch.bool, device=total.device)[..., None]
        chance = (chance.masked_fill(own, 1).prod(-2) * weights).sum(-1)
        return chance / chance.sum(-1, keepdim=True)


@dataclass(frozen=True)
class OnlineGradient:
    """Projected gradient descent, `pi_{t+1} = project(pi_t - eta l_t)`, from the projection of 0: Zinkevich 2003.

    anytime: the step after round t is `eta / sqrt(t)`. A loop over rounds, so O(T) calls of small kernels.
    """

    eta: float
    decisions: Decisions = field(default_factory=Simplex)
    anytime: bool = False

    def __call__(self, history: Tensor) -> Tensor:
        return self._course(history)[-1]

    def policies(self, losses: Tensor) -> Tensor:
        return torch.stack(self._course(losses)[:-1], -2)

    def _course(self, losses: Tensor) -> list[Tensor]:
        course = [self.decisions.project(torch.zeros_like(losses.sum(-2)))]
        for t, loss in enumerate(losses.unbind(-2), 1):
            step = self.eta / math.sqrt(t) if self.anytime else self.eta
            course.append(self.decisions.project(course[-1] - step * loss))
        return course


@lru_cache
def _quadrature() -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.hermite_e.hermegauss(32)


def _rate(eta: float, rounds: Tensor, anytime: bool) -> Tensor | float:
    """The rate of each round, (..., 1)."""
    return eta * rounds[..., None].rsqrt() if anytime else eta
