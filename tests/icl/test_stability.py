"""What one wrong example changes, and forecasts from windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from assay._errors import InputError
from assay.data.in_context import GaussianInputs, InContext
from assay.data.in_context_tasks import LinearTasks, MLPTasks, linear_dynamics
from assay.icl.dynamics import forecast
from assay.icl.learners import OLS, Ridge
from assay.icl.regressor import InContextRegressor
from assay.icl.stability import flip_first, stability_curve


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Forgetful:
    """Ridge regression on the last two examples."""

    def predict_prefixes(self, xs: Tensor, ys: Tensor) -> Tensor:
        padded, values = (torch.cat([torch.zeros_like(t[:, :2]), t], dim=1) for t in (xs, ys))
        parts = [
            Ridge(1.0).predict_prefixes(padded[:, i : i + 3], values[:, i : i + 3])[:, -1] for i in range(xs.shape[1])
        ]
        return torch.stack(parts, dim=1)


@pytest.mark.parametrize("tasks", [LinearTasks(3), LinearTasks(3, rho=0.5), MLPTasks(3, 4)])
def test_only_the_first_example_is_flipped(tasks: LinearTasks | MLPTasks) -> None:
    sampler = InContext(tasks, GaussianInputs(), noise=0.3, dtype=torch.float64)
    prompts = sampler.sample(20, 5, generator=seeded())
    flipped = flip_first(sampler, prompts, generator=seeded(1))

    assert torch.equal(flipped.xs[:, 1:], prompts.xs[:, 1:])
    assert torch.equal(flipped.ys[:, 1:], prompts.ys[:, 1:])
    assert (flipped.xs[:, 0] != prompts.xs[:, 0]).all()
    truth = tasks.values(prompts.tasks, flipped.xs)[0][:, 0]
    torch.testing.assert_close(flipped.ys[:, 0], -truth)
    torch.testing.assert_close(flipped.clean[:, 0], -truth)


def test_the_curve_by_its_definition() -> None:
    sampler = InContext(LinearTasks(2), GaussianInputs(), noise=1.0, dtype=torch.float64)
    curve = stability_curve(Ridge(1.0), sampler, 40, 6, generator=seeded())

    generator = seeded()
    prompts = sampler.sample(40, 6, generator=generator)
    flipped = flip_first(sampler, prompts, generator=generator)
    expected = np.zeros(5)
    for b in range(40):
        for i in range(1, 6):
            losses = []
            for one in (prompts, flipped):
                X, y = one.xs[b, :i].numpy(), one.ys[b, :i].numpy()
                w = np.linalg.solve(X.T @ X + np.eye(2), X.T @ y)
                losses.append((one.xs[b, i].numpy() @ w - one.ys[b, i].item()) ** 2)
            expected[i - 1] += abs(losses[1] - losses[0]) / 40
    np.testing.assert_allclose(curve.numpy(), expected, rtol=1e-10)


def test_who_forgets_is_not_disturbed_and_who_remembers_is_less_and_less() -> None:
    sampler = InContext(LinearTasks(3), GaussianInputs(), noise=1.0, dtype=torch.float64)
    assert stability_curve(Forgetful(), sampler, 50, 6, generator=seeded())[2:].abs().max() == 0
    curve = stability_curve(Ridge(1.0), sampler, 500, 61, generator=seeded())
    assert (curve > 0).all()
    assert curve[-1] < 0.3 * curve[14]


def test_a_transformer_is_a_learner_too() -> None:
    torch.manual_seed(0)
    model = InContextRegressor(3, 6, d_model=8, num_layers=1, num_heads=2)
    sampler = InContext(LinearTasks(3), GaussianInputs())
    assert stability_curve(model, sampler, 4, 6, generator=seeded()).shape == (5,)
    with pytest.raises(InputError, match="N at most the 6 points of training"):
        stability_curve(model, sampler, 4, 7, generator=seeded())
    with pytest.raises(InputError, match="num_points is 1"):
        stability_curve(model, sampler, 4, 1, generator=seeded())


def test_forecast_is_a_regression_on_windows() -> None:
    series = linear_dynamics(2, 12, d=4, observed=2, generator=seeded()).double()
    predicted = forecast(series, 3, OLS())
    assert predicted.shape == (2, 9, 2)

    for b in range(2):
        for t in range(3, 12):
            X = np.array([series[b, s - 3 : s].T.flatten().numpy() for s in range(3, t)]).reshape(-1, 6)
            Y = series[b, 3:t].numpy().reshape(-1, 2)
            now = series[b, t - 3 : t].T.flatten().numpy()
            expected = now @ np.linalg.lstsq(X, Y, rcond=1e-10)[0] if len(X) else np.zeros(2)
            np.testing.assert_allclose(predicted[b, t - 3].numpy(), expected, rtol=1e-5, atol=1e-7)


def test_a_window_that_sees_all_of_a_noiseless_system_knows_what_comes() -> None:
    decay = 0.9 ** torch.arange(30, dtype=torch.float64)
    turning = decay * torch.cos(0.7 * torch.arange(30, dtype=torch.float64))  # two states, of which one is seen
    errors = [(forecast(turning[None, :, None], H, OLS())[0, -5:, 0] - turning[-5:]).abs().max() for H in (1, 2)]

    assert errors[1] < 1e-9
    assert errors[0] > 1e-3
    for window in (0, 30):
        with pytest.raises(InputError, match=f"window is {window}"):
            forecast(turning[None, :, None], window, OLS())
