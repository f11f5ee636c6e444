"""Players against definitions solved independently, theorem bounds, and the causal mask."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import norm
from torch import Tensor

from assay.online.attention_policy import LinearAttentionPolicy, ftrl_equivalent, linear_attention
from assay.online.decisions import Ball, Decisions, Simplex
from assay.online.players import FTL, FTPL, FTRL, Hedge, OnlineGradient, totals_before
from assay.online.regret import regret
from assay.online.sequences import DRAWN, LossSequence, play


def attention(decisions: Decisions | None = None) -> LinearAttentionPolicy:
    """With values of its own, which at first are 0, and too small to saturate a softmax."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        policy = LinearAttentionPolicy(3, decisions)
        policy.values.normal_(std=0.01)
    return policy


PLAYERS = {
    "ftl": FTL(),
    "ftl-ball": FTL(Ball(2.0)),
    "ftrl": FTRL(0.3),
    "ftrl-ball": FTRL(0.3, Ball(2.0)),
    "hedge": Hedge(0.2, anytime=True),
    "ftpl": FTPL(0.2, anytime=True),
    "gradient": OnlineGradient(0.1),
    "gradient-ball": OnlineGradient(0.3, Ball(2.0), anytime=True),
    "attention": attention(),
    "attention-ball": attention(Ball(2.0)),
}


def losses_of(kind: str = "uniform", *, batch: int = 4, T: int = 12, d: int = 3, seed: int = 0) -> Tensor:
    return LossSequence(kind, d, T).sample(batch, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", PLAYERS)
@torch.no_grad()
def test_all_rounds_at_once_are_the_rounds_one_by_one_and_each_is_in_the_set(name: str) -> None:
    player, decisions = PLAYERS[name], Ball(2.0) if name.endswith("ball") else Simplex()
    losses = losses_of()
    policies = player.policies(losses)

    one_by_one = torch.stack([player(losses[:, :t]) for t in range(losses.shape[1])], 1)
    torch.testing.assert_close(policies, one_by_one, rtol=1e-5, atol=1e-6)
    assert bool(decisions.contains(policies).all())
    played = play(player, LossSequence("uniform", 3, 12), batch=4, generator=torch.Generator().manual_seed(0),
                  decisions=decisions)  # fmt: skip
    torch.testing.assert_close(played[0], losses)
    torch.testing.assert_close(played[1], policies, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", PLAYERS)
@torch.no_grad()
def test_a_policy_depends_on_the_losses_before_it_only(name: str) -> None:
    losses = losses_of(T=30)
    changed = losses.clone()
    changed[:, 10:] = losses_of(T=30, seed=1)[:, 10:]  # from round 11 on
    before, after = PLAYERS[name].policies(losses), PLAYERS[name].policies(changed)

    torch.testing.assert_close(before[:, :11], after[:, :11], rtol=0, atol=1e-12)
    assert (before[:, 11:] - after[:, 11:]).abs().max() > 1e-3  # and on those


def nearest(total: Tensor, eta: float, decisions: Decisions, regulariser: str) -> np.ndarray:
    """FTRL by its definition, with scipy's constrained minimiser."""
    L = total.numpy()

    def goal(pi: np.ndarray) -> float:
        size = pi @ pi / 2 if regulariser == "l2" else (pi * np.log(np.maximum(pi, 1e-300))).sum()
        return float(L @ pi + size / eta)

    if isinstance(decisions, Ball):
        bounds, limit = None, {"type": "ineq", "fun": lambda pi: decisions.radius**2 - pi @ pi}
    else:
        bounds, limit = [(0, 1)] * len(L), {"type": "eq", "fun": lambda pi: pi.sum() - 1}
    start = np.full(len(L), 1 / len(L))
    return minimize(goal, start, bounds=bounds, constraints=[limit], method="SLSQP", options={"ftol": 1e-12}).x


def test_ftrl_and_hedge_minimise_what_defines_them() -> None:
    totals = 3 * torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one = torch.tensor(1.0)
    for total in totals:
        for player, regulariser in ((FTRL(0.2), "l2"), (FTRL(0.2, Ball(0.7)), "l2"), (Hedge(0.2), "entropy")):
            found = player.policy(total, one).numpy()
            decisions = player.decisions if isinstance(player, FTRL) else Simplex()
            np.testing.assert_allclose(found, nearest(total, 0.2, decisions, regulariser), atol=2e-4)


def test_ftpl_is_the_choice_of_a_noisy_responder() -> None:
    eta, total = 0.4, torch.tensor([3.0, 1.0, 2.5, 9.0], dtype=torch.float64)
    noise = torch.randn(400_000, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn = torch.bincount((total + noise / eta).argmin(-1), minlength=4) / 400_000

    found = FTPL(eta).policy(total, torch.tensor(1.0))
    torch.testing.assert_close(found, drawn.double(), rtol=0, atol=4e-3)
    assert (FTPL(2 * eta).policy(total, torch.tensor(1.0)) - drawn).abs().max() > 0.05
    two = FTPL(eta).policy(total[:2], torch.tensor(1.0))
    assert two[0].item() == pytest.approx(norm.cdf(eta * (1 - 3) / math.sqrt(2)), abs=1e-12)


@pytest.mark.parametrize("kind", DRAWN)
def test_hedge_keeps_its_bounds(kind: str) -> None:
    if kind == "symmetric":  # not bounded
        return
    d, T = 3, 150
    losses = losses_of(kind, batch=16, T=T, d=d)
    rate = Hedge.best_rate(d, 10)
    fixed = regret(losses, Hedge(rate / math.sqrt(T)).policies(losses))[:, -1].max()
    anytime = regret(losses, Hedge(rate, anytime=True).policies(losses))[:, -1].max()

    assert fixed <= 10 * math.sqrt(T * math.log(d) / 2)
    assert anytime <= 10 * (math.sqrt(2 * T * math.log(d)) + math.sqrt(math.log(d) / 8))


def test_online_gradient_keeps_its_bound_and_ftl_does_not() -> None:
    T, ball = 200, Ball(1.0)
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(T // 2)
    losses = torch.stack([signs, torch.zeros_like(signs)], -1)[None]
    losses[:, 0] *= 0.5  # what FTL follows is always the other side
    step = 1 / math.sqrt(T)  # radius over the largest loss
    bound = math.sqrt(T)

    assert regret(losses, OnlineGradient(step, ball).policies(losses), ball)[0, -1] <= bound
    assert regret(losses, FTL(ball).policies(losses), ball)[0, -1] > 0.9 * T


def test_projections_are_the_nearest_points() -> None:
    x = 2 * torch.randn(20, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for decisions in (Simplex(), Ball(0.8)):
        found = decisions.project(x)
        assert bool(decisions.contains(found).all())
        anywhere = decisions.project(torch.randn(50, 20, 5, dtype=torch.float64))
        assert bool(((anywhere - found) * (x - found)).sum(-1).max() <= 1e-9)  # the variational inequality
        torch.testing.assert_close(decisions.project(found), found)
        torch.testing.assert_close((decisions.best(x) * x).sum(-1), decisions.least(x))


def test_linear_attention_with_minus_eta_is_ftrl_and_with_keys_it_is_not() -> None:
    losses, eta = losses_of(), 0.07
    identity = torch.eye(3, dtype=torch.float64)
    with torch.no_grad():
        for decisions, player in ((Simplex(), Hedge(eta)), (Ball(1.5), FTRL(eta, Ball(1.5)))):
            policy = linear_attention(-eta * identity, decisions)
            torch.testing.assert_close(policy.policies(losses), player.policies(losses), rtol=0, atol=1e-12)
            assert policy.weight_on_losses.norm() == 0
            torch.testing.assert_close(policy.total_values, -eta * identity)
            policy.keys.fill_(0.1)
            assert (policy.policies(losses) - player.policies(losses)).abs().max() > 1e-2


@torch.no_grad()
def test_linear_attention_is_its_sum_written_out() -> None:
    torch.manual_seed(0)
    policy, losses = attention().double(), losses_of(T=5, batch=1)
    policy.value_bias.normal_()
    scores = policy.scores(losses)[0]
    for t in range(5):
        written = torch.zeros(3, dtype=torch.float64)
        for i in range(t):
            value = policy.values @ losses[0, i] + policy.value_bias
            written += value * ((policy.keys @ losses[0, i] + policy.key_bias) @ policy.query)
        torch.testing.assert_close(scores[t], written)


def test_the_nearest_ftrl() -> None:
    noise = torch.tensor([[0.0, 0.1], [-0.1, 0.0]])
    found = ftrl_equivalent(-0.3 * torch.eye(2) + noise)
    assert found.eta == pytest.approx(0.3)
    assert found.distance == pytest.approx(math.sqrt(0.02 / 0.2), rel=1e-6)
    same_for_all = -0.3 * torch.eye(3) + torch.tensor([[5.0, -7.0, 1.0]])  # every score gets the same
    assert ftrl_equivalent(same_for_all, simplex=True).distance == pytest.approx(0, abs=1e-6)
    assert ftrl_equivalent(same_for_all).distance > 0.9


def test_totals_are_of_the_losses_before() -> None:
    losses = losses_of(T=4)
    assert totals_before(losses)[:, 0].abs().max() == 0
    torch.testing.assert_close(totals_before(losses)[:, 3], losses[:, :3].sum(1))


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"losses has shape \(2, 4\); expected \(B, T, 3\)"):
        LinearAttentionPolicy(3)(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="radius is 0"):
        Ball(0)
    with pytest.raises(ValueError, match=r"values has shape \(2, 3\)"):
        linear_attention(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="d is 0"):
        LinearAttentionPolicy(0)
