"""A transformer trained on linear regression in context, and which algorithm each of its layers is like."""

from __future__ import annotations

import torch
from torch import Tensor

from assay.data.in_context import InContext
from assay.data.in_context_tasks import LinearTasks
from assay.icl.gd_grid import gd_predictions, newton_predictions, safe_rate
from assay.icl.induced_weights import induced_weights, similarity_of_induced_weights
from assay.icl.layer_matching import match_algorithm_steps, prefix_errors, train_layer_probes
from assay.icl.learners import OLS, OnlineGD
from assay.icl.regressor import InContextRegressor, prefix_mse
from assay.lab import Row
from assay.lab.training import train
from assay.measures.similarity import similarity_of_errors
from assay.studies.attention_theory._newton_algorithms import GD_STEPS, NEWTON_STEPS, inputs_of


def trained(
    *, inputs: str, d: int, points: int, layers: int, width: int, heads: int, steps: int, batch: int, lr: float,
    tested_on: int, seed: int, device: str,
) -> list[Row]:  # fmt: skip
    """One row for each layer before training and after it: `stage`, `layer`, the step of Newton's iteration and of
    gradient descent that are most alike, and how alike; and what the model as a whole is like."""
    sampler = InContext(LinearTasks(d), inputs_of(inputs, d))
    model = InContextRegressor(d, points, d_model=width, num_layers=layers, num_heads=heads).to(device)
    rows = _layers(model, sampler, points, tested_on, seed, "at first")
    train(model, lambda g: sampler.sample(batch, points, generator=g), steps=steps, seed=seed, loss=prefix_mse, lr=lr)
    weights = _weights(model.eval(), sampler, points, tested_on // 32, seed)
    return rows + [row | weights for row in _layers(model, sampler, points, tested_on, seed, "trained")]


def _weights(model: InContextRegressor, sampler: InContext, points: int, prompts: int, seed: int) -> Row:
    """How alike the weights that a model induces are to those of learners; each takes many calls of the model."""
    fresh = torch.Generator(next(model.parameters()).device).manual_seed(2**41 + seed)
    p = sampler.sample(prompts, points, generator=fresh)
    own = induced_weights(model, p.xs, p.ys, num_probes=2 * p.xs.shape[-1], generator=fresh)
    return {
        "weights_like_ols": similarity_of_induced_weights(own, OLS().weights(p.xs, p.ys)),
        "weights_like_online": similarity_of_induced_weights(own, OnlineGD().weights(p.xs, p.ys)),
    }


def _layers(
    model: InContextRegressor, sampler: InContext, points: int, tested_on: int, seed: int, stage: str
) -> list[Row]:
    fresh = torch.Generator(next(model.parameters()).device).manual_seed(2**40 + seed)
    probes = train_layer_probes(model, sampler.sample(2 * tested_on, points, generator=fresh))
    p = sampler.sample(tested_on, points, generator=fresh)

    def errors(answers: Tensor) -> Tensor:
        return (answers - p.ys)[..., 1:]

    layers = errors(probes.predict_prefixes(p.xs, p.ys))
    newton = match_algorithm_steps(layers, errors(newton_predictions(p.xs, p.ys, NEWTON_STEPS)), NEWTON_STEPS)
    descents = errors(gd_predictions(p.xs, p.ys, GD_STEPS, lr=safe_rate(p.xs)))
    gd = match_algorithm_steps(layers, descents, GD_STEPS)

    own = prefix_errors(model, p)
    whole = {
        "stage": stage, "own_error": own[:, -1].square().mean().item() / p.xs.shape[-1],
        "gd_error": descents[GD_STEPS.index(1024), :, -1].square().mean().item() / p.xs.shape[-1],
        "like_ols": similarity_of_errors(own, prefix_errors(OLS(), p)),
        "like_online": similarity_of_errors(own, prefix_errors(OnlineGD(), p)),
    }  # fmt: skip
    return [
        whole | {
            "layer": i + 1, "newton": int(newton.steps[i]), "newton_similarity": newton.similarity[i].item(),
            "gd": int(gd.steps[i]), "gd_similarity": gd.similarity[i].item(),
            "error": layers[i].square().mean().item() / p.xs.shape[-1],
        }
        for i in range(len(layers))
    ]  # fmt: skip
