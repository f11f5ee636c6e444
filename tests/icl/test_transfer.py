"""Risk on new tasks, and what the bound of memory scales with."""

from __future__ import annotations

import math

import pytest
import torch

from assay._errors import InputError
from assay.data.in_context import GaussianInputs, InContext
from assay.data.in_context_tasks import LinearTasks
from assay.icl.learners import OLS, Learner, Ridge
from assay.icl.linear_layers import PreconditionedStep, fit_pgd
from assay.icl.mtl_bound import mtl_bound
from assay.icl.transfer import pgd_transfer_excess, transfer_risk
from assay.theory.linear_risks import icl_linear_risk


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Zero(Learner):
    def weights(self, xs: torch.Tensor, ys: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        return torch.zeros_like(xs)


def test_risk_on_new_tasks() -> None:
    sampler = InContext(LinearTasks(3), GaussianInputs(), noise=0.5, dtype=torch.float64)
    risk = {name: transfer_risk(one, sampler, 6000, 31, generator=seeded()) for name, one in
            {"zero": Zero(), "ols": OLS(), "ridge": Ridge(0.25)}.items()}  # fmt: skip

    assert risk["zero"].tolist() == pytest.approx([3.25] * 31, rel=0.15)  # d + noise^2
    assert risk["ridge"][0] == pytest.approx(3.25, rel=0.1)
    assert risk["ols"][30].item() == pytest.approx(0.25 * (1 + 3 / (30 - 3 - 1)), rel=0.07)  # inverse Wishart
    assert (risk["ridge"][1:7] < risk["ols"][1:7]).all()


def test_excess_of_attention_on_new_tasks() -> None:
    """Against attention that is fitted to prompts of the given tasks, and tried on prompts of others."""
    tasks = torch.tensor([[2.0, 0.0], [0.0, 0.2], [1.5, 0.1]], dtype=torch.float64)  # seldom along the second axis
    which = torch.randint(3, (100_000,), generator=seeded(4))
    drawn = InContext(LinearTasks(2), GaussianInputs(), noise=0.5, dtype=torch.float64)
    prompts = drawn.sample(100_000, 6, generator=seeded(5))
    clean = (prompts.xs * tasks[which, None]).sum(-1)
    W = fit_pgd(prompts._replace(ys=clean + prompts.ys - prompts.clean))
    fresh = drawn.sample(200_000, 6, generator=seeded(6))
    predicted = PreconditionedStep(W, torch.ones(5).double()).predict(fresh.xs, fresh.ys)
    risk = (predicted - fresh.ys[:, -1]).square().mean().item()

    expected = icl_linear_risk(torch.eye(2), torch.eye(2), 5, 0.5).risk + pgd_transfer_excess(tasks, 5, 0.5)
    assert risk == pytest.approx(expected, rel=0.02)
    assert pgd_transfer_excess(tasks, 5, 0.5) > 0.03 * risk  # so that it is seen


def test_excess_falls_as_one_over_the_tasks_and_grows_as_the_square_of_d() -> None:
    def mean(d: int, T: int) -> float:
        return sum(pgd_transfer_excess(torch.randn(T, d, generator=seeded(i)), 2 * d, 1.0) for i in range(30)) / 30

    assert mean(5, 200) / mean(5, 800) == pytest.approx(4, rel=0.2)
    assert mean(10, 800) / mean(5, 800) == pytest.approx(4, rel=0.25)
    exact = math.sqrt(5) * torch.eye(5)  # second moment I: nothing is lost
    assert pgd_transfer_excess(exact, 10, 1.0) == pytest.approx(0, abs=1e-12)
    with pytest.raises(InputError, match="tasks has shape"):
        pgd_transfer_excess(torch.ones(3), 10, 1.0)


def test_the_bound_scales_as_it_is_remembered() -> None:
    """Form and rate alone; no constant of it is asserted."""
    fixed = {"loss_bound": 1.0, "stability": 0.0, "lipschitz": 0.0, "delta": 0.05}

    def bound(n: int = 10, M: int = 1, T: int = 100, **changed: float) -> float:
        return mtl_bound(lambda eps: 50.0, n=n, M=M, T=T, **(fixed | changed))  # noqa: ARG005

    assert bound(T=400) == pytest.approx(bound() / 2)
    assert bound(M=4) == pytest.approx(bound(T=400))
    assert bound(stability=1.0) == pytest.approx(bound() * (1 + math.log(10)))
    traded = mtl_bound(lambda eps: 10 * math.log(1 + 1 / eps), n=10, M=1, T=100, **(fixed | {"lipschitz": 1.0}))
    grid = [
        4 * eps + 2 * math.sqrt((10 * math.log(1 + 1 / eps) + math.log(20)) / 1000)
        for eps in (10 ** (i / 100 - 6) for i in range(800))
    ]
    assert traded == pytest.approx(min(grid), rel=1e-4)
    with pytest.raises(InputError, match="delta is 2"):
        bound(delta=2.0)
    with pytest.raises(InputError, match="T is 0"):
        bound(T=0)
    with pytest.raises(InputError, match="stability is -1"):
        bound(stability=-1.0)
