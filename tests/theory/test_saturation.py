"""Gradients of saturated attention, against mpmath-like high precision (rationals of exponentials in log space)."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd.functional import jacobian

from assay.theory.saturation import centred_logit_gradient, normalised_step_


def naive(logits: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    s = logits.softmax(-1)
    return s * (values - (s * values).sum(-1, keepdim=True))


def test_it_is_the_gradient() -> None:
    logits, values = torch.randn(2, 5, 7, dtype=torch.float64)
    truth = jacobian(lambda z: (z.softmax(-1) * values).sum(), logits)

    gradient, log_scale = centred_logit_gradient(logits, values)

    torch.testing.assert_close(gradient * log_scale.exp(), truth, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("gap", [50.0, 300.0, 2000.0])
def test_it_is_exact_where_the_plain_gradient_is_rounding(gap: float) -> None:
    """With others at -gap and -gap - 1 below the selected token, the entries are known up to a relative e^-gap."""
    logits = torch.tensor([0.0, -gap, -gap - 1], dtype=torch.float64)
    values = torch.tensor([0.3, 0.1, 0.7], dtype=torch.float64)

    gradient, log_scale = centred_logit_gradient(logits, values)

    others = torch.tensor([0.1 - 0.3, math.exp(-1) * (0.7 - 0.3)], dtype=torch.float64)
    truth = torch.cat([-others.sum(0, keepdim=True), others])
    torch.testing.assert_close(gradient, truth, rtol=1e-12, atol=0)
    assert log_scale.item() == pytest.approx(-gap, rel=1e-12)
    wrong = naive(logits, values) / math.exp(-gap) if gap < 700 else naive(logits, values)
    assert (wrong - truth).abs().max() > 0.01  # what this is for


def test_one_scale_for_the_whole_batch() -> None:
    logits = torch.tensor([[0.0, -400.0], [0.0, -403.0]], dtype=torch.float64)
    gradient, _ = centred_logit_gradient(logits, torch.tensor([[0.0, 1.0], [0.0, 1.0]], dtype=torch.float64))

    assert (gradient[1, 1] / gradient[0, 1]).item() == pytest.approx(math.exp(-3), rel=1e-10)


def test_a_single_token_and_hidden_tokens() -> None:
    one = torch.zeros(2, 1, dtype=torch.float64)
    assert centred_logit_gradient(one, one + 1)[0].abs().max() == 0
    hidden = torch.tensor([0.0, -1.0, -torch.inf], dtype=torch.float64)
    values = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    gradient, log_scale = centred_logit_gradient(hidden, values)
    torch.testing.assert_close((gradient * log_scale.exp())[:2], naive(hidden[:2], values[:2]))
    assert gradient[2] == 0


def test_normalised_steps() -> None:
    runs = torch.zeros(3, 2, 2, dtype=torch.float64)
    gradient = torch.stack([torch.eye(2), 1e-200 * torch.eye(2).double(), torch.zeros(2, 2)]).double()

    normalised_step_(runs, gradient, 0.5, dims=2)

    torch.testing.assert_close(runs.flatten(1).norm(dim=1), torch.tensor([0.5, 0.5, 0]).double())
    assert (runs[0] <= 0).all()
    together = torch.zeros(3, 2, 2, dtype=torch.float64)
    normalised_step_(together, gradient, 0.5)
    assert together.norm().item() == pytest.approx(0.5)
