"""Regret and its checks against naive loops, exact binomials and scipy's regression; and how the checks are fooled."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import linregress
from scipy.stats import t as student

from assay.online.checks import regression_check, trend_check
from assay.online.decisions import Ball, Simplex
from assay.online.players import FTL, Hedge
from assay.online.regret import dynamic_regret, regret, variation
from assay.online.sequences import ADAPTIVE, DRAWN, KINDS, LossSequence, answer, play


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_regret_is_its_definition() -> None:
    losses, x = torch.randn(2, 3, 7, 4, dtype=torch.float64, generator=generator())
    policies = x.softmax(-1)
    static, ball = regret(losses, policies), regret(losses, x, Ball(2.0))
    dynamic = dynamic_regret(losses, policies)
    for b in range(3):
        for t in range(1, 8):
            seen = losses[b, :t].numpy()
            suffered = sum(float(seen[s] @ policies[b, s].numpy()) for s in range(t))
            assert static[b, t - 1].item() == pytest.approx(suffered - min(seen.sum(0)))
            assert dynamic[b, t - 1].item() == pytest.approx(suffered - sum(min(row) for row in seen))
            least = -2 * math.sqrt(sum(float(v) ** 2 for v in seen.sum(0)))
            of_x = sum(float(seen[s] @ x[b, s].numpy()) for s in range(t))
            assert ball[b, t - 1].item() == pytest.approx(of_x - least)
    assert bool((dynamic >= static - 1e-9).all())
    torch.testing.assert_close(variation(losses)[0], sum((losses[0, t] - losses[0, t - 1]).norm() for t in range(1, 7)))


def test_the_trend_check_is_the_sign_test() -> None:
    course = torch.rand(5, 20, dtype=torch.float64, generator=generator()).cumsum(-1)
    found = trend_check(course)
    for b in range(5):
        a = [course[b, t].item() / (t + 1) for t in range(20)]
        s = sum(a[t + 1] < a[t] for t in range(19))
        assert found.falls[b] == s
        assert found.p[b].item() == pytest.approx(sum(math.comb(19, j) for j in range(s, 20)) / 2**19)
        assert found.average[b].item() == pytest.approx(a[-1])


def test_the_regression_check_is_least_squares_over_positive_regret() -> None:
    t = np.arange(1, 61)
    course = torch.as_tensor(t**0.8 * np.exp(0.3 * np.random.default_rng(0).normal(size=(4, 60))))
    course[:, ::7] *= -1
    found = regression_check(course)
    for b in range(4):
        kept = course[b].numpy() > 0
        fit = linregress(np.log(t[kept]), np.log(course[b].numpy()[kept]))
        assert found.slope[b].item() == pytest.approx(fit.slope)
        assert found.p[b].item() == pytest.approx(student.cdf((fit.slope - 1) / fit.stderr, kept.sum() - 2))


def test_rounding_is_no_evidence() -> None:
    linear = 0.1 * torch.arange(1, 101, dtype=torch.float64)[None]
    assert trend_check(linear).p == 1
    assert regression_check(linear).p >= 0.5
    root = torch.arange(1, 101, dtype=torch.float64)[None].sqrt()
    assert trend_check(root).p < 1e-20
    assert regression_check(root).p < 1e-6
    assert regression_check(root).slope.item() == pytest.approx(0.5)


def test_with_fewer_than_three_positive_rounds_nothing_is_known() -> None:
    course = -torch.ones(2, 10, dtype=torch.float64)
    course[0, :2] = 1
    course[1, :3] = torch.tensor([1.0, 2.0, 2.5])
    found = regression_check(course)
    assert found.slope.isnan().tolist() == [True, False]
    assert found.p.isnan().tolist() == [True, False]
    with pytest.raises(ValueError, match=r"regret has shape \(2, 2\); expected \(B, T\)"):
        trend_check(course[:, :2])


def test_ftl_has_linear_regret_where_it_is_lured_and_hedge_has_not() -> None:
    rate = Hedge.best_rate(2, 10)
    for kind in ("alternating", "noisy-alternating", ADAPTIVE):
        losses, policies = play(FTL(), LossSequence(kind), generator=generator())
        assert regret(losses, policies)[0, -1] / 200 > 3
        losses, policies = play(Hedge(rate, anytime=True), LossSequence(kind), generator=generator())
        assert regret(losses, policies)[0, -1] / 200 < 0.5


def test_the_regression_check_is_fooled_by_ftl_on_the_adaptive_sequence() -> None:
    losses, policies = play(FTL(), LossSequence(ADAPTIVE), generator=generator())
    found = regression_check(regret(losses, policies))
    assert found.slope < 1
    assert found.p < 0.05
    assert found.average == 5


def test_the_laws_of_the_sequences() -> None:
    for kind in DRAWN:
        losses = LossSequence(kind, 3, 60).sample(5, generator=generator())
        assert losses.shape == (5, 60, 3)
        assert torch.equal(losses, LossSequence(kind, 3, 60).sample(5, generator=generator()))
        if kind != "symmetric":
            assert losses.min() >= 0
            assert losses.max() <= 10
    alternating = LossSequence("alternating", 2, 5).sample(1, generator=generator())[0]
    assert alternating.tolist() == [[5, 0], [0, 10], [10, 0], [0, 10], [10, 0]]
    noisy = LossSequence("noisy-alternating", 2, 50).sample(1, generator=generator())[0]
    for t in range(1, 51):
        assert noisy[t - 1, t % 2] == pytest.approx(min(25 / t, 10))
        assert 9 <= noisy[t - 1, 1 - t % 2] <= 10
    abrupt = LossSequence("abrupt", 2, 200).sample(50, generator=generator())
    gradual = LossSequence("gradual", 2, 200).sample(50, generator=generator())
    assert gradual.diff(dim=1).abs().max() < abrupt.diff(dim=1).abs().max()
    assert answer(torch.tensor([[0.2, 0.8], [0.5, 0.5]])).tolist() == [[0, 10], [10, 0]]


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="kind is 'sinus'; expected one of uniform"):
        LossSequence("sinus")
    with pytest.raises(ValueError, match="expected at least 2 actions"):
        LossSequence("uniform", 1)
    with pytest.raises(ValueError, match="losses depend on the player"):
        LossSequence(KINDS[-1]).sample(1, generator=generator())
    with pytest.raises(ValueError, match=r"policies has shape \(1, 3, 2\)"):
        regret(torch.zeros(1, 2, 2), torch.zeros(1, 3, 2))
    with pytest.raises(ValueError, match=r"policy in round 1 is \[0.7, 0.7\]; expected one in Simplex"):
        play(lambda history: history.new_full((1, 2), 0.7), LossSequence("uniform"), generator=generator())
    with pytest.raises(ValueError, match=r"policy in round 1 has shape \(2,\); expected \(1, 2\)"):
        play(lambda history: history.new_full((2,), 0.5), LossSequence("uniform"), generator=generator())
    assert not Simplex().contains(torch.tensor([1.5, -0.5]))
