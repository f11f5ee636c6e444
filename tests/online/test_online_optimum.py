"""The closed form of the best linear attention against least squares and Monte Carlo, and what breaks it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from assay.online.attention_policy import linear_attention
from assay.online.decisions import Ball
from assay.online.optimal_values import fit_values, isotropic_rate, optimal_values, regret_features
from assay.online.regret import regret

SKEWED = torch.tensor([[1.5, 0.4, 0.0], [0.4, 1.0, -0.3], [0.0, -0.3, 0.5]], dtype=torch.float64)


def gaussian(covariance: Tensor, horizon: int, samples: int = 150_000) -> Tensor:
    torch.manual_seed(0)
    root = torch.linalg.cholesky(covariance)
    return torch.randn(samples, horizon, len(covariance), dtype=torch.float64) @ root.mT


@pytest.mark.parametrize("covariance", [torch.diag(torch.tensor([1.0, 2.0, 0.5])).double(), SKEWED])
def test_least_squares_finds_the_closed_form(covariance: Tensor) -> None:
    losses, best = gaussian(covariance, 6), optimal_values(covariance, 6, radius=2.0)

    assert (fit_values(losses, radius=2.0) - best).norm() / best.norm() < 0.05
    assert (fit_values(losses + 0.5, radius=2.0) - best).norm() / best.norm() > 0.3  # the mean must be zero
    assert (fit_values(losses, radius=1.0) - best).norm() / best.norm() > 0.4
    features, target = regret_features(losses, 2.0)
    squares = [(features @ (factor * best).flatten() - target).square().mean() for factor in (1, 0.7, 1.3, 0, -1)]
    assert min(squares) == squares[0]
    assert max(squares) == squares[-1]  # the flipped sign follows the losses


def test_the_formula_with_its_expectation_drawn() -> None:
    horizon, inverse = 4, torch.linalg.inv(SKEWED)
    losses = gaussian(SKEWED, horizon, 400_000)
    norms = losses.sum(1).norm(dim=-1)
    norms = norms - norms.mean()  # less noise, and nothing else, since E l_1 l_2^T = 0
    pairs = [(i, j) for i in range(horizon) for j in range(horizon) if i != j]
    outer = sum(torch.einsum("n,na,nb->ab", norms, losses[:, i], losses[:, j]) for i, j in pairs)
    drawn = -inverse @ (outer / (len(pairs) * len(losses))) @ inverse

    best = optimal_values(SKEWED, horizon)
    assert (drawn - best).norm() / best.norm() < 0.02


@pytest.mark.parametrize(("d", "horizon", "deviation"), [(1, 5, 1.0), (3, 6, 1.0), (5, 10, 2.0)])
def test_isotropic_losses_give_minus_the_rate_times_the_identity(d: int, horizon: int, deviation: float) -> None:
    found = optimal_values(deviation**2 * torch.eye(d), horizon, radius=1.5)
    rate = isotropic_rate(d, horizon, deviation, 1.5)
    torch.testing.assert_close(found, -rate * torch.eye(d, dtype=torch.float64), rtol=1e-8, atol=1e-10)
    assert isotropic_rate(400, horizon) == pytest.approx((400 * horizon) ** -0.5, rel=1e-2)


def test_features_are_the_regret_of_the_attention_without_projection() -> None:
    losses, V = gaussian(SKEWED, 5, 10), torch.randn(3, 3, dtype=torch.float64)
    features, target = regret_features(losses, 0.8)
    scores = linear_attention(V).scores(losses).detach()
    torch.testing.assert_close(features @ V.flatten() - target, regret(losses, scores, Ball(0.8))[:, -1])


def test_what_is_refused() -> None:
    for covariance, message in (
        (torch.ones(2, 2), "not symmetric and positive definite"),
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]]), "not symmetric and positive definite"),
        (torch.ones(2, 3), r"covariance has shape \(2, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            optimal_values(covariance, 5)
    with pytest.raises(ValueError, match="horizon is 1"):
        optimal_values(torch.eye(2), 1)
