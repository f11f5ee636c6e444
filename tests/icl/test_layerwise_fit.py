from __future__ import annotations

import pytest
import torch

from assay import InputError
from assay.data.in_context import GaussianInputs, InContext, Prompts
from assay.data.in_context_tasks import MLPTasks
from assay.icl.layerwise_fit import layerwise_in_context_fit


def prompts(num_points: int, layers: int = 2, hidden: int = 5, seed: int = 0) -> Prompts:
    sampler = InContext(MLPTasks(4, hidden, layers=layers), GaussianInputs(), dtype=torch.float64)
    return sampler.sample(6, num_points, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layers", [2, 3])
def test_enough_examples_give_the_network_exactly(layers: int) -> None:
    p = prompts(220, layers)
    shown = [state[:, :200] for state in p.hidden]
    fit = layerwise_in_context_fit(p.xs[:, :200], shown, p.ys[:, :200], p.xs[:, 200:])
    *_, v = MLPTasks(4, 5, layers=layers).weights(p.tasks)
    good = torch.stack([one.all(-1) for one in fit.identified]).all(0)
    assert good.sum() >= 3  # in the others a neuron is hardly ever active
    torch.testing.assert_close(fit.predictions[good], p.ys[good, 200:], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(fit.weights[-1][good], v[good], rtol=1e-6, atol=1e-6)
    assert len(fit.weights) == len(fit.identified) == layers


def test_a_neuron_is_least_squares_over_the_examples_that_show_it() -> None:
    p = prompts(30)
    fit = layerwise_in_context_fit(p.xs, p.hidden, p.ys, p.xs)
    active = p.hidden[0][2, :, 3] > 0
    expected = torch.linalg.lstsq(p.xs[2, active], p.hidden[0][2, active, 3]).solution
    torch.testing.assert_close(fit.weights[0][2, :, 3], expected)


def test_what_is_not_shown_is_reported() -> None:
    p = prompts(30)
    dead = p.hidden[0].clone()
    dead[0, :, 1] = 0
    dead[1, 3:, 2] = 0
    fit = layerwise_in_context_fit(p.xs, [dead], p.ys, p.xs)
    assert not fit.identified[0][0, 1]
    assert not fit.identified[0][1, 2]
    assert fit.weights[0][0, :, 1].abs().max() == 0
    assert fit.predictions.isfinite().all()
    assert not layerwise_in_context_fit(p.xs[:, :4], [p.hidden[0][:, :4]], p.ys[:, :4], p.xs).identified[1].any()


def test_as_many_active_examples_as_inputs_may_still_not_span_them() -> None:
    p = prompts(60)
    xs = torch.cat([p.xs[..., :3], p.xs[..., :1]], dim=-1)  # two inputs that are always equal
    assert not layerwise_in_context_fit(xs, p.hidden, p.ys, xs).identified[0].any()


def test_activations_of_other_examples_do_not_help() -> None:
    p = prompts(60)
    shuffled = p.hidden[0][:, torch.randperm(60, generator=torch.Generator().manual_seed(0))]
    fit = layerwise_in_context_fit(p.xs, [shuffled], p.ys, p.xs)
    assert (fit.predictions - p.ys).square().mean() > 0.3 * p.ys.var()


def test_bad_input() -> None:
    p = prompts(10)
    with pytest.raises(InputError, match="xs, ys, queries"):
        layerwise_in_context_fit(p.xs, p.hidden, p.ys[:, :5], p.xs)
    with pytest.raises(InputError, match="at least 0"):
        layerwise_in_context_fit(p.xs, [-p.hidden[0]], p.ys, p.xs)
