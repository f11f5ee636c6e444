"""Newton's iteration and gradient descent on the same prompts: which step of one is like which of the other."""

from __future__ import annotations

import torch

from assay.data.in_context import GaussianInputs, InContext, Inputs, ill_conditioned
from assay.data.in_context_tasks import LinearTasks
from assay.icl.gd_grid import gd_predictions, newton_predictions, safe_rate
from assay.icl.layer_matching import match_algorithm_steps
from assay.lab import Row

GD_STEPS = sorted({*range(1, 33), *(round(2 ** (i / 8)) for i in range(40, 136))})
NEWTON_STEPS = list(range(1, 31))


def inputs_of(name: str, d: int) -> Inputs:
    return GaussianInputs() if name == "isotropic" else ill_conditioned(d)


def matching(*, inputs: str, d: int, points: int, prompts: int, seed: int) -> list[Row]:
    """For each step of Newton's iteration, and for the same numbers of gradient descent: the step of gradient descent
    whose errors are most alike, how alike they are, and how alike to those on the next prompt; and the squared error
    at the last position over d, the mean over prompts; `gd_2000` is that of gradient descent after 2000 steps."""
    sampler = InContext(LinearTasks(d), inputs_of(inputs, d), dtype=torch.float64)
    p = sampler.sample(prompts, points, generator=torch.Generator().manual_seed(seed))
    rate = safe_rate(p.xs)
    gd = (gd_predictions(p.xs, p.ys, GD_STEPS, lr=rate) - p.ys)[:, :, 1:]
    rows: list[Row] = []
    for algorithm, steps, answers in (
        ("Newton", NEWTON_STEPS, newton_predictions(p.xs, p.ys, NEWTON_STEPS)),
        ("gradient descent", NEWTON_STEPS[:14], gd_predictions(p.xs, p.ys, NEWTON_STEPS[:14], lr=rate)),
    ):
        errors = (answers - p.ys)[:, :, 1:]
        found = match_algorithm_steps(errors, gd, GD_STEPS)
        other = match_algorithm_steps(errors.roll(1, dims=1), gd, GD_STEPS)
        for j, step in enumerate(steps):
            rows.append({
                "algorithm": algorithm, "step": step, "match": int(found.steps[j]),
                "similarity": found.similarity[j].item(), "other_prompt": other.similarity[j].item(),
                "mse": errors[j, :, -1].square().mean().item() / d,
            })  # fmt: skip
    long = (gd_predictions(p.xs, p.ys, [2000], lr=rate) - p.ys)[0, :, -1].square().mean().item() / d
    return [row | {"gd_2000": long} for row in rows]
