"""The regret loss written out, its limits, where it has no gradient, and what it teaches."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from assay.lab.training import train
from assay.losses.regret_loss import RegretLoss
from assay.online.attention_policy import LinearAttentionPolicy, ftrl_equivalent
from assay.online.decisions import Ball
from assay.online.optimal_values import isotropic_rate
from assay.online.regret import regret


def test_it_is_its_definition() -> None:
    regrets = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    k, N = 0.7, 4
    written = []
    for first in range(0, 12, N):
        group = [float(r) for r in regrets[first : first + N]]
        f = [math.exp(k * r) for r in group]
        written.append(sum(r * r * w for r, w in zip(group, f, strict=True)) / sum(f))

    found = RegretLoss(sharpness=k, n_sequences=N)(regrets)
    assert found.item() == pytest.approx(sum(written) / 3)
    assert RegretLoss()(regrets).item() == pytest.approx(float(regrets.square().mean()))


def test_its_limit_is_the_largest_regret() -> None:
    regrets = torch.tensor([1.0, 5.0, 4.0, 2.0, 300.0, -7.0])
    softplus = torch.nn.functional.softplus
    found = RegretLoss(softplus, sharpness=200, n_sequences=3)(regrets)
    torch.testing.assert_close(found, softplus(torch.tensor([5.0, 300.0])).mean())
    assert RegretLoss(softplus, n_sequences=3)(regrets) < found


def trained(h: object) -> LinearAttentionPolicy:
    torch.manual_seed(0)
    policy, loss, ball = LinearAttentionPolicy(2, Ball()), RegretLoss(h), Ball()  # type: ignore[arg-type]

    def objective(model: LinearAttentionPolicy, losses: Tensor) -> Tensor:
        return loss(regret(losses, model.scores(losses), ball)[:, -1])

    train(policy, lambda g: torch.randn(128, 10, 2, generator=g), steps=400, seed=0, loss=objective, lr=1e-2,
          weight_decay=0)  # fmt: skip
    return policy


def test_it_teaches_linear_attention_ftrl() -> None:
    policy = trained(torch.square)
    found = ftrl_equivalent(policy.total_values)
    assert found.distance < 0.15
    assert found.eta == pytest.approx(isotropic_rate(2, 10), rel=0.1)
    assert policy.weight_on_losses.norm() < 0.1 * policy.weight.abs()


def test_with_a_linear_h_and_one_sequence_it_teaches_nothing() -> None:
    assert ftrl_equivalent(trained(lambda regrets: regrets).total_values).distance > 0.4


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="sharpness is -1"):
        RegretLoss(sharpness=-1)
    with pytest.raises(ValueError, match="n_sequences 0"):
        RegretLoss(n_sequences=0)
    for regrets in (torch.zeros(5), torch.zeros(2, 2), torch.zeros(0)):
        with pytest.raises(ValueError, match="B a multiple of n_sequences = 2"):
            RegretLoss(n_sequences=2)(regrets)
