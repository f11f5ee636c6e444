"""The transformer of `transformers_as_algorithms`: trained on prompts of one prior, compared with the best for it."""

from __future__ import annotations

import torch

from assay.data.in_context import GaussianInputs, InContext
from assay.data.in_context_tasks import LinearTasks
from assay.icl.learners import BayesLinear, Ridge
from assay.icl.regressor import InContextRegressor, prefix_mse
from assay.lab import Row
from assay.lab.training import train

PRIORS = ["equal", "power"]


def transformer(
    *,
    prior: str,
    d: int,
    points: int,
    noise: float,
    width: int,
    layers: int,
    heads: int,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    device: str,
) -> list[Row]:
    """Trained on tasks of one prior: weights of variance 1, or 1 / i^2. On new prompts of either: the mean squared
    distance of its predictions, from the second point on, to those of ridge regression, the best for the first prior,
    and of weighted ridge regression, the best for the second."""
    samplers = {
        name: InContext(LinearTasks(d, scale=None if name == "equal" else "power"), GaussianInputs(), noise=noise)
        for name in PRIORS
    }
    model = InContextRegressor(d, points, d_model=width, num_layers=layers, num_heads=heads).to(device)
    train(
        model,
        lambda generator: samplers[prior].sample(batch, points, generator=generator),
        steps=steps,
        seed=seed,
        loss=prefix_mse,
        lr=lr,
        weight_decay=0.0,
    )
    references = {"to_ridge": Ridge(noise**2), "to_weighted": BayesLinear(1 / torch.arange(1, d + 1) ** 2, noise)}
    generator = torch.Generator(device).manual_seed(10**6 + seed)
    rows: list[Row] = []
    for name, sampler in samplers.items():
        xs, ys, clean, *_ = sampler.sample(16 * batch, points, generator=generator)
        with torch.no_grad():
            predicted = model(xs, ys).double()
        row: Row = {"prior": prior, "tested": name, "risk": (predicted - clean)[:, 1:].square().mean().item()}
        for reference, learner in references.items():
            row[reference] = (predicted - learner.predict_prefixes(xs, ys))[:, 1:].square().mean().item()
        rows.append(row)
    return rows
