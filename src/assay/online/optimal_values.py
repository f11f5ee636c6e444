"""The linear attention that minimises the squared regret, in closed form and by least squares."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from assay._errors import InputError
from assay.online.players import totals_before


def optimal_values(covariance: Tensor, horizon: int, radius: float = 1.0) -> Tensor:
    """The V (d, d) that minimises E[Regret_T^2] on a ball, for independent losses l ~ N(0, S), T = `horizon`:

        V* = -R S^-1 E[ ||sum_t l_t|| l_1 l_2^T ] S^-1

    The policy is V times the sum of the losses before, without projection. For S = s^2 I it is `-rate I`, see
    `isotropic_rate`; its eigenvectors are always those of S. float64; O(d^3) and d integrals of one variable.

    Source: Park et al. 2025 (arXiv 2403.16843) have such a theorem; the formula is derived anew, from the normal
    equations: the terms l_t l_i^T, i < t, are uncorrelated for different pairs. Given their sum, losses are jointly
    normal, so that the expectation comes to `E sqrt(q) (z_i^2 - 1)`, `q = sum_j lambda_j z_j^2`, in the eigenbasis,
    which is an integral over the Laplace transform of q.

    Raises `InputError` for a covariance that is not symmetric and positive definite, T < 2, or a radius that is not
    positive.
    """
    from scipy.integrate import quad

    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise InputError(f"covariance has shape {tuple(covariance.shape)}; expected (d, d)")
    if horizon < 2 or not radius > 0:
        raise InputError(f"horizon is {horizon} and radius {radius}; expected at least 2, and a positive number")
    covariance = covariance.double()
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    if not torch.allclose(covariance, covariance.mT) or not bool(eigenvalues[0] > 0):
        raise InputError("covariance is not symmetric and positive definite; expected one that is")
    scale = eigenvalues.mean().item()
    ratios = (eigenvalues / scale).tolist()

    def integrand(u: float, own: float) -> float:
        spread = math.prod(1 + 2 * ratio * u * u for ratio in ratios)
        return 2 * own / (1 + 2 * own * u * u) / math.sqrt(math.pi * spread)

    moments = [quad(integrand, 0, math.inf, args=(own,), epsabs=1e-12, epsrel=1e-10)[0] for own in ratios]
    rates = radius * covariance.new_tensor(moments) / (covariance.new_tensor(ratios) * math.sqrt(scale))
    return -(vectors * rates / math.sqrt(horizon)) @ vectors.mT


def isotropic_rate(d: int, horizon: int, deviation: float = 1.0, radius: float = 1.0) -> float:
    """The c of V* = -c I for l ~ N(0, deviation^2 I): `R sqrt(2) Gamma((d+1)/2) / (Gamma(d/2) d s sqrt(T))`, near
    `R / (s sqrt(d T))`, which is how the best rate against an adversary scales.

    >>> round(isotropic_rate(3, 6), 4)
    0.2172
    """
    mean_norm = math.sqrt(2) * math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2))
    return radius * mean_norm / (d * deviation * math.sqrt(horizon))


def fit_values(losses: Tensor, radius: float = 1.0) -> Tensor:
    """The V (d, d) with the least mean of squared regret over samples of losses (N, T, d), of any law: least squares of
    `-R ||sum_t l_t||` on the features `sum_t l_t (sum_{i<t} l_i)^T`. float64, O(N (T d^2 + d^4))."""
    features, target = regret_features(losses, radius)
    solution: Tensor = torch.linalg.lstsq(features, target[:, None]).solution
    return solution.view(losses.shape[-1], losses.shape[-1])


def regret_features(losses: Tensor, radius: float = 1.0) -> tuple[Tensor, Tensor]:
    """Features (N, d^2) and target (N,) such that the regret of V on a ball is `features @ V.flatten() - target`."""
    losses = losses.double()
    features = torch.einsum("nta,ntb->nab", losses, totals_before(losses)).flatten(1)
    return features, -radius * losses.sum(1).norm(dim=-1)
