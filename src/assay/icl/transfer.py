"""The risk of an in-context learner on tasks that it has not been trained on."""

from __future__ import annotations

import torch
from torch import Tensor

from assay._errors import InputError
from assay.data._checks import check_counts
from assay.data.in_context import InContext
from assay.icl.stability import PrefixPredictor
from assay.theory.linear_risks import icl_linear_risk, icl_pgd_risk


@torch.no_grad()
def transfer_risk(
    learner: PrefixPredictor, sampler: InContext, num_prompts: int, num_points: int, *, generator: torch.Generator
) -> Tensor:
    """Mean squared error of predictions on prompts of new tasks, after 0, 1, ... examples: (num_points,), float64.

    Against the y of the prompts, so that the floor is noise^2. sampler: of the law of tasks, without `num_tasks`.
    """
    check_counts(num_prompts=num_prompts, num_points=num_points)
    prompts = sampler.sample(num_prompts, num_points, generator=generator)
    return (learner.predict_prefixes(prompts.xs, prompts.ys) - prompts.ys).double().square().mean(0)


def pgd_transfer_excess(tasks: Tensor, n: int, noise: float) -> float:
    """What linear attention that is the best for T given tasks loses on beta ~ N(0, I), against the best for those.

    tasks: (T, d), draws from N(0, I). The risk depends on tasks by their second moment alone (`icl_pgd_risk`), so this
    is exact, for infinitely many prompts of each task; it is of order d^2 / T once T > d^2. x ~ N(0, I), n examples,
    noise a standard deviation. O(T d^2 + d^3). Source: the law d^2 / T is that of Li et al. 2023 (arXiv 2301.07067) for
    transformers, from memory; for this learner it is `||A - I||_F^2`.
    Raises `InputError` where tasks are not (T, d) with T at least 1, or not finite, n is no whole number of at least 1,
    or noise is negative or not finite.
    """
    if tasks.ndim != 2 or not len(tasks):
        raise InputError(f"tasks has shape {tuple(tasks.shape)}; expected (T, d), T at least 1")
    beta = tasks.double()
    eye = torch.eye(beta.shape[1]).to(beta)
    learned = icl_linear_risk(eye, beta.mT @ beta / len(beta), n, noise).weights
    return float(icl_pgd_risk(learned, eye, eye, n, noise)) - icl_linear_risk(eye, eye, n, noise).risk
