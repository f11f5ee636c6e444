"""Reference learners, against scikit-learn-free direct solutions of every prefix, and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from assay._errors import InputError
from assay.data.in_context import GaussianInputs, InContext, ill_conditioned
from assay.data.in_context_tasks import LinearTasks
from assay.icl.learners import OLS, BayesLinear, GradientDescent, Learner, Newton, OnlineGD, Ridge

Array = NDArray[np.float64]
COVARIANCE = torch.tensor([1.0, 0.25, 0.1, 0.0])


def least_squares(x: Array, y: Array) -> Array:
    return np.linalg.lstsq(x, y, rcond=1e-10)[0]


def ridge(x: Array, y: Array) -> Array:
    stacked = np.vstack([x, np.sqrt(0.7) * np.eye(4)])
    return np.linalg.lstsq(stacked, np.concatenate([y, np.zeros(4)]), rcond=None)[0]


def posterior(x: Array, y: Array) -> Array:
    prior = np.diag(COVARIANCE.numpy().astype(np.float64))
    return prior @ x.T @ np.linalg.solve(x @ prior @ x.T + 0.25 * np.eye(len(x)), y)


def newton(x: Array, y: Array) -> Array:
    S = x.T @ x
    M = S / np.linalg.norm(S @ S.T)
    for _ in range(5):
        M = M @ (2 * np.eye(4) - S @ M)
    return M @ x.T @ y


def descent(x: Array, y: Array) -> Array:
    S, w = x.T @ x, np.zeros(4)
    for _ in range(30):
        w = w - (S @ w - x.T @ y) / np.linalg.eigvalsh(S)[-1]
    return w


def slow_descent(x: Array, y: Array) -> Array:
    w = np.zeros(4)
    for _ in range(30):
        w = w - 0.01 * x.T @ (x @ w - y)
    return w


def online(x: Array, y: Array) -> Array:
    w = np.zeros(4)
    for row, value in zip(x, y, strict=True):
        w = w - 0.1 * (row @ w - value) * row
    return w


@pytest.mark.parametrize(
    ("learner", "direct"),
    [
        (OLS(), least_squares),
        (Ridge(0.7), ridge),
        (BayesLinear(COVARIANCE, 0.5), posterior),
        (BayesLinear(COVARIANCE.diag(), 0.5), posterior),
        (Newton(5), newton),
        (GradientDescent(30), descent),
        (GradientDescent(30, lr=0.01), slow_descent),
        (OnlineGD(0.1), online),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Learner) else value.__name__,
)
def test_every_prefix_by_itself(learner: Learner, direct: object) -> None:
    xs, ys = torch.randn(3, 9, 4, dtype=torch.float64), torch.randn(3, 9, dtype=torch.float64)

    weights, predictions = learner.weights(xs, ys), learner.predict_prefixes(xs, ys)

    assert (weights[:, 0] == 0).all()
    for b in range(3):
        for i in range(1, 9):
            truth = direct(xs[b, :i].numpy(), ys[b, :i].numpy())  # type: ignore[operator]
            np.testing.assert_allclose(weights[b, i].numpy(), truth, rtol=1e-7, atol=1e-9)
            assert predictions[b, i].item() == pytest.approx(float(truth @ xs[b, i].numpy()), rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("learner", [OLS(), Ridge(1.0), Newton(8), GradientDescent(9), OnlineGD()])
def test_the_value_asked_for_is_not_read(learner: Learner) -> None:
    xs, ys = torch.randn(2, 6, 3), torch.randn(2, 6)
    changed = ys.clone()
    changed[:, 3:] += 1

    before, after = (learner.predict_prefixes(xs, y) for y in (ys, changed))

    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_newton_needs_few_steps_where_descent_needs_many() -> None:
    sampler = InContext(LinearTasks(20), ill_conditioned(20), dtype=torch.float64)
    prompts = sampler.sample(16, 41, generator=torch.Generator().manual_seed(0))

    def error(learner: Learner) -> float:
        return (learner.predict_prefixes(prompts.xs, prompts.ys) - prompts.ys)[:, -1].square().mean().item() / 20

    assert error(Newton(26)) < 1e-8
    assert error(GradientDescent(2000)) > 1e-6
    assert error(GradientDescent(2_000_000)) < 1e-8


def test_without_noise_the_prior_of_all_equal_is_least_squares() -> None:
    sampler = InContext(LinearTasks(3), GaussianInputs(), dtype=torch.float64)
    prompts = sampler.sample(4, 8, generator=torch.Generator().manual_seed(0))
    both = [learner.weights(prompts.xs, prompts.ys) for learner in (OLS(), BayesLinear(torch.ones(3), 0.0))]
    torch.testing.assert_close(both[0], both[1], rtol=1e-7, atol=1e-9)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="alpha is 0"):
        Ridge(0)
    with pytest.raises(InputError, match=r"ys \(2, 4\)"):
        OLS().predict_prefixes(torch.ones(2, 5, 3), torch.ones(2, 4))


@pytest.mark.parametrize("learner", [OLS(), OnlineGD()])
def test_shapes_that_do_not_fit(learner: Learner) -> None:
    with pytest.raises(InputError, match=r"xs has shape \(2, 3, 4\) and ys \(2, 4\); expected"):
        learner.predict_prefixes(torch.zeros(2, 3, 4), torch.zeros(2, 4))
