"""Where policies live: the simplex, and a Euclidean ball. Everything is over the last axis, (..., d)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from assay._errors import InputError


@dataclass(frozen=True)
class Simplex:
    """Probabilities of d actions."""

    def best(self, total: Tensor) -> Tensor:
        """The first action of least total loss, one-hot."""
        return torch.nn.functional.one_hot(total.argmin(-1), total.shape[-1]).to(total)

    def least(self, total: Tensor) -> Tensor:
        """`min_pi <total, pi>`, (...)."""
        return total.amin(-1)

    def project(self, x: Tensor) -> Tensor:
        """The nearest policy to x, by sorting: Held, Wolfe & Crowder 1974. O(d log d)."""
        ranked = x.sort(-1, descending=True).values
        excess = (ranked.cumsum(-1) - 1) / torch.arange(1, x.shape[-1] + 1, device=x.device, dtype=x.dtype)
        last = (ranked > excess).sum(-1, keepdim=True) - 1
        return (x - excess.gather(-1, last)).clamp(min=0)

    def contains(self, policy: Tensor, slack: float = 1e-5) -> Tensor:
        return (policy >= -slack).all(-1) & ((policy.sum(-1) - 1).abs() <= slack)


@dataclass(frozen=True)
class Ball:
    """Vectors of Euclidean norm at most `radius`."""

    radius: float = 1.0

    def __post_init__(self) -> None:
        if not self.radius > 0:
            raise InputError(f"radius is {self.radius}; expected a positive number")

    def best(self, total: Tensor) -> Tensor:
        """The point against the total loss; the centre where that is 0."""
        return -self.radius * torch.nn.functional.normalize(total, dim=-1, eps=torch.finfo(total.dtype).tiny)

    def least(self, total: Tensor) -> Tensor:
        """`min_pi <total, pi>`, (...)."""
        return -self.radius * total.norm(dim=-1)

    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the ball to x."""
        return x * (self.radius / x.norm(dim=-1, keepdim=True).clamp(min=self.radius))

    def contains(self, policy: Tensor, slack: float = 1e-5) -> Tensor:
        return policy.norm(dim=-1) <= self.radius * (1 + slack)


Decisions = Simplex | Ball
