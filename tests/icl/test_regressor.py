"""The transformer that reads examples: causal, told from its parts, and able to learn."""

from __future__ import annotations

import pytest
import torch

from assay._errors import InputError
from assay.data.in_context import GaussianInputs, InContext
from assay.data.in_context_tasks import LinearTasks
from assay.icl.regressor import InContextRegressor, prefix_mse
from assay.lab.training import train

SAMPLER = InContext(LinearTasks(2), GaussianInputs())


def model() -> InContextRegressor:
    torch.manual_seed(0)
    return InContextRegressor(2, 6, d_model=32, num_layers=2, num_heads=2)


def test_a_prediction_reads_the_examples_before_it_and_nothing_else() -> None:
    net, xs, ys = model(), torch.randn(3, 6, 2), torch.randn(3, 6)
    before = net(xs, ys)

    other_y, other_x = ys.clone(), xs.clone()
    other_y[:, 3] += 1
    other_x[:, 4] += 1

    after_y, after_x = net(xs, other_y), net(other_x, ys)
    torch.testing.assert_close(before[:, :4], after_y[:, :4])
    assert ((before - after_y).abs().amax(0)[4:] > 1e-4).all()
    torch.testing.assert_close(before[:, :4], after_x[:, :4])
    assert ((before - after_x).abs().amax(0)[4:] > 1e-4).all()


def test_predictions_are_read_from_the_last_hidden_states() -> None:
    net, xs, ys = model(), torch.randn(3, 5, 2), torch.randn(3, 5)
    states = net.hidden_states(xs, ys)

    assert [state.shape for state in states] == [(3, 5, 32)] * 2
    read = net.transformer.read_out(net.transformer.norm(states[-1]))[..., 0]
    torch.testing.assert_close(read, net.predict_prefixes(xs, ys))


def test_it_learns() -> None:
    net = model()
    rows = train(
        net, lambda g: SAMPLER.sample(64, 6, generator=g), steps=400, every=100, seed=0, loss=prefix_mse, lr=3e-3
    )
    assert rows[-1]["loss"] < 0.9 * rows[1]["loss"]


def test_more_points_than_it_was_trained_for() -> None:
    with pytest.raises(InputError, match="the 6 points of training"):
        model()(torch.randn(1, 7, 2), torch.randn(1, 7))
