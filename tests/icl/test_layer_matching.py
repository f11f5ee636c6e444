from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from assay import InputError
from assay.data.in_context import GaussianInputs, InContext, Prompts, ill_conditioned
from assay.data.in_context_tasks import LinearTasks
from assay.icl.gd_grid import gd_predictions, newton_predictions, safe_rate
from assay.icl.layer_matching import match_algorithm_steps, prefix_errors, train_layer_probes
from assay.icl.learners import OLS
from assay.icl.regressor import InContextRegressor
from assay.measures.similarity import similarity_of_errors


def prompts(num_points: int = 12, d: int = 4, *, ill: bool = False, seed: int = 0) -> Prompts:
    inputs = ill_conditioned(d) if ill else GaussianInputs()
    sampler = InContext(LinearTasks(d), inputs, dtype=torch.float64)
    return sampler.sample(6, num_points, generator=torch.Generator().manual_seed(seed))


def naive_gd(xs: Tensor, ys: Tensor, steps: int, lr: Tensor) -> Tensor:
    out = torch.zeros_like(ys)
    for b in range(xs.shape[0]):
        for t in range(xs.shape[1]):
            X, y, w = xs[b, :t], ys[b, :t], torch.zeros(xs.shape[2], dtype=xs.dtype)
            for _ in range(steps):
                w = w - lr[b] * (X.mT @ (X @ w - y))
            out[b, t] = w @ xs[b, t]
    return out


def naive_newton(xs: Tensor, ys: Tensor, steps: int) -> Tensor:
    out = torch.zeros_like(ys)
    for b in range(xs.shape[0]):
        for t in range(1, xs.shape[1]):
            X, y = xs[b, :t], ys[b, :t]
            S = X.mT @ X
            M = S / (S @ S.mT).norm()
            for _ in range(steps):
                M = M @ (2 * torch.eye(len(S), dtype=S.dtype) - S @ M)
            out[b, t] = (M @ X.mT @ y) @ xs[b, t]
    return out


@pytest.mark.parametrize("ill", [False, True])
def test_gradient_descent_at_many_step_counts_is_the_loop(ill: bool) -> None:
    p = prompts(ill=ill)
    rate = safe_rate(p.xs)
    found = gd_predictions(p.xs, p.ys, [0, 1, 7, 60], lr=rate)
    for steps, one in zip([0, 1, 7, 60], found, strict=True):
        torch.testing.assert_close(one, naive_gd(p.xs, p.ys, steps, rate), rtol=1e-9, atol=1e-11)


def test_rates_that_diverge_do() -> None:
    p = prompts()
    found = gd_predictions(p.xs, p.ys, [5], lr=0.3)[0]
    assert found.abs().max() > 100
    torch.testing.assert_close(found, naive_gd(p.xs, p.ys, 5, torch.full((6,), 0.3, dtype=torch.float64)))


@pytest.mark.parametrize("ill", [False, True])
def test_newton_at_many_step_counts_is_the_iteration(ill: bool) -> None:
    p = prompts(ill=ill)
    for steps, one in zip([0, 1, 5, 12], newton_predictions(p.xs, p.ys, [0, 1, 5, 12]), strict=True):
        torch.testing.assert_close(one, naive_newton(p.xs, p.ys, steps), rtol=1e-8, atol=1e-10)


def test_both_end_at_least_squares_and_stay_there() -> None:
    p = prompts()
    least = OLS().predict_prefixes(p.xs, p.ys)
    for found in (newton_predictions(p.xs, p.ys, [60])[0], gd_predictions(p.xs, p.ys, [10**7])[0]):
        torch.testing.assert_close(found, least, rtol=1e-6, atol=1e-7)


def test_gradient_descent_needs_root_two_times_the_steps_for_each_of_newton() -> None:
    """On S with one eigenvalue far below the others, both are a gain on that one: 2^j alpha v^2 = t v / v_max."""
    p = prompts(40, 6, ill=True)
    newton = (newton_predictions(p.xs, p.ys, range(14, 21)) - p.ys)[:, 1:]
    grid = sorted({round(2 ** (i / 8)) for i in range(112)})
    gd = (gd_predictions(p.xs, p.ys, grid, lr=safe_rate(p.xs)) - p.ys)[:, 1:]
    steps = match_algorithm_steps(newton, gd, grid).steps
    assert 0.35 < math.log2(steps[-1] / steps[0]) / 6 < 1.05


def test_the_best_match_of_an_algorithm_is_itself() -> None:
    p = prompts()
    grid = [1, 2, 4, 8, 16]
    errors = (gd_predictions(p.xs, p.ys, grid) - p.ys)[:, :, 1:]
    matches = match_algorithm_steps(errors[[3, 1]], errors, grid)
    assert matches.steps.tolist() == [8, 2]
    assert matches.similarity.tolist() == pytest.approx([1, 1])
    expected = [[similarity_of_errors(errors[i], other) for other in errors] for i in (3, 1)]
    torch.testing.assert_close(matches.table, torch.tensor(expected, dtype=torch.float64))
    shuffled = errors[:, :, torch.randperm(errors.shape[2], generator=torch.Generator().manual_seed(0))]
    assert match_algorithm_steps(shuffled, errors, grid).similarity.max() < 0.9


def test_vanished_and_diverged_errors_never_match_best() -> None:
    p = prompts()
    one = (gd_predictions(p.xs, p.ys, [4]) - p.ys)[:, :, 1:]
    algorithms = torch.cat([torch.zeros_like(one), torch.full_like(one, torch.inf), -one])
    assert match_algorithm_steps(one, algorithms, [1, 2, 3]).steps.tolist() == [3]


def test_any_callable_is_a_regressor() -> None:
    p = prompts()
    torch.testing.assert_close(prefix_errors(lambda xs, ys: 0 * xs[..., 0] * ys, p), -p.ys[:, 1:])
    torch.testing.assert_close(prefix_errors(OLS(), p), (OLS().predict_prefixes(p.xs, p.ys) - p.ys)[:, 1:])
    with pytest.raises(InputError, match="regressor gives shape"):
        prefix_errors(lambda xs, ys: xs * ys[..., None], p)


class Layers:
    """Hidden states of which the truth is known: OLS predictions in the second layer, noise of them in the first."""

    def hidden_states(self, xs: Tensor, ys: Tensor) -> list[Tensor]:
        least = OLS().predict_prefixes(xs, ys)
        other = xs.sum(-1)
        return [torch.stack([other, least + 3 * xs[..., 0]], -1), torch.stack([2 * least + 5 * other, other], -1)]


def test_probes_find_what_is_linear_in_the_states() -> None:
    sample, fresh = prompts(30), prompts(30, seed=1)
    probes = train_layer_probes(Layers(), sample)
    found = probes.predict_prefixes(fresh.xs, fresh.ys)
    # the best read-out of what contains OLS is at least as good on the sample, and near OLS elsewhere
    states = Layers().hidden_states(sample.xs, sample.ys)[1]
    design = torch.cat([states, torch.ones_like(states[..., :1])], -1).flatten(0, 1)
    expected = torch.linalg.lstsq(design, sample.ys.flatten()).solution
    torch.testing.assert_close(probes.weights[1, :, 0], expected)
    errors = (found - fresh.ys).square().mean((1, 2))
    assert errors[1] < 0.5 * errors[0]


def test_probes_of_a_transformer_with_fewer_positions_than_weights_are_refused() -> None:
    torch.manual_seed(0)
    model = InContextRegressor(4, 12, d_model=16, num_layers=3, num_heads=2)
    p = InContext(LinearTasks(4), GaussianInputs()).sample(30, 12, generator=torch.Generator().manual_seed(0))
    assert train_layer_probes(model, p).predict_prefixes(p.xs, p.ys).shape == (3, 30, 12)
    few = Prompts(p.xs[:1], p.ys[:1], p.clean[:1], p.tasks[:1])
    with pytest.raises(InputError, match="prompts have 12 positions"):
        train_layer_probes(model, few)


def test_bad_input() -> None:
    p = prompts()
    with pytest.raises(InputError, match="steps are"):
        gd_predictions(p.xs, p.ys, [-1])
    with pytest.raises(InputError, match="lr has shape"):
        gd_predictions(p.xs, p.ys, [1], lr=torch.ones(3))
    with pytest.raises(InputError, match="xs has shape"):
        newton_predictions(p.xs[0], p.ys, [1])
    errors = torch.ones(2, 3, 4)
    with pytest.raises(InputError, match="layer_errors"):
        match_algorithm_steps(errors, errors[:, :2], [1, 2])
    with pytest.raises(InputError, match="steps are 3"):
        match_algorithm_steps(errors, errors, [1, 2, 3])
