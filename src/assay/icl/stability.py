"""How much one bad example changes what an in-context learner predicts afterwards."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from assay.data._checks import check_counts
from assay.data.in_context import InContext, Prompts


class PrefixPredictor(Protocol):
    """What learns in context: `assay.icl.learners`, `InContextRegressor`, or anything else with this method."""

    def predict_prefixes(self, xs: Tensor, ys: Tensor) -> Tensor:
        """(B, N): y at each position of xs (B, N, d), from it and the examples before it."""


def flip_first(sampler: InContext, prompts: Prompts, *, generator: torch.Generator) -> Prompts:
    """The same prompts with a wrong first example: another input x', and the negative of what the task makes of it.

    Source: the code of Li et al. 2023 (arXiv 2301.07067).
    """
    shape = (prompts.xs.shape[0], prompts.xs.shape[1], prompts.xs.shape[2])
    other = sampler.inputs.draw(prompts.tasks, shape, generator)[:, :1]
    xs = torch.cat([other, prompts.xs[:, 1:]], dim=1)
    wrong = -sampler.tasks.values(prompts.tasks, xs)[0][:, :1]
    ys, clean = (torch.cat([wrong, values[:, 1:]], dim=1) for values in (prompts.ys, prompts.clean))
    return prompts._replace(xs=xs, ys=ys, clean=clean)


@torch.no_grad()
def stability_curve(
    learner: PrefixPredictor, sampler: InContext, num_prompts: int, num_points: int, *, generator: torch.Generator
) -> Tensor:
    """`mean |loss of the flipped prompt - loss|` after 1, 2, ..., num_points - 1 examples: (num_points - 1,), float64.

    Losses are squared errors of the y of the prompt; the mean is over prompts, the first example of which is replaced
    as in `flip_first`. A learner is called stable where this falls at least as fast as K / i. Source: the assumption of
    stability of Li et al. 2023 (arXiv 2301.07067), and the probe of their code.
    """
    check_counts(2, num_points=num_points)
    prompts = sampler.sample(num_prompts, num_points, generator=generator)
    flipped = flip_first(sampler, prompts, generator=generator)
    clean, bad = ((learner.predict_prefixes(one.xs, one.ys) - one.ys).square()[:, 1:] for one in (prompts, flipped))
    return (bad - clean).abs().double().mean(0)
