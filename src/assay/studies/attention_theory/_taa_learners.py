"""What `transformers_as_algorithms` runs without a transformer: stability, transfer, reference learners, dynamics."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from assay.data.in_context import GaussianInputs, InContext
from assay.data.in_context_tasks import LinearTasks, linear_dynamics
from assay.icl.dynamics import forecast
from assay.icl.learners import OLS, BayesLinear, Learner, Ridge
from assay.icl.linear_layers import fit_pgd
from assay.icl.stability import stability_curve
from assay.icl.transfer import pgd_transfer_excess
from assay.lab import Row
from assay.lab.statistics import fit_line
from assay.theory.linear_risks import icl_linear_risk, icl_pgd_risk


@dataclass(frozen=True)
class FirstOnly(Learner):
    """A learner that reads no more than the first examples."""

    learner: Learner
    count: int

    def weights(self, xs: Tensor, ys: Tensor) -> Tensor:
        positions = torch.arange(xs.shape[1], device=xs.device).clamp(max=self.count)
        head = slice(None, self.count + 1)
        return self.learner.weights(xs[:, head], ys[:, head])[:, positions]


def stability(*, d: int, points: int, prompts: int, seed: int, device: str) -> list[Row]:
    """How much one wrong example changes the loss, by the length of the prompt, from 1.5 d examples on; and the slope
    of that in a log-log plot."""
    rows: list[Row] = []
    learners: dict[str, tuple[Learner, float]] = {
        "ridge": (Ridge(1.0), 1.0),
        "least squares": (OLS(), 0.0),
        "ridge on the first 1.25 d": (FirstOnly(Ridge(1.0), 5 * d // 4), 1.0),
    }
    for name, (learner, noise) in learners.items():
        sampler = InContext(LinearTasks(d), GaussianInputs(), noise=noise, dtype=torch.float64)
        generator = torch.Generator(device).manual_seed(seed)
        curve = stability_curve(learner, sampler, prompts, points, generator=generator).cpu()
        m = torch.arange(1, points)
        late = m >= 1.5 * d
        slope = fit_line(m[late].log(), curve[late].log()).slope
        rows += [
            {"learner": name, "examples": int(i), "change": float(c), "slope": slope}
            for i, c in zip(m[late], curve[late], strict=True)
        ]
    return rows


def transfer(*, sizes: tuple[int, ...], times: tuple[int, ...], draws: int, noise: float, seed: int) -> list[Row]:
    """Excess risk on new tasks of the linear attention that is the best for T given ones, n = 2 d, T = times d^2."""
    generator = torch.Generator().manual_seed(seed)
    rows: list[Row] = []
    for d in sizes:
        for many in times:
            T = many * d**2
            drawn = (torch.randn(T, d, generator=generator, dtype=torch.float64) for _ in range(draws))
            excess = sum(pgd_transfer_excess(tasks, 2 * d, noise) for tasks in drawn) / draws
            rows.append({"d": d, "times": many, "T": T, "excess": excess, "by_d2": excess * T / d**2,
                         "by_d": excess * T / d})  # fmt: skip
    return rows


def multitask(*, d: int, n: int, noise: float, total: int, tasks: tuple[int, ...], draws: int, seed: int) -> list[Row]:
    """Linear attention fitted to `total` prompts in all, the same number from each of T tasks: its excess risk on new
    tasks, and on these."""
    eye = torch.eye(d, dtype=torch.float64)
    best = icl_linear_risk(eye, eye, n, noise).risk
    rows: list[Row] = []
    for T in tasks:
        generator = torch.Generator().manual_seed(seed)
        on_new, on_own = 0.0, 0.0
        for _ in range(draws):
            beta = torch.randn(T, d, generator=generator, dtype=torch.float64)
            sampler = InContext(LinearTasks(d), GaussianInputs(), noise=noise, dtype=torch.float64)
            prompts = sampler.sample(total, n + 1, generator=generator)
            of = beta.repeat(total // T, 1)[:, None]
            W = fit_pgd(prompts._replace(ys=(prompts.xs * of).sum(-1) + prompts.ys - prompts.clean))
            second = beta.mT @ beta / T
            on_new += float(icl_pgd_risk(W, eye, eye, n, noise)) - best
            on_own += float(icl_pgd_risk(W, eye, second, n, noise)) - icl_linear_risk(eye, second, n, noise).risk
        rows.append({"T": T, "M": total // T, "on_new": on_new / draws, "on_own": on_own / draws})
    return rows


def references(*, d: int, prompts: int, seed: int, device: str) -> list[Row]:
    """Relative error of the weights after n examples, of least squares and of the posterior mean: for the prior 1 / i
    without noise at n = d / 2, for noise 1 at n = d; and where the two are the same."""
    cases = {
        "hetero": (LinearTasks(d, scale="power"), 0.0, d // 2, BayesLinear(1 / torch.arange(1, d + 1) ** 2, 0.0)),
        "noisy": (LinearTasks(d), 1.0, d, Ridge(1.0)),
        "plain": (LinearTasks(d), 0.0, d // 2, BayesLinear(torch.ones(d), 0.0)),
    }
    rows: list[Row] = []
    for case, (tasks, noise, n, posterior) in cases.items():
        sampler = InContext(tasks, GaussianInputs(), noise=noise, dtype=torch.float64)
        drawn = sampler.sample(prompts, n + 1, generator=torch.Generator(device).manual_seed(seed))

        def error(learner: Learner, drawn=drawn) -> float:  # type: ignore[no-untyped-def]
            wrong = learner.weights(drawn.xs, drawn.ys)[:, -1] - drawn.tasks
            return (wrong.square().sum() / drawn.tasks.square().sum()).item()

        rows.append({"case": case, "posterior": error(posterior), "least_squares": error(OLS())})
    return rows


def dynamics(*, d: int, observed: int, length: int, windows: tuple[int, ...], systems: int, seed: int) -> list[Row]:
    """Mean square of forecasts over the last half of series of linear systems, by window, where all of the state is
    observed and where `observed` numbers are. In units of the variance of what is forecast."""
    rows: list[Row] = []
    for seen in (observed, d):
        generator = torch.Generator().manual_seed(seed)
        series = linear_dynamics(systems, length, d=d, observed=seen, generator=generator).double()
        late = series[:, length // 2 :]
        for window in windows:
            wrong = forecast(series, window, Ridge(1e-3))[:, -late.shape[1] :] - late
            error = (wrong.square().mean() / late.square().mean()).item()
            rows.append({"observed": seen, "partly": seen < d, "window": window, "error": error})
    return rows
