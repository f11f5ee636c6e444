"""Layers of `icl_linear_attention_h3`, trained on fresh prompts."""

from __future__ import annotations

import torch

from assay.data.in_context import GaussianInputs, InContext
from assay.data.in_context_tasks import LinearTasks
from assay.icl.linear_layers import H3Layer, LinearAttention, query_mse
from assay.lab import Row
from assay.lab.training import train
from assay.studies.attention_theory._h3_risks import RHO, drift_risks
from assay.theory.linear_risks import icl_linear_risk


def trained_layers(
    *, layer: str, tasks: str, d: int, n: int, noise: float, steps: int, batch: int, lr: float, seed: int, device: str
) -> Row:
    """The risk of one layer, trained with Adam, on 100,000 new prompts, and the best risks by formula. `tasks`: "one"
    for the whole prompt, or "drifting"."""
    sampler = InContext(LinearTasks(d, rho=RHO if tasks == "drifting" else None), GaussianInputs(), noise=noise)
    model = (LinearAttention(d) if layer == "attention" else H3Layer(d, n + 1)).to(device)
    train(
        model,
        lambda generator: sampler.sample(batch, n + 1, generator=generator),
        steps=steps,
        seed=seed,
        loss=query_mse,
        lr=lr,
        weight_decay=0.0,
    )
    generator = torch.Generator(device).manual_seed(10**6 + seed)
    with torch.no_grad():
        squares = [query_mse(model, sampler.sample(20_000, n + 1, generator=generator)).item() for _ in range(5)]
    if tasks == "drifting":
        best = drift_risks(d, n, RHO, noise)
        equal, weighted = best.equal, best.weighted
    else:
        equal = weighted = icl_linear_risk(torch.eye(d), torch.eye(d), n, noise).risk
    return {"layer": layer, "tasks": tasks, "risk": sum(squares) / 5, "equal": equal, "weighted": weighted}
