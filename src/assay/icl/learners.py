"""Algorithms that learn a linear function from the examples of a prompt: what in-context learners are compared with.

Each predicts y_i from x_i and the examples before it: `OLS().predict_prefixes(xs, ys)`, (B, N, d) and (B, N) -> (B, N).
With no example yet the prediction is 0. All compute in float64, on the device of xs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from assay._errors import InputError

SINGULAR = 1e-12
"""Eigenvalues of X^T X below this part of the largest are none."""


class Learner(ABC):
    """A rule that turns examples into the weights of a linear function."""

    @abstractmethod
    def weights(self, xs: Tensor, ys: Tensor) -> Tensor:
        """(B, N, d), float64: what the rule makes of the examples before each position of xs (B, N, d), ys (B, N).

        Raises `InputError` for other shapes.
        """

    def predict_prefixes(self, xs: Tensor, ys: Tensor) -> Tensor:
        """(B, N), float64: y at each position, from the examples before it."""
        return (self.weights(xs, ys) * xs.double()).sum(-1)


def prefix_moments(xs: Tensor, ys: Tensor) -> tuple[Tensor, Tensor]:
    """`S = sum x x^T` (B, N, d, d) and `b = sum y x` (B, N, d) over the examples before each position. float64.

    Raises `InputError` unless xs is (B, N, d) and ys (B, N). Memory O(B N d^2).
    """
    check_examples(xs, ys)
    x, y = xs.double(), ys.double()
    return _before(x[..., None] * x[..., None, :]), _before(y[..., None] * x)


def check_examples(xs: Tensor, ys: Tensor) -> None:
    """Raises `InputError` unless xs is (B, N, d) and ys (B, N)."""
    if xs.ndim != 3 or ys.shape != xs.shape[:2]:
        raise InputError(f"xs has shape {tuple(xs.shape)} and ys {tuple(ys.shape)}; expected (B, N, d) and (B, N)")


def _before(terms: Tensor) -> Tensor:
    """Sums over the terms before each position, which not even rounding lets see its own."""
    return torch.cat([torch.zeros_like(terms[:, :1]), terms[:, :-1].cumsum(1)], dim=1)


class OLS(Learner):
    """Least squares; of the weights that fit, those of the smallest norm. O(B N d^3)."""

    def weights(self, xs: Tensor, ys: Tensor) -> Tensor:
        S, b = prefix_moments(xs, ys)
        return (torch.linalg.pinv(S, hermitian=True, rtol=SINGULAR) @ b[..., None])[..., 0]


@dataclass(frozen=True)
class Ridge(Learner):
    """`(S + alpha I)^-1 b`: the posterior mean for beta ~ N(0, tau^2 I) where alpha = noise^2 / tau^2. O(B N d^3)."""

    alpha: float

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise InputError(f"alpha is {self.alpha}; expected above 0 (without a penalty use OLS)")

    def weights(self, xs: Tensor, ys: Tensor) -> Tensor:
        S, b = prefix_moments(xs, ys)
        return torch.linalg.solve(S + self.alpha * torch.eye(S.shape[-1]).to(S), b)


@dataclass(frozen=True)
class BayesLinear(Learner):
    """Posterior mean for beta ~ N(0, covariance) and noise of standard deviation `noise`: weighted ridge regression.

    `covariance X^T (X covariance X^T + noise^2 I)^-1 y`. covariance: (d, d), or (d,) for a diagonal one; it may be
    singular, and the noise 0. Source: Li et al. 2023 (arXiv 2301.07067). O(B N d^3).
    """

    covariance: Tensor
    noise: float

    def weights(self, xs: Tensor, ys: Tensor) -> Tensor:
        S, b = prefix_moments(xs, ys)
        covariance = self.covariance.to(S)
        values, vectors = torch.linalg.eigh(covariance.diag() if covariance.ndim == 1 else covariance)
        root = vectors * values.clamp(min=0).sqrt()  # root root^T = covariance
        inner = root.mT @ S @ root + self.noise**2 * torch.eye(S.shape[-1]).to(S)
        return (root @ torch.linalg.pinv(inner, hermitian=True, rtol=SINGULAR) @ (b @ root)[..., None])[..., 0]


@dataclass(frozen=True)
class Newton(Learner):
    """Newton's iteration for the inverse of S: `M_0 = alpha S`, `M_{j+1} = M_j (2 I - S M_j)`; weights `M_steps b`.

    alpha is 1 / ||S S^T||_F. The error is `(I - alpha S^2)^(2^j)`, so log log(1 / eps) steps once it is small. Where S
    is singular it converges to the pseudo-inverse; rounding grows there again after about 50 steps.
    Source: Fu et al. 2023 (arXiv 2310.17086), and their code for alpha. O(B N d^3 steps).
    """

    steps: int

    def weights(self, xs: Tensor, ys: Tensor) -> Tensor:
        S, b = prefix_moments(xs, ys)
        norm = (S @ S.mT).norm(dim=(-2, -1), keepdim=True)
        M = S / norm.clamp(min=torch.finfo(S.dtype).tiny)
        for _ in range(self.steps):
            M = 2 * M - M @ S @ M
        return (M @ b[..., None])[..., 0]


@dataclass(frozen=True)
class GradientDescent(Learner):
    """`steps` steps of `w <- w - lr (S w - b)` from 0, computed at once in the eigenbasis of S. O(B N d^3).

    lr: 1 / the largest eigenvalue of S at each position by default; above 2 / that the steps diverge, as they do.
    """

    steps: int
    lr: float | None = None

    def weights(self, xs: Tensor, ys: Tensor) -> Tensor:
        S, b = prefix_moments(xs, ys)
        values, vectors = torch.linalg.eigh(S)
        values = values.clamp(min=0)
        largest = values[..., -1:]
        largest = torch.where(largest > 0, largest, 1)  # no example yet
        lr = 1 / largest if self.lr is None else torch.full_like(largest, self.lr)
        small = values * lr < 1e-9  # there (1 - (1 - lr v)^steps) / v is lr steps, and rounding
        safe = torch.where(small, 1, values)
        gain = torch.where(small, lr * self.steps, (1 - (1 - lr * safe) ** self.steps) / safe)
        return (vectors @ (gain[..., None] * (vectors.mT @ b[..., None])))[..., 0]


@dataclass(frozen=True)
class OnlineGD(Learner):
    """One step `w <- w - lr (<w, x> - y) x` for each example as it comes: follow the regularised leader, with a squared
    norm as the regulariser, on linearised losses (Zinkevich 2003). lr: 1 / ||x||^2 by default. O(B N d)."""

    lr: float | None = None

    def weights(self, xs: Tensor, ys: Tensor) -> Tensor:
        check_examples(xs, ys)
        x, y = xs.double(), ys.double()
        w, all_weights = torch.zeros_like(x[:, 0]), []
        for i in range(x.shape[1]):
            all_weights.append(w)
            lr = 1 / x[:, i].square().sum(-1, keepdim=True) if self.lr is None else self.lr
            w = w - lr * ((w * x[:, i]).sum(-1, keepdim=True) - y[:, i, None]) * x[:, i]
        return torch.stack(all_weights, dim=1)
